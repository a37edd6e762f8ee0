"""What is done to training samples: all augmentations in order, and their random numbers.

Each draws from its own random generator where a sample is read (docs/decisions/0004), and both
loaders only apply what was drawn. To add one, write its class and name it in `AugmentConfig`.
"""

from __future__ import annotations

import hashlib

from numpy.random import SFC64, Generator

from common.settings import Settings
from train.data.augmentation import Augmentation, Drawn, Shape
from train.data.intensity import (
    Blur,
    Brightness,
    Contrast,
    Gamma,
    LowResolution,
    ModalityDropout,
    Noise,
)
from train.data.spatial import Elastic, Flip, Rotation, Zoom

Draws = tuple[Drawn | None, ...]
"""What each augmentation drew for a sample, in order; None where it does nothing."""


class AugmentConfig(Settings):
    """What is done to training samples, in the order of the fields.

    The paper has zoom, flip, noise, blur and brightness (sec. III); the others are off unless a
    preset or `--set` gives them a probability.
    """

    zoom: Zoom = Zoom()
    rotation: Rotation = Rotation()
    elastic: Elastic = Elastic()
    flip: Flip = Flip()
    noise: Noise = Noise()
    blur: Blur = Blur()
    low_resolution: LowResolution = LowResolution()
    brightness: Brightness = Brightness()
    contrast: Contrast = Contrast()
    gamma: Gamma = Gamma()
    modality_dropout: ModalityDropout = ModalityDropout()

    def in_order(self) -> tuple[Augmentation, ...]:
        """All augmentations, in the order in which they are applied."""
        return tuple(getattr(self, name) for name in AUGMENTATIONS)

    def draw(
        self, shape: Shape, seed: int, epoch: int, case_id: str, plane: int | None = None
    ) -> Draws:
        """Draw what is done to one sample; an augmentation's draws do not depend on the others."""
        return tuple(
            augmentation.draw(generator(seed, epoch, case_id, plane, name), shape)
            for name, augmentation in zip(AUGMENTATIONS, self.in_order(), strict=True)
        )


AUGMENTATIONS = tuple(AugmentConfig.model_fields)
"""The augmentations' names, in the order in which they are applied."""


def generator(seed: int, epoch: int, case_id: str, plane: int | None, purpose: str) -> Generator:
    """The random numbers of one case, or one plane of it, in one epoch, for one purpose.

    The key holds the case's id and not its row, so that a rebuilt store gives the same samples.
    """
    key = repr((seed, epoch, case_id, plane, purpose)).encode()
    return Generator(SFC64(int.from_bytes(hashlib.sha256(key).digest(), "big")))
