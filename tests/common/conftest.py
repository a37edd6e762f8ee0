"""Small cases on disk, made through `common` alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cases import Files, make_files

from common import nifti
from common.geometry import Geometry


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
