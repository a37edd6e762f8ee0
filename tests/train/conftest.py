"""Small stores of synthetic cases, made through the doors of `common`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common import nifti
from common.case import prepare
from common.labels import MODALITIES
from common.layout import discover
from common.manifest import Manifest
from common.nifti import Geometry
from common.splits import ListSplits
from common.store import Store, StoreWriter

SHAPE = (20, 26, 24)
IDS = [f"BraTS2021_{index:05d}" for index in range(6)]


def write_case(folder: Path, case_id: str, seed: int) -> None:
    """One case: an ellipsoid of noise with a brighter tumour of all three labels."""
    generator = np.random.default_rng(seed)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    brain = ((z - 10) / 8) ** 2 + ((y - 13) / 11) ** 2 + ((x - 12) / 10) ** 2 < 1
    distance = (z - 10) ** 2 + (y - 10) ** 2 + (x - 9 - seed % 3) ** 2
    label = np.select([distance < 3, distance < 6, distance < 14], [1, 4, 2], 0) * brain
    geometry = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
    (folder / case_id).mkdir(parents=True)
    for modality in MODALITIES:
        image = (generator.integers(50, 900, SHAPE) + 500 * (label > 0)) * brain
        path = folder / case_id / f"{case_id}_{modality}.nii.gz"
        nifti.write(path, image.astype(np.int16), geometry)
    path = folder / case_id / f"{case_id}_seg.nii.gz"
    nifti.write(path, label.astype(np.uint8), geometry)


MakeStore = Callable[..., Store]


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Makes a store of its own, to be changed at will; keywords are the manifest's."""
    data = tmp_path_factory.mktemp("data")
    for seed, case_id in enumerate(IDS):
        write_case(data, case_id, seed)

    def make(**settings: object) -> Store:
        splits = ListSplits(kind="lists", train=tuple(IDS[:4]), val=(IDS[4],), test=(IDS[5],))
        manifest = Manifest.model_validate({"crop": (16, 16, 16), "splits": splits} | settings)
        cases = discover(data, manifest).cases
        path = tmp_path_factory.mktemp("store") / "cases.zarr"
        writer = StoreWriter.create(path, manifest, tuple(case.case_id for case in cases))
        for case, row in zip(cases, writer.allocate(len(cases)), strict=True):
            writer.write(prepare(case, manifest), row)
        return Store.open(path)

    return make


@pytest.fixture(scope="session")
def store(make_store: MakeStore) -> Store:
    """A labelled store that is only read: crop 16×16×16; four cases train, one val, one test."""
    return make_store()
