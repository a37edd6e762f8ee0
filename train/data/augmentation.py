"""What an augmentation is: its parameters, what is drawn, and how each loader applies it.

Worker processes import the augmentations, and start faster without torch and DALI: methods that
need one of them import it themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from common.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Drawn = tuple[NDArray[np.generic], ...]
"""What an augmentation drew for a sample: the arrays that DALI's graph gets."""
Shape = tuple[int, int, int, int]
"""(M, D, H, W) of an image; D is 1 for a slice."""
SPACE = (1, 2, 3)
"""The axes of an image (M, D, H, W) that are no modality."""
Node = Any
"""A node of DALI's graph; DALI is untyped."""


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]} is above the upper bound {bounds[1]}")
    return bounds


Ordered = AfterValidator(_ordered)
Probability = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Augmentation(Settings):
    """What may be done to a training sample; a subclass has the parameters as its fields.

    Both loaders must compute the same: images up to the rounding of float32, labels exactly.
    """

    placeholder: ClassVar[Drawn]
    """What DALI's graph gets where nothing is drawn: arrays of a draw's types and axes."""
    on_device: ClassVar[tuple[int, ...]] = ()
    """Which of these arrays DALI's operators need where the image is, not on the CPU."""

    probability: Probability
    """Of a sample."""

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        """Draw what is done to a sample; None if nothing is."""
        return self.drawn(random, shape) if random.random() < self.probability else None

    def drawn(self, random: Generator, shape: Shape) -> Drawn | None:
        """As `draw`, once the sample is chosen; what can do nothing to a shape gives None."""
        raise NotImplementedError

    def most_bytes(self, shape: Shape) -> int:
        """Memory that a draw takes at most."""
        return sum(array.nbytes for array in self.placeholder)

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Do it to an image (M, D, H, W) float32 and its label (D, H, W) uint8."""
        raise NotImplementedError

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        """Do it in DALI's graph, for samples that something is drawn for.

        Image (M, D, H, W) float32 and label (1, D, H, W) uint8 are on a CPU or a GPU, the arrays of
        `draw` on the CPU but for those of `on_device`.
        """
        raise NotImplementedError
