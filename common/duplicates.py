"""One image in several cases, or under several modalities, however its files are written."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.volume import extract, foreground_slabs, foreground_statistics

NO_MEAN = 1e-12
"""A mean below this share of the deviation is a rounding error: the image was normalised."""


def identity(mean: float, std: float, file: str) -> str:
    """What an image keeps in other files: mean and standard deviation of its foreground.

    Compression, type, header, axes, and what is cut from the background change neither, and six
    digits of both tell any two images apart. An image normalised in float64 has nothing left to be
    known by but its file's checksum, `file`.
    """
    return f"{mean:.6g}±{std:.6g}" if abs(mean) > NO_MEAN * std else file


def identities(
    images: Mapping[str, NDArray[np.generic]], files: Mapping[str, str]
) -> dict[str, str]:
    """Modality to identity of a case's images (D, H, W), on one grid, and their checksums."""
    slabs = foreground_slabs(images.values())
    found = {}
    for modality, voxels in images.items():
        parts = [np.ascontiguousarray(extract(voxels, slab)) for slab in slabs]
        found[modality] = identity(*foreground_statistics(parts), files[modality])
    return found


def shared_images(images: Mapping[str, Mapping[str, str]]) -> list[list[tuple[str, str]]]:
    """Groups of (case, modality) that have the same image, in the order of `images`.

    `images` maps case id to modality to identity.
    """
    owners: dict[str, list[tuple[str, str]]] = {}
    for case_id, of_case in images.items():
        for modality, image in of_case.items():
            owners.setdefault(image, []).append((case_id, modality))
    return [group for group in owners.values() if len(group) > 1]


class Double(NamedTuple):
    """A case that has images of another case."""

    case_id: str
    other: str
    """The first case that has them."""
    modalities: list[str]
    """Which of the case's images."""
    splits: tuple[str, str] | None
    """Of the two cases, if they are in different ones."""

    def __str__(self) -> str:
        names = [self.other, self.case_id]
        if self.splits:
            names = [f"{name} ({split})" for name, split in zip(names, self.splits, strict=True)]
        return f"{' and '.join(names)} have the same image ({', '.join(self.modalities)})"


def doubles(
    images: Mapping[str, Mapping[str, str]], splits: Mapping[str, Iterable[str]]
) -> list[Double]:
    """The cases that share an image with an earlier one; those in a split come first."""
    split_of = {case_id: name for name, cases in splits.items() for case_id in cases}
    pairs: dict[tuple[str, str], list[str]] = {}
    for group in shared_images(images):
        first = next((case_id for case_id, _ in group if case_id in split_of), group[0][0])
        for case_id, modality in group:
            if case_id != first:
                pairs.setdefault((first, case_id), []).append(modality)
    found = []
    for (first, case_id), modalities in pairs.items():
        placed = split_of.get(first, ""), split_of.get(case_id, "")
        divided = all(placed) and len(set(placed)) == 2
        found.append(Double(case_id, first, modalities, placed if divided else None))
    return found
