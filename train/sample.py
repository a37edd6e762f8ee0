"""What a sample of training is, and what a step takes.

Worker processes use it, so it imports neither torch nor DALI.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.augment import Draw

NO_NOISE = np.zeros((1, 1, 1, 1), np.float16)
"""In place of a noise field where no noise is added, as it costs nothing to hand over."""

Arrays = tuple[NDArray[np.floating], NDArray[np.uint8]]
"""Image (M, *shape) and label (*shape)."""


class Key(NamedTuple):
    """What a sample is of.

    Attributes:
        case_id: the case.
        plane: which axial plane of its crop; None for all of it.
    """

    case_id: str
    plane: int | None = None

    def __str__(self) -> str:
        return f"case {self.case_id}" + ("" if self.plane is None else f", plane {self.plane}")


class Step(NamedTuple):
    """One batch of the stream.

    Attributes:
        epoch: counted from 1.
        keys: the samples in it; fewer than the batch size at an epoch's end.
        last: the epoch ends with it.
    """

    epoch: int
    keys: tuple[Key, ...]
    last: bool

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The cases in it."""
        return tuple(key.case_id for key in self.keys)


class Plan(NamedTuple):
    """What is to be done to a sample.

    Attributes:
        draw: the augmentations and their amounts.
        noise: (M, *shape) standard normal, or `NO_NOISE` where the draw has none.
    """

    draw: Draw = Draw()
    noise: NDArray[np.float16] = NO_NOISE


class Sample(NamedTuple):
    """One case, or one plane of it, as it was read, and what is to be done to it.

    Attributes:
        image: (M, *shape), of the store's type; shape is `Stream.shape`.
        label: (*shape) canonical labels.
        plan: what is to be done.
        error: why the case could not be read; the arrays are then zeros.
    """

    image: NDArray[np.floating]
    label: NDArray[np.uint8]
    plan: Plan
    error: str = ""
