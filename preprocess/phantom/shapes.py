"""The shapes of a brain's parts as signed distances in mm, negative inside.

Quadrics, rods and smooth unions, as is usual for implicit surfaces. The numbers place the
structures where MNI space has them; coordinates in arguments are (x, y, z) = (left, front, up).
"""

from functools import reduce
from itertools import pairwise

import numpy as np

from preprocess.phantom.fields import Field, Points

Place = tuple[float, float, float]


def ellipsoid(
    points: Points, centre: Place, radii: tuple[float, float, float | Field], power: float = 2
) -> Field:
    """Signed distance to an ellipsoid, exact at its surface; a higher power makes it boxier."""
    place = (points.x, points.y, points.z)
    scaled = [
        np.abs(p - np.float32(c)) / np.asarray(r, np.float32)
        for p, c, r in zip(place, centre, radii, strict=True)
    ]
    root = _total([s**power for s in scaled]) ** (1 / power)
    slopes = [
        s ** (power - 1) / np.asarray(r, np.float32) for s, r in zip(scaled, radii, strict=True)
    ]
    slope = np.sqrt(_total([s * s for s in slopes]))
    return np.asarray((root - 1) * root ** (power - 1) / (slope + 1e-6), np.float32)


def rod(points: Points, start: Place, stop: Place, radii: tuple[float, float]) -> Field:
    """Signed distance to a rod whose radius changes evenly from its start to its stop."""
    along = np.subtract(stop, start).astype(np.float32)
    offsets = [
        p - np.float32(s) for p, s in zip((points.x, points.y, points.z), start, strict=True)
    ]
    length = np.float32(along @ along)
    t = np.clip(_total([o * a for o, a in zip(offsets, along, strict=True)]) / length, 0, 1)
    square = _total([(o - t * a) ** 2 for o, a in zip(offsets, along, strict=True)])
    radius = np.float32(radii[0]) + t * np.float32(radii[1] - radii[0])
    return np.asarray(np.sqrt(square) - radius, np.float32)


def union(first: Field, second: Field, fillet_mm: float) -> Field:
    """Both shapes, joined with a fillet."""
    overlap = np.clip(np.float32(fillet_mm) - np.abs(first - second), 0, None)
    return np.asarray(np.minimum(first, second) - overlap**2 / (4 * fillet_mm), np.float32)


def cerebrum(points: Points) -> tuple[Field, Field]:
    """Frontal, parietal and occipital lobes; the temporal lobes."""
    towards_front = np.clip((points.y + 17) / 87, 0, 1)
    taper = np.asarray(1 + 0.2 * towards_front**2, np.float32)
    tapered = points._replace(x=points.x * taper)
    height = np.where(points.z > 6, np.float32(71), np.float32(34))
    main = ellipsoid(tapered, (0, -17, 6), (66, 86, height), 2.4)
    return main, ellipsoid(mirrored(points), (43, -12, -20), (24, 42, 24))


def hindbrain(points: Points) -> tuple[Field, Field]:
    """The cerebellum; the brainstem."""
    half = mirrored(points)
    hemispheres = ellipsoid(half, (22, -64, -37), (29, 30, 20))
    cerebellum = union(hemispheres, ellipsoid(points, (0, -66, -35), (14, 26, 18)), 8)
    midbrain = rod(points, (0, -18, -2), (0, -25, -30), (17, 15))
    medulla = rod(points, (0, -25, -30), (0, -40, -66), (14, 8))
    return cerebellum, union(midbrain, medulla, 6)


def lateral_ventricles(points: Points) -> Field:
    """Frontal horn, body, atrium, occipital and temporal horn of both sides."""
    half = mirrored(points)
    spine: list[tuple[Place, float]] = [
        ((8, 31, 3), 3.2),
        ((9, 18, 12), 4.6),
        ((10, -4, 20), 4.4),
        ((15, -26, 20), 5.0),
        ((25, -42, 12), 6.0),
        ((25, -66, 5), 2.4),
    ]
    parts = [rod(half, a, b, (r, s)) for (a, r), (b, s) in pairwise(spine)]
    parts.append(rod(half, (27, -40, 8), (35, -16, -14), (4.4, 2.0)))
    return reduce(lambda one, other: union(one, other, 3), parts)


def midline_ventricles(points: Points) -> Field:
    """The third ventricle's slit, the aqueduct and the fourth ventricle."""
    third = ellipsoid(points, (0, -11, -1), (2.6, 15, 10))
    aqueduct = rod(points, (0, -26, -6), (0, -40, -28), (1.0, 1.0))
    fourth = ellipsoid(points, (0, -46, -33), (7, 5, 10))
    return union(union(third, aqueduct, 3), fourth, 3)


def deep_grey(points: Points) -> Field:
    """Caudate nucleus, putamen, thalamus and hippocampus."""
    half = mirrored(points)
    parts = [
        ellipsoid(half, (14, 15, 8), (5.5, 12, 10)),
        rod(half, (16, 8, 17), (20, -24, 21), (3.5, 1.5)),
        ellipsoid(half, (27, 3, 2), (5.5, 17, 11)),
        ellipsoid(half, (11, -18, 7), (9, 15, 9)),
        rod(half, (27, -12, -20), (27, -36, -5), (5.5, 3.5)),
    ]
    return reduce(np.minimum, parts)


def pallidum(points: Points) -> Field:
    """Globus pallidus, between putamen and internal capsule."""
    return ellipsoid(mirrored(points), (20, -2, 0), (4.5, 9, 7))


def callosal_depth(points: Points) -> Field:
    """Depth in mm inside what the corpus callosum encloses, where no fissure parts the halves."""
    height = (points.z - 3) / np.float32(25)
    length = (points.y + 5) / np.float32(38)
    return np.float32(30) * (1 - np.sqrt(height**2 + length**2))


def mirrored(points: Points) -> Points:
    """Both hemispheres laid onto the left one (x > 0)."""
    return points._replace(x=np.abs(points.x))


def _total(terms: list[Field]) -> Field:
    """The broadcast sum of three terms."""
    return terms[0] + terms[1] + terms[2]
