"""Runs of a small network, begun and compared."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.store import Store
from train import trainer
from train.checkpoint import load
from train.data.augment import AUGMENTATIONS
from train.data.loader import open_feed
from train.monitor import Monitor
from train.run import begin
from train.run_folder import RunFile, SessionRecord, write_run_file
from train.session import Session, save
from train.trainer import End

SMALL = [
    "model.widths=[4,6,8]",
    "device=cpu",
    "precision=fp32",
    "workers=1",
    "batch_size=2",
    "epochs=2",
    *(f"augment.{name}.probability=0.5" for name in AUGMENTATIONS),
]
SESSION = SessionRecord(
    started="2026-01-01T00:00:00+00:00",
    command="fmnet-train run",
    epoch=1,
    compute="CPU",
    loader="torch",
    workers=1,
    cache="none",
    versions={},
)
TINY = ("model.widths=[4,8]", "model.heads=1", "model.bottleneck=0", "device=cpu", "precision=fp32")
TIMINGS = {
    "seconds",
    "volumes_per_second",
    "wait_share",
    "validation_seconds",
    "peak_memory_gb",
}


def begun(store: Store, folder: Path, *overrides: str) -> Session:
    return begin("fm_net", [*SMALL, *overrides], store, folder)


def describe_run(folder: Path, store: Store, **cases: list[str]) -> None:
    """Write a run's `run.json` with these cases in its splits, as if it had them on this store."""
    folder.mkdir(exist_ok=True)
    run = RunFile(
        preset="unet",
        seed=0,
        init=None,
        store=store.path,
        store_fingerprint=store.contents().fingerprint,
        cases={"train": [], "val": [], "test": []} | cases,
        sessions=[SESSION],
    )
    write_run_file(folder, run)


def see_voxels(model: torch.nn.Module) -> None:
    """Fresh weights predict one region everywhere; these depend on the voxel."""
    with torch.no_grad():
        model.main_head.weight *= 20
        model.main_head.bias.zero_()


def validated(store: Store, folder: Path, *overrides: str) -> Session:
    """A tiny run that has one epoch behind it and was validated after it, without training."""
    session = begin("unet", (*TINY, *overrides), store, folder)
    see_voxels(session.model)
    session.at = session.at.next_epoch()
    save(session, best=True)
    return session


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


def train_until(session: Session, steps: int, killed: Callable[[], bool] = lambda: False) -> End:
    """Train and ask for a stop after so many further steps."""
    last = session.at.step + steps
    monitor = Monitor(session, 5)
    with (
        open_feed(
            session.config.loader, session.stream(), session.compute.device, session.config.workers
        ) as batches,
        monitor,
    ):
        return trainer.train(session, batches, monitor, lambda: killed() or session.at.step >= last)


def assert_equal_runs(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    for which in ("last", "best"):
        ours, theirs = load(one, which), load(other, which)
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, tensor in ours.tensors.items():
            assert torch.equal(tensor, theirs.tensors[name]), (which, name)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "train", *map(str, arguments)]
