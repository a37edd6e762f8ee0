"""A glioma, and healthy or harmless tissue that looks like one on FLAIR or after contrast."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from preprocess.phantom import shapes
from preprocess.phantom.anatomy import CORTEX_MM, Anatomy, share
from preprocess.phantom.fields import Field, Grid, Points, fold_noise, smooth_noise

NECROSIS, OEDEMA, ENHANCING, CAVITY = 1, 2, 3, 4
"""Tissues of a tumour, as a phantom's label array has them."""

RIM_VOXELS, LEAST_RIM_VOXELS = 2.7, 2
"""Least thickness of the enhancing rim, about and everywhere: a thinner one would have holes on a
coarse grid."""


@dataclass(frozen=True)
class Glioma:
    """Where a tumour is and how far it reaches."""

    centre: tuple[float, float, float]
    """(z, y, x) in template coordinates."""
    core_mm: float
    """Radius of enhancing tumour and necrosis together."""
    rim_mm: float
    """Thickness of the enhancing rim."""
    spread_mm: float
    """How far oedema reaches beyond the core."""
    axes: NDArray[np.float64]
    """(3, 3) matrix that turns and stretches distances, so that the core is no ball."""


def draw_glioma(rng: np.random.Generator) -> Glioma:
    """A tumour in the white matter of one hemisphere, clear of surface and ventricles."""
    core_mm = rng.uniform(16, 26)
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0] * rng.uniform(0.85, 1.2, 3)
    return Glioma(_place(rng, core_mm), core_mm, rng.uniform(4.5, 7), rng.uniform(8, 20), axes)


def _place(rng: np.random.Generator, core_mm: float) -> tuple[float, float, float]:
    while True:
        z, y, x = rng.uniform((-6, -75, 16), (48, 45, 48))
        point = Points(*(np.float32(value).reshape(1) for value in (z, y, x)))
        depth = -shapes.union(*shapes.cerebrum(point), 10)[0]
        if depth > 0.85 * core_mm + 3 and shapes.lateral_ventricles(point)[0] > 0.4 * core_mm:
            return z, y, x * rng.choice((-1, 1))


def pushed_aside(points: Points, glioma: Glioma, strength: float) -> Points:
    """Template points before a tumour displaced them, by at most `strength` core radii."""
    offsets = [p - np.float32(c) for p, c in zip(points, glioma.centre, strict=True)]
    square = offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2
    relative = square / np.float32(glioma.core_mm**2)
    shrink = np.float32(strength) * np.exp(-relative / np.float32(3.5)) / np.sqrt(relative + 0.25)
    return Points(*(p - o * shrink for p, o in zip(points, offsets, strict=True)))


@dataclass(frozen=True)
class Lesions:
    """What is painted over a healthy head."""

    layers: list[tuple[str, Field]]
    """(tissue, share of the voxel that it covers), painted in this order."""
    label: NDArray[np.uint8]
    """NECROSIS, OEDEMA, ENHANCING, CAVITY, or 0."""


