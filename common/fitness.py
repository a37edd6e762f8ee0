"""Whether a case's volumes can be used: their grids and intensities, and what to know of them."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import Finding
from common.grid import ToLPS, degrees_off_axis, turn
from common.nifti import Geometry, Volume
from common.volume import bounding_box, foreground

LEAST_MM, MOST_MM = 8, 600
"""How large a side of a head's volume can be; beyond, its header is in metres or in pixels."""

SURELY_BACKGROUND = 0.2
"""Share of zeros in a sample of rows, from which the whole image has more than the least."""

OBLIQUE_DEGREES = 3
"""From here on a head is seen visibly turned: its axes are taken as the nearest of the body's."""

LEAST_BACKGROUND = 0.05
"""Share of zeros that any image of a brain alone has; the tightest box around one has a third."""

LARGEST, SMALLEST = 1e30, 1e-30
"""Intensities beyond these cannot be scaled in float32."""

SAMPLE = 20_000
"""Voxels that are enough to see of nearly all images that they differ and have a background."""

Paths = Mapping[str, Path]


def on_one_grid(
    paths: Paths, volumes: Mapping[str, Volume]
) -> tuple[dict[str, Volume], list[Finding]]:
    """The volumes with their axes as the first one's; what is not of its place is an error."""
    first = next(iter(volumes), "")
    together, findings = dict[str, Volume](), list[Finding]()
    for role, volume in volumes.items():
        onto = volumes[first].geometry
        if volume.geometry.matches(onto):
            together[role] = volume
            continue
        turned = turn(volume.voxels, volume.geometry, onto)
        if turned is None:
            expected = f"that of {paths[first].name}, {onto}"
            action = "register or resample the files of the case to one grid"
            found = f"a grid of {volume.geometry}"
            findings.append(Finding(str(paths[role]), found, expected, action))
            continue
        together[role] = volume._replace(voxels=turned, geometry=onto)
        found = f"another order of axes than {paths[first].name}, but of the same place"
        action = f"nothing: it is turned; masks are written as {paths[first].name} is"
        findings.append(_note(paths[role], found, "one orientation for a case", action))
    return together, findings


