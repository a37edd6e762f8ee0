"""A run while it trains: its state, and the loop, to be read from top to bottom."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from common import hints
from common.console import err
from common.errors import DivergedError, FMNetError, LoaderError, OutOfMemoryError
from common.metrics import METRICS as SCORES
from common.metrics import mean_over_regions
from common.splits import SplitAssignment
from common.store import Store
from train import checkpoint
from train.checkpoint import Checkpoint, Which
from train.config import TrainConfig
from train.data.feed import Batch
from train.data.stream import Stream
from train.evaluate import ScoredCase, mean_scores, score_cases
from train.loaded_run import LoadedRun
from train.loss import RegionLoss
from train.precision import DTYPES, Compiled, Compute

METRICS = "metrics.jsonl"
"""A row of JSON for every finished epoch, in a run's folder."""


@dataclass
class Position:
    """How far a run is: what goes into a checkpoint beside the tensors.

    Attributes:
        epoch: the one under way, from 1.
        samples: of this epoch, already learnt from.
        loss_sum: of the main head's losses of the samples below.
        judged: samples of this epoch whose loss was finite.
        step: optimiser steps tried, over all epochs.
        skipped: steps of this epoch without a usable gradient.
        skipped_in_a_row: likewise, up to now without one that was usable.
        spent_seconds: of the run so far, with validation, over all its sessions.
        seconds: training time of this epoch, validation apart.
        waited_seconds: of them, spent waiting for data.
        best_score: of the best validation so far; more is better.
        best_epoch: its epoch.
        rows: a row of metrics for every finished epoch.
    """

    epoch: int = 1
    samples: int = 0
    loss_sum: float = 0.0
    judged: int = 0
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    spent_seconds: float = 0.0
    seconds: float = 0.0
    waited_seconds: float = 0.0
    best_score: float | None = None
    best_epoch: int | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def mean_loss(self) -> float | None:
        """Of this epoch so far; None where no loss was finite."""
        return self.loss_sum / self.judged if self.judged else None

    def next_epoch(self) -> "Position":
        """The beginning of the epoch after this one."""
        return Position(
            epoch=self.epoch + 1,
            step=self.step,
            skipped_in_a_row=self.skipped_in_a_row,
            spent_seconds=self.spent_seconds,
            best_score=self.best_score,
            best_epoch=self.best_epoch,
            rows=self.rows,
        )


@dataclass
class Session:
    """What the loop works on.

    Attributes:
        run_dir: where checkpoints and metrics go.
        config: the run's configuration.
        compute: device and precision.
        store: where cases are read from.
        splits: its cases for training, validation and test.
        model: the network, on the device.
        forward: the network as a step calls it: itself, or compiled.
        loss: of logits and labels.
        optimizer: over the network's weights.
        scaler: of gradients; passes them through where the precision needs none.
        at: how far the run is.
    """

    run_dir: Path
    config: TrainConfig
    compute: Compute
    store: Store
    splits: SplitAssignment
    model: nn.Module
    forward: Callable[[Tensor], tuple[Tensor, ...]]
    loss: RegionLoss
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    at: Position = field(default_factory=Position)

    @property
    def training(self) -> tuple[str, ...]:
        """Ids of the cases to train on."""
        return tuple(self.splits.cases["train"])

    @property
    def validation(self) -> list[str]:
        """Ids of the cases that are scored after an epoch."""
        return self.splits.cases["val"]

    def epoch_stream(self) -> Stream:
        """The samples from the first epoch's first on.

        Raises:
            ConfigError: the store does not hold what they are to be cut from.
        """
        return Stream(
            store=self.store,
            case_ids=self.training,
            modalities=self.config.modalities,
            augment=self.config.augment,
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            dims=self.config.model.dims,
            window=self.config.window,
        )

    def stream(self) -> Stream:
        """The samples still to be learnt from, in the middle of an epoch if need be."""
        return replace(self.epoch_stream(), first_epoch=self.at.epoch, skip=self.at.samples)

    def add_note(self, note: str) -> None:
        """Say something of how the run computes, and keep it with what was said before."""
        kept = "; ".join(filter(None, (self.compute.note, note)))
        self.compute = replace(self.compute, note=kept)
        err.print(f"note: {note}", soft_wrap=True)

    def as_trained(self) -> LoadedRun:
        """The network as it is now, for scoring."""
        return LoadedRun(
            self.model,
            self.config,
            self.store.manifest,
            self.compute,
            self.run_dir,
            "last",
            self.at.epoch,
        )


