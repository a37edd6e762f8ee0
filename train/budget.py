"""`--budget`: the best way to predict a case within a time, measured on this machine."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import ConfigError
from train.ensemble import Predictor
from train.inference import mirrored_axes, window_count
from train.loaded_run import LoadedRun
from train.precision import choose_compute

WAYS = ((8, 0.5), (4, 0.5), (2, 0.5), (1, 0.5), (1, 0.25), (1, 0.0))
"""Flips and overlap, the best first: both average away errors, and flips cost their number. Each is
tried in the run's own precision, then in the device's fastest, which differs by rounding alone."""


@dataclass(frozen=True)
class Way:
    """How a case is predicted."""

    flips: int
    overlap: float
    fastest: bool
    """Whether in the device's fastest precision, not the run's own."""

    def of(self, loaded: LoadedRun) -> LoadedRun:
        """The run, predicting this way."""
        compute = loaded.compute
        if self.fastest:
            compute = choose_compute(str(compute.device), "auto")
        changes = {"flips": self.flips, "overlap": self.overlap}
        how = loaded.config.inference.model_copy(update=changes)
        config = loaded.config.model_copy(update={"inference": how})
        return replace(loaded, config=config, compute=compute)


@dataclass(frozen=True)
class Choice:
    """What was picked for a case."""

    predictor: Predictor
    seconds: float
    """That it takes, by the measurement."""

    def __str__(self) -> str:
        first = self.predictor.members[0]
        how = first.config.inference
        return f"flips={how.flips}, overlap={how.overlap:g}, {first.compute.precision}"


class Budget:
    """Picks the first of `WAYS` that fits into a time for each case.

    Reading a case and writing its mask come on top, and once for each run and precision the time
    of the measurement.

    Raises:
        ConfigError: the time is no number of seconds.
    """

    def __init__(self, predictor: Predictor, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"budget: {seconds:g} s; expected a number of seconds from 0 on")
        self.seconds = seconds
        self._predictor = predictor
        self._measured: dict[tuple[int, str], float] = {}

    def choose(self, image: NDArray[np.floating], modalities: Sequence[str]) -> Choice:
        """The way for an image (modalities, D, H, W); the fastest of all if none fits."""
        choices = []
        for flips, overlap in WAYS:
            for fastest in (False, True):
                way = Way(flips, overlap, fastest)
                predictor = self._predictor.map(way.of)
                seconds = sum(
                    self._seconds(number, member, image, modalities)
                    for number, member in enumerate(predictor.members)
                )
                choices.append(Choice(predictor, seconds))
                if seconds <= self.seconds:
                    return choices[-1]
        return min(choices, key=lambda choice: choice.seconds)

    def _seconds(
        self,
        number: int,
        member: LoadedRun,
        image: NDArray[np.floating],
        modalities: Sequence[str],
    ) -> float:
        """What a member's windows of an image take."""
        how, dims, window = member.config.inference, member.config.model.dims, member.manifest.crop
        seen = [index for index, name in enumerate(modalities) if name in member.needed]
        volume = torch.from_numpy(image[seen])
        windows = window_count(volume, window, how.overlap, dims)
        batches = math.ceil(windows / (how.tiles if dims == 3 else how.tiles * window[0]))
        views = len(mirrored_axes(how.flips, dims))
        return batches * views * self._batch_seconds(number, member)

    def _batch_seconds(self, number: int, member: LoadedRun) -> float:
        """Time of one batch of windows, measured once for a member and a precision."""
        key = number, member.compute.precision
        if key not in self._measured:
            alone = Way(1, 0.0, fastest=False).of(member)
            depth, height, width = member.manifest.crop
            shape = (len(member.needed), member.config.inference.tiles * depth, height, width)
            batch = np.ones(shape, np.float32)
            if member.compute.device.type == "cuda":
                alone.logits(batch, member.needed)  # the first one loads the device's code
            began = time.perf_counter()
            alone.logits(batch, member.needed).sum().item()  # which waits for the device
            self._measured[key] = time.perf_counter() - began
        return self._measured[key]
