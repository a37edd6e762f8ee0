"""Two masks of one region to be compared, with what several metrics need of them."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from common.geometry import Vector
from common.metrics.surface import Mask, SurfacePair, border_distances, element_distances
from common.volume import Box, Triple, bounding_box, extract, triple


@dataclass(frozen=True, eq=False)
class MaskPair:
    """A reference and a prediction, in a box of the image that holds both."""

    reference: Mask
    """(D, H, W)."""
    prediction: Mask
    """(D, H, W)."""
    spacing_mm: Vector
    """(z, y, x)."""
    image_shape: Triple
    """Of the whole image."""
    start: Triple = (0, 0, 0)
    """The box's first voxel in the image."""

    def cut(self) -> "MaskPair":
        """The box around both masks; one voxel of it where both are empty."""
        box = bounding_box(self.reference, self.prediction) or Box((0, 0, 0), (1, 1, 1))
        reference, prediction = (
            np.ascontiguousarray(extract(mask, box)) for mask in (self.reference, self.prediction)
        )
        start = triple(a + b for a, b in zip(self.start, box.start, strict=True))
        return MaskPair(reference, prediction, self.spacing_mm, self.image_shape, start)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return prod(self.spacing_mm) / 1000

    @cached_property
    def reference_voxels(self) -> int:
        """In the reference."""
        return int(np.count_nonzero(self.reference))

    @cached_property
    def prediction_voxels(self) -> int:
        """In the prediction."""
        return int(np.count_nonzero(self.prediction))

    @cached_property
    def shared_voxels(self) -> int:
        """In both."""
        return int(np.count_nonzero(self.reference & self.prediction))

    @cached_property
    def elements(self) -> SurfacePair:
        """Distances between surface elements; both masks hold a voxel."""
        return element_distances(self.reference, self.prediction, self.spacing_mm)

    @cached_property
    def borders(self) -> SurfacePair:
        """Distances between border voxels; both masks hold a voxel."""
        return border_distances(self.reference, self.prediction, self.spacing_mm)
