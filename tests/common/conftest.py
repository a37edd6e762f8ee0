"""Small cases on disk, made through `common` alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common import nifti
from common.geometry import Geometry

Files = dict[str, NDArray[Any]]

SHAPE = (20, 26, 24)


def make_files(seed: int = 0, *, enhancing: int = 4) -> Files:
    """Four contrasts of an ellipsoid of noise, and a tumour of all three labels in it."""
    generator = np.random.default_rng(seed)
    z, y, x = np.ogrid[:20, :26, :24]
    brain = ((z - 10) / 8) ** 2 + ((y - 13) / 11) ** 2 + ((x - 12) / 10) ** 2 < 1
    distance = (z - 10) ** 2 + (y - 10) ** 2 + (x - 9) ** 2
    label = np.select([distance < 3, distance < 6, distance < 14], [1, enhancing, 2], 0)
    names = ("flair", "t1", "t1ce", "t2")
    images = {name: (generator.integers(50, 900, SHAPE) * brain).astype(np.int16) for name in names}
    return images | {"seg": (label * brain).astype(np.uint8)}


@pytest.fixture
def files() -> Files:
    """The arrays of one case by 2021's name endings, to change before they are written."""
    return make_files()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the files of one case, named `<case><joint><ending>.nii.gz`, below `tmp_path`/data."""

    def make(
        files: Files,
        case_id: str = "case",
        *,
        joint: str = "_",
        geometry: Geometry | None = None,
        geometries: dict[str, Geometry] | None = None,
    ) -> Path:
        folder = tmp_path / "data" / case_id
        folder.mkdir(parents=True)
        for ending, voxels in files.items():
            plain = Geometry(voxels.shape, (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
            grid = (geometries or {}).get(ending, geometry or plain)
            nifti.write(folder / f"{case_id}{joint}{ending}.nii.gz", voxels, grid)
        return folder

    return make
