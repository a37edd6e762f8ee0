"""Surfaces of masks and the distances between two of them.

There are two definitions, whose figures do not compare:

- surface elements, by area: the surface passes between voxels, as marching cubes has it, and each
  element of it counts by its area (Nikolov et al., 2018, https://arxiv.org/abs/1809.04430);
- border voxels, by number: those of a mask that have one of their six neighbours outside.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from math import dist, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from common.geometry import Vector

Mask = NDArray[np.bool_]
Point = tuple[float, ...]
Polygon = tuple[Point, ...]

CORNERS: tuple[Point, ...] = tuple(product((0.0, 1.0), repeat=3))
"""Of a cell of 2×2×2 voxels, (z, y, x), in the order of the bits of its code, the highest first."""


@dataclass(frozen=True, eq=False)
class Distances:
    """From each element of one surface to the nearest of another, the nearest first."""

    mm: NDArray[np.float64]
    areas: NDArray[np.float64]
    """In mm²; 1 where elements count by number."""


@dataclass(frozen=True, eq=False)
class SurfacePair:
    """Distances between the surfaces of two masks, in both directions."""

    from_reference: Distances
    from_prediction: Distances


def element_distances(reference: Mask, prediction: Mask, spacing_mm: Vector) -> SurfacePair:
    """Distances between surface elements of two masks (D, H, W), none of them empty.

    An element is at the point between the eight voxels that it passes through.
    """
    areas = element_areas(spacing_mm)
    codes = _cell_codes(reference), _cell_codes(prediction)
    surfaces = [(code != 0) & (code != 255) for code in codes]
    weights = [areas[code[surface]] for code, surface in zip(codes, surfaces, strict=True)]
    return _both_ways(surfaces, weights, spacing_mm)


def border_distances(reference: Mask, prediction: Mask, spacing_mm: Vector) -> SurfacePair:
    """Distances between border voxels of two masks (D, H, W), none of them empty."""
    borders = [_border(reference), _border(prediction)]
    weights = [np.ones(np.count_nonzero(border)) for border in borders]
    return _both_ways(borders, weights, spacing_mm)


def _both_ways(
    surfaces: list[Mask], weights: list[NDArray[np.float64]], spacing_mm: Vector
) -> SurfacePair:
    reference, prediction = (np.argwhere(surface) for surface in surfaces)
    return SurfacePair(
        _sorted(_to_nearest(reference, prediction, surfaces[1], spacing_mm), weights[0]),
        _sorted(_to_nearest(prediction, reference, surfaces[0], spacing_mm), weights[1]),
    )


def _sorted(mm: NDArray[np.float64], areas: NDArray[np.float64]) -> Distances:
    order = np.argsort(mm)
    return Distances(mm[order], areas[order])


def _to_nearest(
    points: NDArray[np.intp], others: NDArray[np.intp], surface: Mask, spacing_mm: Vector
) -> NDArray[np.float64]:
    """From each point (n, 3) to the nearest of the others, which are those of `surface`.

    A tree takes a tenth of the time of a distance transform of the box around both.
    """
    distances = np.zeros(len(points))
    apart = ~surface[tuple(points.T)]
    if apart.any():
        tree = KDTree(others * spacing_mm, balanced_tree=False, compact_nodes=False)
        _, nearest = tree.query(points[apart] * spacing_mm)
        # Of whole steps, and not of positions: rounded, 1.2 − 0.2 is more than a tolerance of 1.
        steps = (points[apart] - others[nearest]) * np.asarray(spacing_mm)
        distances[apart] = np.sqrt((steps * steps).sum(axis=1))
    return distances


def _border(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(window)]
    border: Mask = mask & ~inside
    return border


def _cell_codes(mask: Mask) -> NDArray[np.uint8]:
    """Of each cell of eight voxels, one bit a voxel: (D + 1, H + 1, W + 1)."""
    code: NDArray[np.uint8] = np.pad(mask, 1).view(np.uint8)
    one, two, four = np.array([1, 2, 4], np.uint8)
    code = code[:, :, :-1] << one | code[:, :, 1:]
    code = code[:, :-1] << two | code[:, 1:]
    return np.asarray(code[:-1] << four | code[1:], np.uint8)


def element_areas(spacing_mm: Vector) -> NDArray[np.float64]:
    """Area in mm² of the surface through a cell, by the cell's code (256).

    It is the surface of `surface-distance`, whose table this rule gives for every spacing.
    """
    codes, triangles = _all_triangles()
    a, b, c = np.moveaxis(triangles * spacing_mm, 1, 0)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    return np.asarray(np.bincount(codes, areas, minlength=256), np.float64)


@cache
def _all_triangles() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(codes (n), triangles (n, 3 corners, 3)) of the surfaces through all cells."""
    found = [(code, triangle) for code in range(1, 255) for triangle in _triangles(code)]
    return np.array([code for code, _ in found]), np.array([triangle for _, triangle in found])


def _triangles(code: int) -> list[Polygon]:
    """The surface through a cell of unit sides.

    Corners that are fewer than the others are cut off one by one where a face leaves it open; a
    polygon that is not flat is divided so that its area is the largest.
    """
    fewer = code if code.bit_count() <= 4 else 255 - code
    inside = {corner: bool(fewer >> 7 - bit & 1) for bit, corner in enumerate(CORNERS)}
    triangles: list[Polygon] = []
    for polygon in _polygons(inside):
        triangles += max(_divisions(polygon), key=lambda parts: round(sum(map(_area, parts)), 9))
    return triangles


def _polygons(inside: dict[Point, bool]) -> list[Polygon]:
    """Closed lines on the faces of a cell, around its corners inside."""
    neighbours: dict[Point, list[Point]] = {}
    for axis, side in product(range(3), (0.0, 1.0)):
        ring = [(*(pair[:axis]), side, *pair[axis:]) for pair in ((0, 0), (0, 1), (1, 1), (1, 0))]
        middles = [_middle(ring[i - 1], ring[i]) for i in range(4)]  # before each corner
        cut = [middles[i] for i in range(4) if inside[ring[i - 1]] != inside[ring[i]]]
        if len(cut) == 4:
            lines = [(middles[i], middles[(i + 1) % 4]) for i in range(4) if inside[ring[i]]]
        else:
            lines = [(cut[0], cut[1])] if cut else []
        for a, b in lines:
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
    polygons = []
    while neighbours:
        polygon, point = [], next(iter(neighbours))
        while point in neighbours:
            polygon.append(point)
            first, second = neighbours.pop(point)
            point = first if first in neighbours else second
        polygons.append(tuple(polygon))
    return polygons


def _divisions(polygon: Polygon) -> list[list[Polygon]]:
    """All divisions of a polygon into triangles of its corners."""
    if len(polygon) < 3:
        return [[]]
    first, last = polygon[0], polygon[-1]
    return [
        [(first, polygon[i], last), *before, *after]
        for i in range(1, len(polygon) - 1)
        for before in _divisions(polygon[: i + 1])
        for after in _divisions(polygon[i:])
    ]


def _middle(a: Point, b: Point) -> Point:
    return tuple((x + y) / 2 for x, y in zip(a, b, strict=True))


def _area(triangle: Polygon) -> float:
    """By Heron's formula."""
    a, b, c = map(dist, triangle, (*triangle[1:], triangle[0]))
    half = (a + b + c) / 2
    return sqrt(max(0.0, half * (half - a) * (half - b) * (half - c)))