def new_session(
    run_dir: Path, config: TrainConfig, compute: Compute, store: Store, splits: SplitAssignment
) -> Session:
    """A session at its beginning: fresh weights from the configured seed."""
    torch.manual_seed(config.seed)
    model = config.build_network(store.task, compute.device)
    optimizer = torch.optim.NAdam(
        model.parameters(),
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    scaler = GradScaler(compute.device.type, enabled=compute.precision == "fp16")
    session = Session(
        run_dir,
        config,
        compute,
        store,
        splits,
        model,
        model,
        RegionLoss(config.loss),
        optimizer,
        scaler,
    )
    if config.compile:
        session.forward = Compiled(model, session.add_note)
    return session


def save(session: Session, *, best: bool = False) -> None:
    """Write the last checkpoint, which is the best as well where `best` is true."""
    state = asdict(session.at) | {"scaler": session.scaler.state_dict()}
    tensors = checkpoint.capture(session.model, session.optimizer)
    checkpoint.save(session.run_dir, Checkpoint(tensors, state), best=best)


def restore(session: Session) -> None:
    """Put a session where its last checkpoint was; where that is gone, at the one before or best.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    kept: tuple[Which, ...] = ("last", "previous", "best")
    there = [which for which in kept if checkpoint.checkpoint_path(session.run_dir, which).exists()]
    found = checkpoint.load(session.run_dir, there[0] if there else "last")
    checkpoint.restore(found.tensors, session.model, session.optimizer)
    state = dict(found.state)
    scaler = state.pop("scaler")
    if scaler and session.scaler.is_enabled():  # neither is there where nothing is scaled
        session.scaler.load_state_dict(scaler)
    session.at = Position(**state)


class Observer(Protocol):
    """Told what happens during training; `train.monitor.Monitor` shows it."""

    def step(self, at: Position, loss: float) -> None:
        """After a step: how far the run is, and the loss."""

    def validating(self, done: int, total: int) -> None:
        """How many of the validation cases are scored."""

    def case(self, at: Position, index: int, scored: ScoredCase) -> None:
        """A validated case."""

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        """A finished epoch's row of metrics."""


class End(Enum):
    """Why training ended."""

    EPOCHS = "all epochs are done"
    PATIENCE = "no better validation for as long as patience allows"
    HOURS = "max_hours are over"
    STOPPED = "stopped"


def train(
    session: Session, batches: Iterator[Batch], observer: Observer, stopping: Callable[[], bool]
) -> End:
    """Train until the run is over, or until somebody wants it to stop.

    A checkpoint holds all that was learnt, but where the errors below say otherwise.

    Args:
        session: what to train; its position moves.
        batches: the endless stream, beginning at the session's position.
        observer: told what happens.
        stopping: asked after every step; true ends the run with a checkpoint to resume from.

    Raises:
        DivergedError: too many steps in a row had no usable gradient; nothing is saved then.
        OutOfMemoryError: a step does not fit into the device's memory; nothing is saved then.
        StoreError: a case cannot be read.
        LoaderError: the batches cease to come.
        CheckpointError: a checkpoint cannot be written.
    """
    saved = time.monotonic()
    start = saved - session.at.spent_seconds
    while (end := ended(session)) is None:
        began = time.perf_counter()
        try:
            batch = _next(session, batches)
        except LoaderError:
            if stopping():  # the signal to stop reached the workers too
                return End.STOPPED
            raise
        waited = time.perf_counter() - began
        loss, usable = _step(session, batch)
        _advance(session, batch, loss, usable=usable)
        session.at.seconds += time.perf_counter() - began
        session.at.waited_seconds += waited
        session.at.spent_seconds = time.monotonic() - start
        observer.step(session.at, loss)
        if batch.last:
            end_epoch(session, observer)
        stop = stopping()
        late = time.monotonic() - saved > 60 * session.config.checkpoint_minutes
        if not batch.last and (stop or late or ended(session)):
            save(session)
        if batch.last or late:
            saved = time.monotonic()
        if stop:
            return ended(session) or End.STOPPED
    return end


def ended(session: Session) -> End | None:
    """Why there is nothing more to train, as the configuration is; None if there is."""
    at, config = session.at, session.config
    if at.epoch > config.epochs:
        return End.EPOCHS
    if config.patience is not None and _since_best(at) >= config.patience:
        return End.PATIENCE
    if config.max_hours is not None and at.spent_seconds >= 3600 * config.max_hours:
        return End.HOURS
    return None


def _since_best(at: Position) -> int:
    """Validations after the best one."""
    validated = [row["epoch"] for row in at.rows if row["val_loss"] is not None]
    return sum(epoch > (at.best_epoch or 0) for epoch in validated)


def _next(session: Session, batches: Iterator[Batch]) -> Batch:
    """The next batch, there on the device; if none comes, what was learnt is saved first."""
    try:
        batch = next(batches)
    except FMNetError:
        save(session)
        raise
    if session.compute.device.type == "cuda":  # else the device would be waited for in the step
        torch.cuda.current_stream(session.compute.device).synchronize()
    return batch


@contextmanager
def _memory_told(session: Session, doing: str) -> Iterator[None]:
    """Says what did not fit, and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{session.compute.describe()}: out of memory after "
            f"{session.compute.peak_memory_gb():.1f} GB, {doing}, or free the device of other "
            f"programs and resume with {hints.option('--resume')}"
        ) from error


def _step(session: Session, batch: Batch) -> tuple[float, bool]:
    doing = (
        f"with a batch of {len(batch.case_ids)} × {tuple(batch.image.shape[1:])}; begin again with "
        "a lower batch_size, precision=fp16 or fewer model.widths"
    )
    with _memory_told(session, doing):
        return step(session, batch)


def step(session: Session, batch: Batch) -> tuple[float, bool]:
    """One step of the optimiser: the main head's loss before it, and whether it was taken.

    A step without a finite gradient is not taken: half precision overflows now and then while the
    scale of the gradients finds its level.
    """
    model, config = session.model.train(), session.config
    image = batch.image.to(
        dtype=DTYPES[session.compute.precision],
        memory_format=config.memory_format,
    )
    with session.compute.autocast():
        outputs = session.forward(image)
    total, main = session.loss.supervised(outputs, batch.label)
    session.optimizer.zero_grad()
    session.scaler.scale(total).backward()  # type: ignore[no-untyped-call]  # torch's stub
    session.scaler.unscale_(session.optimizer)
    norm = torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    )
    # Both in one transfer, before the update, which the device then does while others are prepared.
    loss, size = torch.stack([main, norm]).tolist()
    usable = math.isfinite(size)
    if usable:
        if config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.clip_norm, norm)
        session.scaler.step(session.optimizer)
    session.scaler.update()
    return loss, usable


def _advance(session: Session, batch: Batch, loss: float, *, usable: bool) -> None:
    at, count = session.at, len(batch.case_ids)
    at.samples += count
    at.step += 1
    if math.isfinite(loss):
        at.loss_sum += loss * count
        at.judged += count
    at.skipped += not usable
    at.skipped_in_a_row = 0 if usable else at.skipped_in_a_row + 1
    if at.skipped_in_a_row >= session.config.max_bad_steps:
        raise DivergedError(
            f"{at.skipped_in_a_row} steps in a row had a loss or a gradient that is NaN or "
            f"infinite; the last was in epoch {at.epoch}, case(s) {', '.join(batch.case_ids)}, "
            f"loss {loss}. Begin a new run with a lower optimizer.lr, with clip_norm, or with "
            "precision=bf16"
        )


def end_epoch(session: Session, observer: Observer) -> None:
    """Validate if it is time, write the epoch's row and a checkpoint, go on to the next."""
    at, config = session.at, session.config
    validating = at.epoch % config.validate_every == 0 or at.epoch == config.epochs
    if validating:
        save(session)  # a validation that fails, or is not waited for, costs no training
    row: dict[str, Any] = {
        "epoch": at.epoch,
        "train_loss": at.mean_loss,
        "val_loss": None,
        **{
            f"val_{metric.name}_{region}": None
            for metric in SCORES
            for region in session.store.task.regions
        },
        "steps": at.step,
        "skipped_steps": at.skipped,
        "seconds": at.seconds,
        "volumes_per_second": at.samples / at.seconds,
        "wait_share": at.waited_seconds / at.seconds,
        "peak_memory_gb": session.compute.peak_memory_gb(),
    }
    best = False
    if validating:
        began = time.monotonic()
        row |= _validate(session, observer)
        at.spent_seconds += time.monotonic() - began
        score = _score(row, session)
        best = at.best_score is None or score > at.best_score
        if best:
            at.best_score, at.best_epoch = score, at.epoch
    at.rows.append(row)
    session.at = at.next_epoch()
    save(session, best=best)
    write_metrics(session)
    observer.epoch(row, best=best)


def write_metrics(session: Session) -> None:
    """The rows of all finished epochs; they come from the checkpoint, so none is there twice."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in session.at.rows)
    checkpoint.write_text(session.run_dir / METRICS, "".join(lines))


def _validate(session: Session, observer: Observer) -> dict[str, float]:
    """Whole-volume Dice and loss of the validation cases, as entries of the epoch's row."""
    cases, done = session.validation, 0
    observer.validating(done, len(cases))

    def on_case(scored: ScoredCase) -> None:
        nonlocal done
        observer.case(session.at, done, scored)
        done += 1
        observer.validating(done, len(cases))

    fewer = hints.option("--set", "inference.tiles=1")
    resume = f"in validation; resume with {hints.option('--resume')} {fewer}"
    with _memory_told(session, resume):
        mean = mean_scores(score_cases(session.as_trained(), session.store, cases, on_case))
    return {"val_loss": mean.loss} | {
        f"val_{metric.name}_{region}": value
        for metric in SCORES
        for region, value in mean.of(metric.name).items()
    }


def _score(row: dict[str, Any], session: Session) -> float:
    """What the best checkpoint is best in; more is better."""
    if session.config.select_by == "loss":
        return -float(row["val_loss"])
    return mean_over_regions(
        {region: row[f"val_dice_{region}"] for region in session.store.task.regions}
    )
