"""Cases with something odd about them, made for the tables of odd inputs."""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from cases import SHAPE
from cases import make_files as arrays
from numpy.typing import NDArray

from common import nifti
from common.geometry import Geometry

PLAIN = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
NAMES = ("flair", "t1", "t1ce", "t2", "seg")
Array = NDArray[np.generic]
Build = Callable[[Path], object]
"""Makes a folder of cases with something odd about it."""


def written(
    data: Path,
    files: dict[str, Array],
    grids: dict[str, Geometry] | None = None,
    case_id: str = "odd",
) -> Path:
    folder = data / case_id
    folder.mkdir(parents=True, exist_ok=True)
    for name, voxels in files.items():
        path = folder / f"{case_id}_{name}.nii.gz"
        nifti.write(path, voxels, (grids or {}).get(name, PLAIN))
    return folder


def with_arrays(**changes: Callable[[dict[str, Array]], Array]) -> Build:
    """One case, some of whose arrays are made of the good ones."""
    return lambda data: written(data, arrays() | {n: f(arrays()) for n, f in changes.items()})


def with_grids(grids: dict[str, Geometry]) -> Build:
    """One case, some of whose files say that they are elsewhere."""
    return lambda data: written(data, arrays(), grids)


def everywhere(grid: Geometry) -> Build:
    """One case, all of it on this grid."""
    return lambda data: written(data, arrays(), dict.fromkeys(NAMES, grid))


def with_bytes(name: str, change: Callable[[bytes], bytes], *, unzipped: bool = False) -> Build:
    """One case, the bytes of one of whose files are changed."""

    def build(data: Path) -> None:
        path = written(data, arrays()) / f"odd_{name}.nii.gz"
        content = path.read_bytes()
        if unzipped:
            path.write_bytes(gzip.compress(change(gzip.decompress(content))))
        else:
            path.write_bytes(change(content))

    return build


def with_header(offset: int, kind: str, *values: float, names: tuple[str, ...] = ("t1",)) -> Build:
    """One case, some of whose headers hold other values at an offset."""

    def build(data: Path) -> None:
        folder = written(data, arrays())
        for name in names:
            path = folder / f"odd_{name}.nii.gz"
            content = bytearray(gzip.decompress(path.read_bytes()))
            struct.pack_into(f"<{len(values)}{kind}", content, offset, *values)
            path.write_bytes(gzip.compress(bytes(content)))

    return build


AXES, SIZES, TYPE, SIGN, SPACINGS, CODES, QFORM, ROWS = 40, 42, 70, 76, 80, 252, 256, 280
"""Offsets in a NIfTI-1 header."""


def with_nibabel(name: str, image: Callable[[Array], nibabel.spatialimages.SpatialImage]) -> Build:
    """One case, one of whose files is written by nibabel."""

    def build(data: Path) -> None:
        folder = written(data, arrays())
        nibabel.save(image(arrays()[name].T), folder / f"odd_{name}.nii.gz")

    return build


def with_files(**contents: bytes) -> Build:
    """A good case, and further files beside it: `__` in a name stands for a dot."""

    def build(data: Path) -> None:
        folder = written(data, arrays())
        for name, content in contents.items():
            (folder / name.replace("__", ".")).write_bytes(content)

    return build


def renamed(old: str, new: str) -> Build:
    return lambda data: (written(data, arrays()) / old).rename(data / "odd" / new)


def no_file(name: str, make: Callable[[Path], object]) -> Build:
    """One case, in the place of one of whose files something else is made."""

    def build(data: Path) -> None:
        path = written(data, arrays()) / f"odd_{name}.nii.gz"
        path.unlink()
        make(path)

    return build


def without(*names: str) -> Build:
    return lambda data: written(data, {n: v for n, v in arrays().items() if n not in names})


def copied(source: str, *targets: str) -> Build:
    """A case and copies of one of its files."""

    def build(data: Path) -> None:
        folder = written(data, arrays())
        for target in targets:
            (data / target).parent.mkdir(parents=True, exist_ok=True)
            (data / target).write_bytes((folder / source).read_bytes())

    return build