def grow(  # noqa: PLR0913 - what a tumour depends on
    rng: np.random.Generator,
    grid: Grid,
    outer: Points,
    anatomy: Anatomy,
    glioma: Glioma,
    *,
    cavity: bool = False,
) -> Lesions:
    """Core and oedema of a tumour: the core replaces what it meets, oedema follows white matter.

    With a `cavity`, one half of the necrosis is a cavity full of fluid.
    """
    offsets = np.stack([p - np.float32(c) for p, c in zip(outer, glioma.centre, strict=True)])
    turned = np.tensordot(glioma.axes.astype(np.float32), offsets, axes=1)
    uneven = 3.4 * smooth_noise(rng, grid, 16.0) + 1.4 * smooth_noise(rng, grid, 7.0)
    distance = np.sqrt((turned**2).sum(0)) + uneven
    core = np.minimum(glioma.core_mm - distance, anatomy.surface_mm - 1.5)
    rim_mm = min(max(glioma.rim_mm, RIM_VOXELS * grid.voxel_mm), 0.5 * glioma.core_mm)
    thickness = rim_mm * np.clip(1 + 0.3 * smooth_noise(rng, grid, 12.0), 0.8, 1.6)
    # Distances are uneven and stretched: the rim's least thickness is kept by counting voxels.
    rimmed = ndimage.binary_erosion(core > 0, iterations=LEAST_RIM_VOXELS)
    necrosis = np.where(rimmed, core - thickness, np.float32(-grid.voxel_mm))
    fingers = 5 * smooth_noise(rng, grid, 22.0) + 2.5 * np.clip(5 - anatomy.pial_mm, 0, 5)
    oedema = glioma.core_mm + glioma.spread_mm - distance - fingers
    oedema = np.minimum(np.minimum(oedema, anatomy.ventricle_mm), anatomy.surface_mm - 1.5)
    whole = _around(np.maximum(oedema, core) > 0, core > 0)
    label = np.zeros(grid.shape, np.uint8)
    label[whole] = OEDEMA
    label[core > 0] = ENHANCING
    label[necrosis > 0] = NECROSIS
    voxel = grid.voxel_mm
    # Oedema fades out over some millimetres and leaves the CSF of sulci as it is.
    swollen = share(oedema, max(3.0, voxel)) * share(anatomy.pial_mm, voxel)
    layers = [
        ("oedema", swollen * ndimage.binary_dilation(whole)),
        ("enhancing", share(core, voxel)),
        ("necrosis", share(necrosis, voxel)),
    ]
    if cavity:
        fluid = np.minimum(necrosis, turned[0])
        label[fluid > 0] = CAVITY
        layers.append(("csf", share(fluid, voxel)))
    return Lesions(layers, label)


def _around(whole: NDArray[np.bool_], core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a mask that touch the core."""
    parts, count = ndimage.label(whole)
    keep = np.zeros(count + 1, bool)
    keep[np.unique(parts[core])] = True
    keep[0] = False
    return keep[parts]


def hyperintensities(
    rng: np.random.Generator, grid: Grid, anatomy: Anatomy, tumour: NDArray[np.bool_], voxels: float
) -> Field:
    """White-matter hyperintensities of ageing: caps around the ventricles, and deep spots.

    As bright as oedema on FLAIR, but hardly darker than white matter on T1 and hardly brighter on
    T2, so that FLAIR alone does not distinguish them from a tumour. They have about `voxels`
    voxels, at a distance from the mask `tumour`.
    """
    margin = max(1, round(5 / grid.voxel_mm))
    near = ndimage.binary_dilation(tumour, iterations=margin) if tumour.any() else tumour
    inside = anatomy.mask & (anatomy.pial_mm > CORTEX_MM + 1) & ~near
    inside &= (anatomy.ventricle_mm > 0.3) & (anatomy.points.z > -12)
    score = smooth_noise(rng, grid, 13.0) + 2.0 * np.exp(-anatomy.ventricle_mm / 9)
    ranked = score[inside]
    bound = np.quantile(ranked, max(0.0, 1 - voxels / ranked.size))
    soft = np.clip((score - bound) / np.float32(0.8) + 0.5, 0, 1)
    return (soft * inside * share(anatomy.pial_mm - CORTEX_MM - 2, 4.0)).astype(np.float32)


def vessels(rng: np.random.Generator, grid: Grid, anatomy: Anatomy) -> Field:
    """The superior sagittal sinus, and thin vessels that run in the sulci."""
    z, y, x = anatomy.points
    over_top = (z > 15) | (y < -80)
    sinus = np.where(over_top, 2.6 - np.hypot(x, anatomy.surface_mm - 2.0), -9)
    winding = np.abs(fold_noise(rng, Points(z, y, x), 26.0)) * 5
    thin = 0.9 - np.maximum(winding, anatomy.pial_mm + 0.3)
    return share(np.maximum(sinus, thin).astype(np.float32), grid.voxel_mm)


def choroid_plexus(rng: np.random.Generator, grid: Grid, anatomy: Anatomy) -> Field:
    """The enhancing tufts in both atria."""
    tuft = shapes.rod(shapes.mirrored(anatomy.points), (21, -36, 17), (26, -44, 5), (2.6, 3.0))
    uneven = tuft + 1.0 * smooth_noise(rng, grid, 6.0)
    return share(np.minimum(-uneven, -anatomy.ventricle_mm - 0.5), grid.voxel_mm)
