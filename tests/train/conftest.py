"""Small stores of synthetic cases, made through the doors of `common`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import begun
from slurm_cluster import running_slurm, slurm

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.geometry import Geometry
from common.manifest import Manifest
from common.splits import ListSplits
from common.store import Store, StoreWriter
from common.task import GLIOMA, MODALITIES, Task
from train.config import TrainConfig
from train.loaded_run import LoadedRun
from train.precision import choose_compute
from train.run import execute
from train.trainer import End

__all__ = ["running_slurm", "slurm"]

# On tensors as small as these, threads cost more than they give; on busy cores 30 times more.
torch.set_num_threads(1)

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


@pytest.fixture(scope="session")
def five(make_store: MakeStore) -> Store:
    """Five cases to train on, which batches of two do not divide, and one to validate."""
    return make_store(splits=ListSplits(kind="lists", train=tuple(IDS[:5]), val=(IDS[5],)))


@pytest.fixture(scope="session")
def at_once(five: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs without a break."""
    folder = tmp_path_factory.mktemp("runs") / "at-once"
    assert execute(begun(five, folder, "epochs=4")) is End.EPOCHS
    return folder


def code_length(task: Task) -> int:
    """Bits that hold every label of a task: as many of its images are bright where a bit is set."""
    return max(task.labels.values()).bit_length()


class Copy(torch.nn.Module):
    """A network that reads a coded case's labels from its images: its prediction is perfect.

    Args:
        task: the case's.
        sees: the modalities of its input, in this order.
    """

    def __init__(self, task: Task, sees: Sequence[str]) -> None:
        super().__init__()
        self.rows = [sees.index(name) for name in task.modalities[: code_length(task)]]
        self.regions = task.regions.values()

    def forward(self, tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
        label = sum((tiles[:, row] > 0).int() << bit for bit, row in enumerate(self.rows))
        masks = [torch.isin(label, torch.tensor(members)) for members in self.regions]
        return (2.0 * torch.stack(masks, dim=1) - 1,)


WriteCoded = Callable[..., None]


@pytest.fixture(scope="session")
def write_coded_case() -> WriteCoded:
    """Writes a case whose images say its label.

    The first image is bright where the label's first bit is set, the second where the second is;
    normalised, that is above 0 there and below elsewhere in the brain.
    """

    def write(
        folder: Path,
        label: np.ndarray,
        brain: np.ndarray,
        geometry: Geometry,
        *,
        task: Task = GLIOMA,
        convention: str = "brats2021",
        endings: Sequence[str] = (),
        labelled: bool = True,
    ) -> None:
        """Canonical labels and the brain's mask, both in the file's own grid."""
        folder.mkdir(parents=True)
        label = label.astype(np.uint8)
        chequered = np.indices(label.shape).sum(axis=0) % 2
        for index, ending in enumerate(endings or task.modalities):
            bright = label >> index & 1 if index < code_length(task) else chequered
            image = ((100 + 100 * bright) * brain).astype(np.int16)
            nifti.write(folder / f"{folder.name}_{ending}.nii.gz", image, geometry)
        if labelled:
            values = task.from_canonical(label, convention)
            nifti.write(folder / f"{folder.name}_seg.nii.gz", values, geometry)

    return write


@pytest.fixture
def copying(tmp_path: Path) -> Callable[..., LoadedRun]:
    """Makes a run whose network reads coded cases; keywords are its manifest's."""

    def make(*, sees: Sequence[str] = (), **settings: object) -> LoadedRun:
        manifest = Manifest.model_validate({"crop": (16, 16, 16)} | settings)
        sees = sees or manifest.task.modalities
        config = TrainConfig.model_validate({"modalities": sees})
        compute = choose_compute("cpu", "fp32")
        model = Copy(manifest.task, sees)
        return LoadedRun(model, config, manifest, compute, tmp_path / "run", "best", 1)

    return make
