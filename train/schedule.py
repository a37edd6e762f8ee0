"""The learning rate over a run: a function of the step alone, so that a resume needs no state."""

import math
from typing import Annotated, Literal

from pydantic import Field

from common.settings import Settings

POWER = 0.9
"""Of `poly`, as in nnU-Net (doi:10.1038/s41592-020-01008-z)."""


class ScheduleConfig(Settings):
    """How the learning rate changes; constant is the paper's (sec. V-E)."""

    kind: Literal["constant", "cosine", "poly"] = "constant"
    """`constant`; or falling to 0 at the end of `epochs`: `cosine` (half a wave; Loshchilov and
    Hutter 2017, arXiv:1608.03983), or `poly` (the rest of the steps as a share, to the 0.9)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the beginning over which the rate rises linearly to optimizer.lr. In steps, because
    an optimiser's moments settle over steps, whatever the number of cases."""

    @property
    def needs_end(self) -> bool:
        """Whether the rate depends on how many steps the run has."""
        return self.kind != "constant"

    def factor(self, step: int, steps: int) -> float:
        """What `optimizer.lr` is multiplied by in a step, counted from 0, of so many in all."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return (1 - done) ** POWER if self.kind == "poly" else 1.0
