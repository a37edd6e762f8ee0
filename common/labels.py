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

    Both write 1 for necrotic core and 2 for oedema; enhancing tumour is 4 up to BraTS 2021 and
    3 since. The canonical labels of this project are those of 2023.
    """

    BRATS_2021 = "brats2021"
    BRATS_2023 = "brats2023"

    @property
    def enhancing(self) -> int:
        """The value that files of this convention write for enhancing tumour."""
        return 4 if self is Convention.BRATS_2021 else 3

    @property
    def values(self) -> frozenset[int]:
        """Every value that files of this convention may hold."""
        return frozenset((0, 1, 2, self.enhancing))


def conventions_of(values: Iterable[int]) -> set[Convention]:
    """Conventions whose files may hold exactly these values: none, one, or both."""
    found = set(values)
    return {convention for convention in Convention if found <= convention.values}


def to_canonical(values: NDArray[np.generic], convention: Convention) -> NDArray[np.uint8]:
    """File values of `convention` to canonical labels 0, 1, 2, 3; the shape stays."""
    label = values.astype(np.uint8)
    if convention.enhancing != 3:
        label[label == convention.enhancing] = 3
    return label


def from_canonical(label: NDArray[np.uint8], convention: Convention) -> NDArray[np.uint8]:
    """Canonical labels to the file values of `convention`: inverse of `to_canonical`."""
    values = label.copy()
    if convention.enhancing != 3:
        values[values == 3] = convention.enhancing
    return values


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
    counts = np.bincount(label.ravel(), minlength=4)
    return {region: int(sum(counts[v] for v in REGION_LABELS[region])) for region in REGIONS}
