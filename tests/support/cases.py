"""Small cases: four images of a brain, and a tumour of all three labels in it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.task import MODALITIES

Files = dict[str, NDArray[Any]]
SHAPE = (20, 26, 24)


def make_files(
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    *,
    enhancing: int = 4,
    shift: int = 0,
) -> Files:
    """The arrays of a case by 2021's name endings: ellipsoids of noise, and `seg`."""
    generator = np.random.default_rng(seed)
    grid = np.ogrid[tuple(slice(side) for side in shape)]
    middle = [side // 2 for side in shape]
    brain = sum(((g - m) / (m - 2)) ** 2 for g, m in zip(grid, middle, strict=True)) < 1
    centre = (middle[0], 10, 9 + shift)
    distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
    label = np.select([distance < 3, distance < 6, distance < 14], [1, enhancing, 2], 0)
    images = {n: (generator.integers(50, 900, shape) * brain).astype(np.int16) for n in MODALITIES}
    return images | {"seg": (label * brain).astype(np.uint8)}