def no_head(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
    """Files whose header gives no head's size: at 1 mm it would be a point, or fill the memory."""
    findings = []
    for role, volume in volumes.items():
        geometry = volume.geometry
        extents = [mm * n for mm, n in zip(geometry.spacing_mm, geometry.shape, strict=True)]
        if min(extents) < LEAST_MM or max(extents) > MOST_MM:
            found = f"a volume of {' × '.join(f'{extent:g}' for extent in extents)} mm (z, y, x)"
            expected = f"a head: {LEAST_MM} to {MOST_MM} mm a side"
            action = "mend the spacing in its header"
            findings.append(Finding(str(paths[role]), found, expected, action))
    return findings


def vanishing_brain(
    path: Path, images: Iterable[NDArray[np.generic]], geometry: Geometry
) -> list[Finding]:
    """A brain so thin that no voxel of the 1 mm grid falls on it."""
    to_lps = ToLPS.of(geometry)
    if not to_lps.resamples:
        return []
    brain = to_lps.orient(foreground(images))
    if to_lps.resample(brain.astype(np.uint8), linear=False).any():
        return []
    box = bounding_box(brain)
    shape = " × ".join(map(str, box.shape)) if box else "0"
    spacing = " × ".join(f"{mm:.4g}" for mm in to_lps.spacing_mm)
    found = f"a brain of {shape} voxels of {spacing} mm (z, y, x)"
    action = "check the spacing in its header"
    return [Finding(str(path), found, "one that is still there at 1 mm", action)]


def unusable_image(path: Path, voxels: NDArray[np.generic]) -> list[Finding]:
    """An image without finite, varied, scalable intensities."""
    if not np.issubdtype(voxels.dtype, np.integer):
        low, high = float(voxels.min()), float(voxels.max())
        if not np.isfinite((low, high)).all():
            count = voxels.size - np.count_nonzero(np.isfinite(voxels))
            found = f"{count} voxels that are NaN or infinite"
            return [Finding(str(path), found, "finite intensities", "export it again")]
        top = max(-low, high)
        if top and not SMALLEST < top < LARGEST:
            expected = f"intensities of {SMALLEST:g} to {LARGEST:g}"
            return [Finding(str(path), f"intensities up to {top:g}", expected, "export it again")]
    constant = _only_value(voxels)
    if constant is None:
        return []
    found = f"the same value, {constant:g}, in all of the brain" if constant else "only zeros"
    return [Finding(str(path), found, "an image", "export it again")]


def _only_value(voxels: NDArray[np.generic]) -> float | None:
    """The one value that all non-zero voxels have, 0 if there are none; None if they differ."""
    for some in (_sample(voxels), voxels):  # of nearly all images a sample is enough
        values = some[some != 0]
        if values.size and (values != values[0]).any():
            return None
    return float(values[0]) if values.size else 0.0


def _sample(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
    """All of a small image; of others some rows, the same for all of one shape."""
    depth, height, width = voxels.shape
    count = max(1, SAMPLE // width)
    return voxels if depth * height <= count else voxels[_rows(depth, height, count)]


def _background(voxels: NDArray[np.generic]) -> float:
    return 1 - int(np.count_nonzero(voxels)) / voxels.size


@lru_cache(maxsize=8)
def _rows(depth: int, height: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Planes and rows at random: any step between them could fall in with the image's sides."""
    generator = np.random.default_rng(0)
    return generator.integers(depth, size=count), generator.integers(height, size=count)


def notes_on_images(paths: Paths, images: Mapping[str, NDArray[np.generic]]) -> list[Finding]:
    """Images without a background, and images that are one and the same."""
    notes, samples = [], {name: _sample(voxels) for name, voxels in images.items()}
    for name, some in samples.items():
        share = _background(some)
        if share < SURELY_BACKGROUND:
            share = _background(images[name])
        if share < LEAST_BACKGROUND:
            found = f"hardly any background: {share:.1%} of its voxels are 0"
            action = "strip the skull and set what is outside to 0, unless this is meant"
            notes.append(_note(paths[name], found, "a brain in a background of 0", action))
    for one, other in itertools.combinations(images, 2):
        alike = np.array_equal(samples[one], samples[other])
        if alike and np.array_equal(images[one], images[other]):
            found = f"the same voxels for {other} as for {one}"
            notes.append(_note(paths[other], found, "four images", "replace the wrong one"))
    return notes


def notes_on_place(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
    """What a header leaves open, and what is done to a grid that is not straight and of 1 mm."""
    by_doubt: dict[str, list[Path]] = {}
    for path, doubt in {paths[role]: volume.doubt for role, volume in volumes.items()}.items():
        if doubt:
            by_doubt.setdefault(doubt, []).append(path)
    action = "nothing if that is where it is; else mend the header"
    notes = [
        _note(paths[0], doubt + _and_others(paths), "sform and qform that say the same", action)
        for doubt, paths in by_doubt.items()
    ]
    role, volume = next(iter(volumes.items()))
    geometry = volume.geometry
    if (degrees := degrees_off_axis(geometry)) >= OBLIQUE_DEGREES:
        found = f"an oblique grid, {degrees:.0f}° off the body's axes"
        action = "nothing: masks return to this grid; resample to straight axes if scores are low"
        notes.append(_note(paths[role], found, "axes along the body's", action))
    if ToLPS.of(geometry).resamples:
        found = f"voxels of {' × '.join(f'{mm:.4g}' for mm in geometry.spacing_mm)} mm (z, y, x)"
        action = "nothing: it is resampled, and masks return to this grid"
        notes.append(_note(paths[role], found, "1 mm a side", action))
    return notes


def _and_others(paths: list[Path]) -> str:
    others = len(paths) - 1
    return f" (and {others} more file(s) of the case)" if others else ""


def _note(path: Path, found: str, expected: str, action: str) -> Finding:
    return Finding(str(path), found, expected, action, severity="note")


def of_case(findings: Iterable[Finding], case_id: str) -> list[Finding]:
    """The findings with their case."""
    return [replace(finding, case=case_id) for finding in findings]
