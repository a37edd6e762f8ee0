"""Where a training step's time goes, and how fast the loop is with its loader."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from train.data.feed import Batch
from train.loss import RegionLoss
from train.trainer import Session, step

AT_LEAST = 2
"""Steps of a measurement, however short it is to be."""
WARM_UP = 2
"""Steps of the loop before it is measured: batches that were ready when it began are used up."""


@dataclass(frozen=True)
class StepTimes:
    """One batch, learnt from again and again.

    Attributes:
        whole_ms: of each step as it is in training.
        phases_ms: of each of other steps, with the device waited for after each phase, which keeps
            them from overlapping: `input` (the image's type and layout), `forward`, `loss`,
            `backward` and `optimiser` (unscaling, clipping and the update).
        skipped: of all these steps, those without a finite gradient, which had no update.
        peak_memory_gb: of the GPU's memory in whole steps, or of this process so far on a CPU.
    """

    whole_ms: list[float]
    phases_ms: dict[str, list[float]]
    skipped: int
    peak_memory_gb: float


@dataclass(frozen=True)
class LoopTimes:
    """The loop with its loader.

    Attributes:
        workers: processes that read.
        samples: learnt from.
        step_seconds: of each step, the wait for its batch included.
        wait_seconds: the wait alone.
    """

    workers: int
    samples: int
    step_seconds: list[float]
    wait_seconds: list[float]

    @property
    def volumes_per_second(self) -> float:
        """Samples in a second."""
        return self.samples / sum(self.step_seconds)

    @property
    def wait_share(self) -> float:
        """Of all time, the part that was spent waiting for batches."""
        return sum(self.wait_seconds) / sum(self.step_seconds)


def measure_step(session: Session, batch: Batch, seconds: float) -> StepTimes:
    """Time `train.trainer.step` on one batch, whole and in its phases.

    Args:
        session: it learns.
        batch: on the device.
        seconds: for how long to measure each of the two.
    """
    device, usable = session.compute.device, list[bool]()
    whole, phases = _Clock(device), _Clock(device)

    def learn(clock: _Clock, last: str) -> None:
        clock.start()
        usable.append(step(session, batch)[1])
        clock.mark(last)

    _repeat(lambda: step(session, batch), seconds / 4, at_least=1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _repeat(lambda: learn(whole, "whole"), seconds)
    peak_memory_gb = session.compute.peak_memory_gb()
    with _marking(session, phases):
        _repeat(lambda: learn(phases, "optimiser"), seconds)
    return StepTimes(whole.ms["whole"], dict(phases.ms), usable.count(False), peak_memory_gb)


def measure_loop(session: Session, batches: Iterator[Batch], seconds: float) -> LoopTimes:
    """Time the loop with its loader, once both are under way.

    Args:
        session: it learns.
        batches: from these, each there on the device when it comes.
        seconds: for how long.
    """
    waits, steps, samples = list[float](), list[float](), 0

    def learn() -> None:
        nonlocal samples
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        step(session, batch)  # which ends with the loss as a number, so waits for the device
        steps.append(time.perf_counter() - began)
        samples += len(batch.case_ids)

    _repeat(lambda: step(session, next(batches)), seconds / 4, at_least=WARM_UP)
    _repeat(learn, seconds)
    return LoopTimes(session.config.workers, samples, steps, waits)


class _Clock:
    """Time between marks, in ms by name, each mark after the device has come to it."""

    def __init__(self, device: torch.device) -> None:
        self.ms: dict[str, list[float]] = defaultdict(list)
        self._device = device
        self._before = 0.0

    def start(self) -> None:
        self._before = self._now()

    def mark(self, name: str) -> None:
        now = self._now()
        self.ms[name].append(1e3 * (now - self._before))
        self._before = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _MarkedLoss(RegionLoss):
    """Marks the end of the phase `loss`."""

    def __init__(self, loss: RegionLoss, clock: _Clock) -> None:
        super().__init__(loss.config)
        self._clock = clock

    def supervised(self, outputs: Sequence[Tensor], label: Tensor) -> tuple[Tensor, Tensor]:
        losses = super().supervised(outputs, label)
        self._clock.mark("loss")
        return losses


class _MarkedScaler(GradScaler):
    """Marks the end of the phase `backward`, after which a step unscales its gradients."""

    def __init__(self, scaler: GradScaler, device: torch.device, clock: _Clock) -> None:
        super().__init__(device.type, enabled=scaler.is_enabled())
        if scaler.is_enabled():
            self.load_state_dict(scaler.state_dict())
        self._clock = clock

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self._clock.mark("backward")
        super().unscale_(optimizer)


@contextmanager
def _marking(session: Session, clock: _Clock) -> Iterator[None]:
    """Within it, the session's steps mark the end of their phases but the last."""
    loss, scaler, plain = session.loss, session.scaler, session.forward

    def forward(image: Tensor) -> tuple[Tensor, ...]:
        clock.mark("input")
        outputs = plain(image)
        clock.mark("forward")
        return outputs

    session.forward = forward
    session.loss = _MarkedLoss(loss, clock)
    session.scaler = _MarkedScaler(scaler, session.compute.device, clock)
    try:
        yield
    finally:
        session.loss, session.scaler, session.forward = loss, scaler, plain


def _repeat(once: Callable[[], object], seconds: float, at_least: int = AT_LEAST) -> None:
    began, done = time.perf_counter(), 0
    while done < at_least or time.perf_counter() - began < seconds:
        once()
        done += 1
