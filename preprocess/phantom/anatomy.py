"""A healthy head: the brain's mask, and the share of each tissue in every voxel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocess.phantom import shapes
from preprocess.phantom.fields import Field, Grid, Points, fold_noise, smooth_noise

CORTEX_MM = 3.0
FOLD_WAVELENGTH_MM = 22.0


@dataclass(frozen=True)
class Anatomy:
    """Tissues of a head; every field has the shape of the grid's box."""

    mask: NDArray[np.bool_]
    """The brain with the CSF around it, as skull stripping leaves it."""
    points: Points
    """Template coordinates of each voxel."""
    layers: list[tuple[str, Field]]
    """(tissue, share of the voxel that it covers), painted in this order."""
    pial_mm: Field
    """Depth below the nearest CSF of the surface or of a sulcus."""
    ventricle_mm: Field
    """Distance to the lateral ventricles, negative inside."""
    surface_mm: Field
    """Depth below the mask's surface."""


def share(depth_mm: Field, voxel_mm: float) -> Field:
    """Share of a voxel that lies inside a surface, from its centre's depth below it."""
    return np.asarray(np.clip(depth_mm / voxel_mm + 0.5, 0, 1), np.float32)


def warped(rng: np.random.Generator, grid: Grid) -> Points:
    """The grid's points in the template: one person's size and shape of head."""
    stretch = rng.uniform(0.98, 1.1) * rng.uniform(0.98, 1.03, 3)
    points = grid.points()
    moved = [
        p * np.float32(s) + np.float32(2.2) * smooth_noise(rng, grid, 36.0)
        for p, s in zip(points, stretch, strict=True)
    ]
    return Points(*moved)


def build(rng: np.random.Generator, grid: Grid, outer: Points, inner: Points) -> Anatomy:
    """The tissues of a head.

    `outer` has the template points of the head's outline, `inner` those of everything else: a
    tumour moves only these.
    """
    hull, fissure_mm = _hull_and_fissures(rng, grid, outer, inner)
    pial, cerebellar = _cortex(rng, grid, inner, hull, fissure_mm)
    ventricle = shapes.lateral_ventricles(inner) - np.float32(rng.uniform(-1.2, 2.2))
    midline = shapes.midline_ventricles(inner) - np.float32(rng.uniform(-0.6, 0.8))
    voxel = grid.voxel_mm
    cortex_mm = np.where(cerebellar, np.float32(1.6), np.float32(CORTEX_MM))
    grey = 1 - share(pial - cortex_mm, voxel)
    deep = share(-shapes.deep_grey(inner), voxel) * (1 - grey)
    layers = [
        ("white", np.ones(grid.shape, np.float32)),
        ("grey", grey),
        ("deep", deep),
        ("pallidum", share(-shapes.pallidum(inner), voxel)),
        ("csf", 1 - share(pial, voxel)),
        ("csf", share(-np.minimum(ventricle, midline), voxel)),
    ]
    return Anatomy(hull > 0, inner, layers, pial, ventricle, hull)


def _hull_and_fissures(
    rng: np.random.Generator, grid: Grid, outer: Points, inner: Points
) -> tuple[Field, Field]:
    """Depth below the brain's outline, and distance to the great fissures, in mm."""
    main, temporal = shapes.cerebrum(outer)
    cerebellum, stem = shapes.hindbrain(outer)
    upper = shapes.union(main, temporal, 10)
    hull = -shapes.union(shapes.union(upper, cerebellum, 5), stem, 5)
    # Where two parts meet, the surface between them lies where both distances are equal.
    sylvian = np.hypot(
        (main - temporal) / 2 + 1.5 * smooth_noise(rng, grid, 20.0),
        np.clip(30 - np.abs(inner.x), 0, None),
    )
    tentorium = np.abs(upper - cerebellum) / 2 + np.clip(-stem, 0, None)
    between = np.hypot(inner.x, np.clip(shapes.callosal_depth(inner), 0, None))
    below = np.clip(-22 - inner.z, 0, None) * (inner.y < 20)
    fissure = np.minimum(np.minimum(sylvian, tentorium), between + below)
    return hull, np.asarray(fissure, np.float32)


def _cortex(
    rng: np.random.Generator, grid: Grid, inner: Points, hull: Field, fissure_mm: Field
) -> tuple[Field, NDArray[np.bool_]]:
    """Depth below the pia, sulci included, and where the cerebellum is."""
    cerebellum, stem = shapes.hindbrain(inner)
    main, temporal = shapes.cerebrum(inner)
    cerebellar = (cerebellum < np.minimum(main, temporal)) & (cerebellum < stem)
    gap = np.clip(1.6 + 1.2 * smooth_noise(rng, grid, 24.0), 0.4, None)
    bare = np.minimum(hull - gap, fissure_mm - 0.7)
    sulcus = _sulci(rng, grid, inner, bare)
    folia = _folia(inner, bare)
    inside_stem = stem < np.minimum(np.minimum(main + 14, temporal + 4), cerebellum)
    folds = np.where(cerebellar, folia, np.where(inside_stem, np.float32(99), sulcus))
    pial = np.minimum(bare, folds)
    # The brainstem and the callosum carry no cortex.
    pial = np.where(inside_stem & (bare > 0), np.maximum(pial, np.float32(CORTEX_MM + 2)), pial)
    return np.asarray(pial, np.float32), cerebellar


def _sulci(rng: np.random.Generator, grid: Grid, inner: Points, bare: Field) -> Field:
    """Distance to the sulci's CSF: zero sheets of a noise that changes little with depth."""
    middle, radii = (4.0, -17.0, 0.0), (66.0, 86.0, 66.0)
    scaled = [
        (p - np.float32(m)) / np.float32(r) for p, m, r in zip(inner, middle, radii, strict=True)
    ]
    radius = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2) + np.float32(1e-3)
    outward = np.float32(0.6) + np.float32(0.4) / np.maximum(radius, np.float32(0.4))
    noise = fold_noise(
        rng,
        Points(*(s * outward * np.float32(r) for s, r in zip(scaled, radii, strict=True))),
        FOLD_WAVELENGTH_MM,
    )
    slope = np.sqrt(sum(g**2 for g in np.gradient(noise, grid.voxel_mm)))
    sheet = np.abs(noise) / np.maximum(slope, np.float32(0.1))
    reach = np.clip(16 + 5 * smooth_noise(rng, grid, 22.0), 8, None)
    return np.asarray(np.hypot(sheet, np.clip(bare - reach, 0, None)) - 0.5, np.float32)


def _folia(inner: Points, bare: Field) -> Field:
    """Distance to the cerebellum's fissures, which fan out from the fourth ventricle."""
    height, length = inner.z + 36, -(inner.y + 44)
    radius = np.hypot(height, length) + np.float32(0.5) * np.abs(inner.x)
    angle = np.arctan2(height, length + np.float32(0.4) * np.abs(inner.x))
    sheet = np.abs(np.sin(11 * angle)) * radius / 11
    return np.asarray(np.hypot(sheet, np.clip(bare - 9, 0, None)) - 0.3, np.float32)
