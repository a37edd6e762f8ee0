"""Stores of a cohort, without a cluster."""

from pathlib import Path

from common.case import prepare
from common.manifest import load_manifest
from common.store import StoreWriter
from preprocess.pipeline import begin
from preprocess.plan import plan


def preprocess(data: Path, path: Path) -> StoreWriter:
    """What a run does, in this process and without a cluster."""
    work = plan(data, str(path), load_manifest(data / "data_manifest.yaml"))
    store = begin(work)
    for case, row in zip(work.todo, store.allocate(len(work.todo)), strict=True):
        store.write(prepare(case, store.manifest), row)
    return store
