"""Synthetic cases, for measuring without real ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.geometry import Geometry
from common.manifest import Manifest
from common.splits import ListSplits
from common.store import Store, StoreWriter
from common.task import MODALITIES
from common.volume import Triple

NAME = "synthetic"
CASES = 5
"""One of them for validation, which every run needs."""
NOISE = 0.04
"""Relative to the brain's intensity; with it crops compress about as well as those of BraTS."""


def synthetic_store(folder: Path, side: int) -> Store:
    """Make a store in an empty folder, with crops of `side`³ voxels, filled as much as BraTS's."""
    ids = tuple(f"BraTS-SYNTHETIC-{index:05d}" for index in range(CASES))
    manifest = Manifest(
        name=NAME,
        crop=(side, side, side),
        splits=ListSplits(kind="lists", train=ids[1:], val=ids[:1], test=()),
    )
    shape = (round(1.1 * side), round(1.4 * side), round(1.1 * side))
    for seed, case_id in enumerate(ids):
        write_case(folder / "cases" / case_id, shape, [seed])
    cases = discover(folder / "cases", manifest).cases
    writer = StoreWriter.create(folder / "synthetic.zarr", manifest, ids)
    for case, row in zip(cases, writer.allocate(len(cases)), strict=True):
        writer.write(prepare(case, manifest), row)
    return Store.open(writer.path)


def write_case(folder: Path, shape: Triple, seed: Sequence[int], suffix: str = ".nii") -> None:
    """Write a case named as its folder: an ellipsoid with a tumour of labels 1, 2 and 4."""
    random = np.random.default_rng(list(seed))
    geometry = Geometry(shape, (1.0, 1.0, 1.0), (0.0, 1.0 - shape[1], 0.0))
    centre = (0.5, 0.5, 0.5)
    brain = _distance(shape, centre, 1.0) < 1
    tumour = _distance(shape, (0.5, 0.4, 0.6), 0.35)
    label = np.select([tumour < 0.3, tumour < 0.5, tumour < 1], [1, 4, 2], 0) * brain
    folder.mkdir(parents=True, exist_ok=True)
    for contrast, modality in enumerate(MODALITIES, start=1):
        image = 400 + 300 * np.sin(contrast * _distance(shape, centre, 0.3)) + 200 * (label > 0)
        image *= 1 + NOISE * random.standard_normal(shape, np.float32)
        voxels = (np.clip(image, 1, None) * brain).astype(np.int16)
        nifti.write(folder / f"{folder.name}_{modality}{suffix}", voxels, geometry)
    nifti.write(folder / f"{folder.name}_seg{suffix}", label.astype(np.uint8), geometry)


def _distance(
    shape: Triple, centre: tuple[float, float, float], size: float
) -> NDArray[np.float32]:
    """(D, H, W) distance from a centre; 1 on the ellipsoid with so large a share of each side."""
    axes = np.ogrid[tuple(slice(0, side) for side in shape)]
    parts = [
        (2 * (axis / side - middle) / size) ** 2
        for axis, side, middle in zip(axes, shape, centre, strict=True)
    ]
    return np.sqrt(parts[0] + parts[1] + parts[2]).astype(np.float32)
