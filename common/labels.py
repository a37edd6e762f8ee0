"""Modalities, label values and regions, and the maps between them."""

from collections.abc import Iterable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

MODALITIES = ("flair", "t1", "t1ce", "t2")
"""Channel order of every image array in the project."""

REGIONS = ("wt", "tc", "et")
"""Whole tumour, tumour core, enhancing tumour: the order of the network's outputs."""

REGION_LABELS = {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,)}
"""Canonical label values that make each region (paper sec. III)."""


class Convention(StrEnum):
    """How a release writes its label files.

    The canonical labels of this project are those of BraTS 2023. Up to 2021 enhancing tumour was
    4. The Medical Segmentation Decathlon (Task01_BrainTumour, made of BraTS 2016 and 2017) has 1
    and 2 the other way round: its dataset.json calls 1 oedema, 2 non-enhancing and 3 enhancing
    tumour. Its values are those of 2023, so that only the layout of its files can tell.
    """

    BRATS_2021 = "brats2021"
    BRATS_2023 = "brats2023"
    MSD = "msd"

    @property
    def tissues(self) -> tuple[int, int, int]:
        """The values of necrotic core, oedema and enhancing tumour: canonical labels 1, 2, 3."""
        return _TISSUES[self]

    @property
    def enhancing(self) -> int:
        """The value that files of this convention write for enhancing tumour."""
        return self.tissues[2]

    @property
    def values(self) -> frozenset[int]:
        """Every value that files of this convention may hold."""
        return frozenset((0, *self.tissues))


_TISSUES = {
    Convention.BRATS_2021: (1, 2, 4),
    Convention.BRATS_2023: (1, 2, 3),
    Convention.MSD: (2, 1, 3),
}


def conventions_of(values: Iterable[int]) -> set[Convention]:
    """Conventions whose files may hold exactly these values."""
    found = set(values)
    return {convention for convention in Convention if found <= convention.values}


def to_canonical(values: NDArray[np.generic], convention: Convention) -> NDArray[np.uint8]:
    """File values of `convention` to canonical labels 0, 1, 2, 3; the shape stays."""
    return _renamed(values.astype(np.uint8), convention.tissues, (1, 2, 3))


def from_canonical(label: NDArray[np.uint8], convention: Convention) -> NDArray[np.uint8]:
    """Canonical labels to the file values of `convention`: inverse of `to_canonical`."""
    return _renamed(label.copy(), (1, 2, 3), convention.tissues)


def _renamed(
    label: NDArray[np.uint8], old: tuple[int, ...], new: tuple[int, ...]
) -> NDArray[np.uint8]:
    """In place, each old value for its new one: all are found before any is changed."""
    moved = [
        (label == was, becomes) for was, becomes in zip(old, new, strict=True) if was != becomes
    ]
    for where, value in moved:
        np.copyto(label, np.uint8(value), where=where)
    return label


def to_regions(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Canonical labels of shape S to region masks of shape (3, *S), in the order of REGIONS."""
    return np.stack([np.isin(label, REGION_LABELS[region]) for region in REGIONS])


def from_regions(regions: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Region masks (3, *S) to canonical labels of shape S: inverse of `to_regions`.

    Predicted regions need not be nested; each is cut to the one around it, so a voxel outside
    WT is background whatever TC and ET say.
    """
    whole, core, enhancing = regions
    label = np.zeros(whole.shape, np.uint8)
    label[whole] = 2
    label[whole & core] = 1
    label[whole & core & enhancing] = 3
    return label


def region_voxels(label: NDArray[np.uint8]) -> dict[str, int]:
    """Voxels per region of a canonical label array."""
    counts = {value: int(np.count_nonzero(label == value)) for value in REGION_LABELS["wt"]}
    return {region: sum(counts[v] for v in REGION_LABELS[region]) for region in REGIONS}