def stacked(channels: int | None = 4, *, images: bool = True, name: str = "BRATS_001") -> Build:
    """A case of the Decathlon's layout."""

    def build(data: Path) -> None:
        for folder in ("imagesTr", "labelsTr"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        files = [arrays()[n] for n in NAMES[:4]]
        voxels = np.stack((files * 2)[:channels]) if channels else files[0]
        if images:
            nibabel.save(
                nibabel.Nifti1Image(voxels.T, np.diag([-1, -1, 1, 1])),
                data / "imagesTr" / f"{name}.nii.gz",
            )
        label = np.where(arrays()["seg"] == 4, 3, arrays()["seg"]).astype(np.uint8)
        nifti.write(
            data / "labelsTr" / f"{name}.nii.gz", label, Geometry(SHAPE, (1, 1, 1), (0, 0, 0))
        )

    return build


def with_dataset(**content: object) -> Build:
    """The same, with a dataset.json."""

    def build(data: Path) -> None:
        stacked()(data)
        (data / "dataset.json").write_text(json.dumps(content))

    return build


def several(*cases: tuple[str, int, int]) -> Build:
    """Cases of an id, a seed of their images and a value for enhancing tumour."""

    def build(data: Path) -> None:
        for case_id, seed, enhancing in cases:
            files = arrays(seed)
            files["seg"] = np.where(files["seg"] == 4, enhancing, files["seg"]).astype(np.uint8)
            written(data, files, case_id=case_id)

    return build


def reordered(*case_ids: str) -> Build:
    """Cases whose labels are in another order."""

    def build(data: Path) -> None:
        for seed, case_id in enumerate(case_ids):
            files = arrays(seed)
            written(data, files | {"seg": another_order(files)}, case_id=case_id)

    return build


def both_three_and_four(data: Path) -> None:
    """Two cases, of which the first has all values up to 4."""
    for seed, case_id in enumerate("ab"):
        files = arrays(seed)
        if case_id == "a":
            files["seg"][files["seg"] == 1] = 3
        written(data, files, case_id=case_id)


def cut(build: Build, case_id: str) -> Build:
    """Cases, of which one has a file that ends early."""

    def build_and_cut(data: Path) -> None:
        build(data)
        path = data / case_id / f"{case_id}_t1.nii.gz"
        path.write_bytes(path.read_bytes()[:-40])

    return build_and_cut


def flipped(voxels: Array) -> Array:
    """The voxels as RAS+ has them, where PLAIN is LPS."""
    return np.ascontiguousarray(np.flip(voxels, (1, 2)))


RAS = Geometry(SHAPE, (1.0, 1.0, 1.0), (23.0, 0.0, 0.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))


def turned(*names: str) -> Build:
    """One case, some of whose files are stored as RAS+; all are of one place."""

    def build(data: Path) -> None:
        files = {n: flipped(v) if n in names else v for n, v in arrays().items()}
        written(data, files, dict.fromkeys(names, RAS))

    return build


def tilt(degrees: float) -> Geometry:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return Geometry(SHAPE, (1.0, 1.0, 1.0), (0, 0, 0), (cos, -sin, 0, sin, cos, 0, 0, 0, 1))


def spaced(*spacing_mm: float) -> Geometry:
    z, y, x = spacing_mm
    return Geometry(SHAPE, (z, y, x), (0.0, 0.0, 0.0))


def thin(data: Path) -> None:
    files = arrays()
    for name in NAMES[:4]:
        line = np.zeros_like(files[name])
        line[:, 12, 11] = files[name][:, 12, 12]
        files[name] = line
    files["seg"][:] = 0
    written(data, files, dict.fromkeys(NAMES, spaced(1.0, 0.35, 0.35)))


def binary(files: dict[str, Array]) -> Array:
    return (files["seg"] > 0).astype(np.uint8)


def noisy(files: dict[str, Array]) -> Array:
    """A brain in the noise of air."""
    noise = np.random.default_rng(1).integers(1, 30, SHAPE).astype(np.int16)
    return np.where(files["t2"], files["t2"], noise)


def head(data: Path) -> None:
    """A case whose images are 2.7 l large."""
    inside = np.pad(np.ones((140, 140, 140), np.int16), 6)
    noise = np.random.default_rng(0).integers(50, 900, (4, 1, *inside.shape[1:]))
    files = {name: (inside * noise[n]).astype(np.int16) for n, name in enumerate(NAMES[:4])}
    grid = Geometry(inside.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    label = np.zeros(inside.shape, np.uint8)
    label[70, 70, 70:73] = 1, 2, 4
    written(data, files | {"seg": label}, dict.fromkeys(NAMES, grid))


def another_order(files: dict[str, Array]) -> Array:
    """Oedema as 1 around enhancing tumour as 4 and a core of 2."""
    label = np.zeros_like(files["seg"])
    for value, margin in ((1, 5), (4, 6), (2, 8)):
        label[margin:-margin, margin:-margin, margin:-margin] = value
    return np.where(files["flair"] != 0, label, 0)


def as_float(name: str, value: float) -> Callable[[dict[str, Array]], Array]:
    def change(files: dict[str, Array]) -> Array:
        voxels = files[name].astype(np.float64)
        voxels[10, 13, 10:13] = value
        return voxels

    return change
