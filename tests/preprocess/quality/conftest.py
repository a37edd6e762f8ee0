"""Small heads with one fault each, stored and looked at once for all tests of the report."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.geometry import Geometry
from common.manifest import Manifest
from common.record import CaseFailure
from common.splits import ListSplits
from common.store import Store, StoreWriter
from preprocess import quality
from preprocess.quality.rules import Cohort

SHAPE = (40, 48, 44)
PLAIN = [f"plain-{index:02d}" for index in range(11)]
CORNER = (slice(0, 4), slice(0, 4), slice(0, 4))
"""Outside the box around the brain."""
BESIDE = (slice(33, 36), slice(8, 11), slice(6, 9))
"""Inside that box, but not in the brain."""

Files = dict[str, NDArray[np.generic]]
Edit = Callable[[Files], Files]


def head(seed: int) -> Files:
    """Four contrasts of one asymmetrical anatomy, and a tumour on the patient's right."""
    generator = np.random.default_rng(seed)
    z, y, x = np.ogrid[:40, :48, :44]
    brain = ((z - 20) / 15) ** 2 + ((y - 24) / 19) ** 2 + ((x - 22) / 17) ** 2 < 1
    tissue = gaussian_filter(generator.normal(size=SHAPE), 2.5)
    tissue /= tissue.std()
    distance = np.sqrt((z - 26) ** 2 + (y - 18) ** 2 + (x - 14) ** 2) / generator.uniform(
        0.97, 1.03
    )
    label = np.select([distance < 3, distance < 5, distance < 7.5], [1, 4, 2], 0)
    contrasts = {
        "flair": 500 + 60 * tissue + 250 * (label > 0),
        "t1": 700 - 90 * tissue,
        "t1ce": 700 - 80 * tissue + 400 * (label == 4),
        "t2": 400 + 70 * np.abs(tissue) + 150 * (label > 0),
    }
    noise = {name: generator.normal(0, 8, SHAPE) for name in contrasts}
    images = {n: ((c + noise[n]).clip(1) * brain).astype(np.int16) for n, c in contrasts.items()}
    return images | {"seg": (label * brain).astype(np.uint8)}


def only(name: str, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Edit:
    return lambda files: files | {name: change(files[name])}


def every(change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Edit:
    return lambda files: {name: change(voxels) for name, voxels in files.items()}


def with_value(where: tuple[object, ...], value: int) -> Callable[..., NDArray[np.generic]]:
    def change(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
        changed = voxels.copy()
        changed[where] = value
        return changed

    return change


EDITS: dict[str, Edit] = {
    "mirrored-mask": only("seg", lambda a: a[..., ::-1]),
    "mirrored-t2": only("t2", lambda a: a[..., ::-1]),
    "reordered": only("seg", lambda a: np.choose(a, [0, 1, 4, 3, 2])),
    "empty": only("seg", lambda a: a * 0),
    "tiny": only("seg", lambda a: 2 * (a == 1)),
    "huge": only("seg", lambda a: np.where(head(99)["t1"] > 0, 2, 0)),
    "quantised": only("t1ce", lambda a: a // 40 * 40),
    "negative": only("t1", lambda a: np.where(a > 0, a - 600, 0)),
    "hot": only("flair", with_value((20, 24, 22), 30000)),
    "slab": only("t2", with_value((slice(0, 14),), 0)),
    "cut": every(lambda a: a[12:]),
    "stray": only("seg", with_value(CORNER, 2)),
    "beside": only("seg", with_value(BESIDE, 2)),
    "BraTS-GLI-00000-000": only("seg", lambda a: np.where(a == 4, 3, a)),
    "no-et": only("seg", lambda a: np.where(a == 4, 2, a)),
    "<img src=x onerror=alert(1)>": every(lambda a: a),
}
"""Case id to what is done to its files."""


def write_head(folder: Path, case_id: str, files: Files, geometry: Geometry | None = None) -> None:
    (folder / case_id).mkdir(parents=True)
    for name, voxels in files.items():
        shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
        grid = geometry or Geometry(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        kind = np.uint8 if name == "seg" else np.int16
        path = folder / case_id / f"{case_id}_{name}.nii.gz"
        nifti.write(path, np.ascontiguousarray(voxels.astype(kind)), grid)


@pytest.fixture(scope="session")
def make_store() -> Callable[..., StoreWriter]:
    """Stores the cases of a folder; a case called `not-tried` is expected besides."""

    def make(data: Path, path: Path, **settings: object) -> StoreWriter:
        manifest = Manifest(crop=(24, 24, 24), **settings)
        cases = discover(data, manifest).cases
        expected = tuple(case.case_id for case in cases)
        store = StoreWriter.create(path, manifest, (*expected, "not-tried"))
        for case, row in zip(cases, store.allocate(len(cases)), strict=True):
            store.write(prepare(case, manifest), row)
        return store

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, case_id in enumerate(PLAIN):
        write_head(folder, case_id, head(seed))
    for seed, (case_id, edit) in enumerate(EDITS.items(), 20):
        write_head(folder, case_id, edit(head(seed)))
    thick = {name: voxels[::2] for name, voxels in head(50).items()}
    write_head(folder, "thick", thick, Geometry((20, 48, 44), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    turned = {name: voxels[:, ::-1, ::-1] for name, voxels in head(51).items()}
    axes = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    write_head(folder, "turned", turned, Geometry(SHAPE, (1.0, 1.0, 1.0), (43.0, 47.0, 0.0), axes))
    unlabelled = head(52)
    del unlabelled["seg"]
    write_head(folder, "unlabelled", unlabelled)
    for name, first in (("twin", "plain-00"), ("copy", "plain-01")):
        shutil.copytree(folder / first, folder / name)
        for file in (folder / name).iterdir():
            file.rename(file.with_name(file.name.replace(first, name)))
    write_head(folder, "doubled", head(53))
    shutil.copy(folder / "doubled/doubled_t1.nii.gz", folder / "doubled/doubled_t1ce.nii.gz")
    write_head(folder, "damaged", head(54))
    return folder


@pytest.fixture(scope="session")
def store(
    data: Path, make_store: Callable[..., StoreWriter], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    path = tmp_path_factory.mktemp("store") / "heads.zarr"
    splits = ListSplits(kind="lists", train=tuple(PLAIN), val=("twin",), test=("stray",))
    written = make_store(data, path, splits=splits, name="heads")
    reason = "</script><script>alert(1)</script> out of memory"
    written.set_aside(
        CaseFailure(case_id="failed", stage="prepare", reason=reason, peak_memory_mb=1234.5)
    )
    shard = next(file for file in (path / "cases/damaged/image/c").rglob("*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[:-200])
    return Store.open(path)


@pytest.fixture(scope="session")
def cohort(store: Store) -> Cohort:
    return quality.measure_cohort(store, store.contents(), workers=2, on_case=lambda: None)


@pytest.fixture(scope="session")
def page_path(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "heads-quality.html"
    quality.write(cohort, path)
    return path
