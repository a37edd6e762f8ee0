"""Prepared cases and stores of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cases import make_files

from common import nifti
from common.case import PreparedCase, prepare
from common.discovery import discover
from common.geometry import Geometry
from common.manifest import Manifest
from common.splits import ListSplits
from common.store import StoreWriter

SHAPE = (40, 26, 24)
MANIFEST = Manifest(
    crop=(24, 16, 16),
    splits=ListSplits(kind="lists", train=("one", "two"), val=("three",), test=("four",)),
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four labelled cases and one without a label."""
    folder = tmp_path_factory.mktemp("data")
    geometry = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
    for seed, case_id in enumerate(("one", "two", "three", "four", "unlabelled")):
        (folder / case_id).mkdir()
        for name, voxels in make_files(seed, SHAPE).items():
            if (case_id, name) != ("unlabelled", "seg"):
                nifti.write(folder / case_id / f"{case_id}_{name}.nii.gz", voxels, geometry)
    return folder


@pytest.fixture(scope="session")
def cases(data: Path) -> dict[str, PreparedCase]:
    """The prepared cases by id."""
    found = discover(data, MANIFEST).cases
    return {files.case_id: prepare(files, MANIFEST) for files in found}


@pytest.fixture
def make_store(tmp_path: Path, cases: dict[str, PreparedCase]) -> Callable[..., StoreWriter]:
    """Makes a store of some of the cases, or of all."""

    def make(*ids: str, path: Path | None = None, **changes: object) -> StoreWriter:
        chosen = ids or tuple(cases)
        manifest = MANIFEST.model_copy(update=changes)
        store = StoreWriter.create(path or tmp_path / "s.zarr", manifest, chosen)
        for case_id, row in zip(chosen, store.allocate(len(chosen)), strict=True):
            store.write(cases[case_id], row)
        return store

    return make
