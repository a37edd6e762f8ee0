"""Where the time of training steps goes, by kind of work, as torch's profiler sees it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.training.kinds import LOSS, NODE, kind_of_event
from benchmarks.training.trial import Trial, wait
from train.loss import RegionLoss
from train.trainer import Session, step

STEPS = 3


class _NamedLoss(RegionLoss):
    """The loss under its name in a profile."""

    def supervised(self, outputs: Sequence[Tensor], label: Tensor) -> tuple[Tensor, Tensor]:
        with record_function(LOSS):
            return super().supervised(outputs, label)


def profile_steps(trial: Trial) -> dict[str, float]:
    """A step's time by kind of work, in ms: of the GPU, or on a CPU of the thread that steps.

    Empty where the profiler sees nothing of a GPU.
    """
    on_gpu = trial.session.compute.device.type == "cuda"
    spent: dict[str, float] = defaultdict(float)
    for kind, event in told_apart(watch(trial)):
        if not on_gpu:
            spent[kind] += event.self_cpu_time_total
        else:  # a name that a block was given launches nothing, but may have its span
            own = (kernel for kernel in event.kernels if kernel.name != event.name)
            spent[kind] += sum(kernel.duration for kernel in own)
    return {kind: spent / STEPS / 1e3 for kind, spent in spent.items() if spent}


def watch(trial: Trial) -> list[Any]:
    """What the profiler sees of some steps on the CPU, each with what it launched on a GPU."""
    device = trial.session.compute.device
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with _loss_named(trial.session):
        wait(device)
        with profile(activities=activities, acc_events=True) as watched:
            for _ in range(STEPS):
                step(trial.session, trial.batch)
            wait(device)
    return [event for event in watched.events() or () if event.device_type.name == "CPU"]


def told_apart(events: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Each event with its kind of work."""
    inside = [list(_around(event)) for event in events]
    loss = _loss_numbers(inside)
    for event, around in zip(events, inside, strict=True):
        names = [each.name for each in around]
        of_loss = LOSS in names or any(
            each.name.startswith(NODE) and each.sequence_nr in loss for each in around
        )
        yield kind_of_event(names, of_loss=of_loss), event


def _around(event: Any) -> Iterator[Any]:  # noqa: ANN401 - torch's own, without types
    """The event, what it happened in, and so on outwards."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _loss_numbers(inside: Iterable[Sequence[Any]]) -> set[int]:
    """Of the nodes that the loss made: a node and the operator that made it share a number.

    An operator that made none has the number of the next that is made, which may be another's.
    """
    made: dict[bool, set[int]] = {True: set(), False: set()}
    for event, *outer in inside:
        names = [each.name for each in (event, *outer)]
        if event.sequence_nr >= 0 and not any(name.startswith(NODE) for name in names):
            made[LOSS in names].add(event.sequence_nr)
    return made[True] - made[False]


@contextmanager
def _loss_named(session: Session) -> Iterator[None]:
    plain = session.loss
    session.loss = _NamedLoss(plain.config)
    try:
        yield
    finally:
        session.loss = plain
