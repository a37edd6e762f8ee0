"""A run that is stopped within an epoch resumes and comes to where it would have come."""

import signal
from collections import defaultdict

import pytest
import torch
from gpu_check import PRESET, Check, Row, judged, verdict
from torch import Tensor, nn

from train.checkpoint import MODEL, OPTIMIZER, RNG, Checkpoint, load
from train.data.augment import AUGMENTATIONS
from train.run import execute, reopen
from train.session import Session

pytestmark = pytest.mark.gpu

STOP, STEPS = 7, 10
"""Steps before the stop, one less where an epoch would end there, and in all."""
EVERY_AUGMENTATION = tuple(f"augment.{name}.probability=1" for name in AUGMENTATIONS)
CHANGES = (
    *(f"epochs={10**6}", f"validate_every={10**6}"),  # no run comes to a validation
    *(*EVERY_AUGMENTATION, "deterministic=true", "batch_size=1"),
)
MARGIN = 3
"""Between one pair of runs and another. Where a GPU adds up in no fixed order, each pair of runs
comes to differ by about as much as any other; a lost moment or another batch moves every weight."""


def test_a_resumed_run_equals_one_without_a_break(check: Check) -> None:
    check.need_time("resume")
    cases = len(check.bench.store.contents().split("train"))
    if cases < 2:
        check.not_run("resume", "an epoch of one case has no middle to stop in")
    stop = STOP if STOP % cases else STOP - 1
    unbroken: list[Checkpoint] = []
    for _ in range(2):
        with check.bench.begun(PRESET, *CHANGES) as session:
            unbroken.append(train_to(session, STEPS))
    with check.bench.begun(PRESET, *CHANGES, saved=True) as session:
        train_to(session, stop)
        again = reopen(None, (), check.bench.store, session.run_dir)
        began = again.at.step
        resumed = train_to(again, STEPS)
    one, other = unbroken
    places = [[end.state[key] for key in ("epoch", "samples", "step")] for end in (one, resumed)]
    status = verdict(began == stop and places[0] == places[1])
    why = "the step that it was stopped at; both end at the same sample"
    at = Row("resumed: at step", status, why, began, stop, {"epoch, samples, step": places})
    check.add(at, *judge(one, other, resumed, on_gpu=check.on_gpu))


def train_to(session: Session, steps: int) -> Checkpoint:
    """Train until a SIGTERM in the last of so many steps; what is saved then."""
    left = steps - session.at.step

    def count(model: nn.Module, *_: object) -> None:
        nonlocal left
        left -= model.training
        if left == 0:
            signal.raise_signal(signal.SIGTERM)

    hook = session.model.register_forward_hook(count)
    try:
        execute(session)
    finally:
        hook.remove()
    return load(session.run_dir, "last")


def judge(one: Checkpoint, other: Checkpoint, resumed: Checkpoint, *, on_gpu: bool) -> list[Row]:
    """Compare a resumed run with one without a break, and that one with another."""
    kept = {frozenset(run.tensors) for run in (one, other, resumed)}
    if len(kept) > 1 or not any(name.startswith(OPTIMIZER) for name in one.tensors):
        why = "the runs' optimisers have not learnt the same weights, or none"
        return [Row("resumed: tensors", "FAILED", why)]
    spread, found = distances(other, one), distances(resumed, one)
    if not on_gpu:
        why = "two runs on a CPU are equal to the bit, and so is this one"
        return [judged(f"resumed: {what}", found[what], 0.0, why) for what in spread]
    why = f"{MARGIN} times as far as two runs without a break are apart"
    return [
        judged(f"resumed: {what}", found[what], MARGIN * apart, why, without_a_break=apart)
        for what, apart in spread.items()
    ]


def distances(one: Checkpoint, other: Checkpoint) -> dict[str, float]:
    """How far two checkpoints of the same tensors are apart, relative to the second's norm.

    Weights and each kind of the optimiser's state by themselves: their sizes differ by far.
    """
    apart, size = defaultdict[str, list[Tensor]](list), defaultdict[str, list[Tensor]](list)
    for name, tensor in other.tensors.items():
        what = "weights" if name.startswith(MODEL) else name.rpartition(".")[2]
        what = "random numbers" if name == RNG else what
        size[what].append(tensor.double().norm())
        apart[what].append((one.tensors[name].double() - tensor.double()).norm())
    return {
        what: float(torch.stack(apart[what]).norm() / torch.stack(size[what]).norm())
        for what in size
    }
