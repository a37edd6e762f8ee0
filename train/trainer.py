"""The training loop (step, advance, validate, save), from top to bottom."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor

from common import hints
from common.errors import DivergedError, FMNetError, LoaderError, OutOfMemoryError
from common.files import write_text
from common.metrics import TRAINING_METRICS, mean_over_regions
from common.names import some
from common.task import Task
from train.config import TrainConfig
from train.data.feed import Batch
from train.evaluate import ScoredCase, mean_scores, score_cases
from train.position import Position
from train.precision import DTYPES, told_as_out_of_memory
from train.run_folder import explained
from train.session import Session, save

METRICS_FILE = "metrics.jsonl"  # in a run's folder: one row of JSON for each finished epoch


class Observer(Protocol):
    """What the loop reports to; `train.monitor.Monitor` shows it."""

    def step(self, at: Position, loss: float) -> None:
        """After each step, with its loss."""

    def validating(self, at: Position, done: int, total: int, scored: ScoredCase | None) -> None:
        """Before the first validation case, and after each with its score."""

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        """After each epoch, with its row of metrics."""


class End(Enum):
    """Why training ended."""

    EPOCHS = "all epochs are done"
    PATIENCE = "no better validation within patience"
    HOURS = "max_hours reached"
    STOPPED = "stopped"


def train(
    session: Session, batches: Iterator[Batch], observer: Observer, stopping: Callable[[], bool]
) -> End:
    """Train until the run ends, or with a checkpoint until `stopping` is true after a step.

    `batches` are the endless ones from the session's position on, which moves.

    Raises:
        DivergedError: too many steps in a row had no finite gradient; no checkpoint is written.
        OutOfMemoryError: a step does not fit into the device's memory; no checkpoint is written.
        StoreError, LoaderError: a case cannot be read; a checkpoint is written.
        CheckpointError: a checkpoint cannot be written.
    """
    saved = time.monotonic()
    start = saved - session.at.spent_seconds
    while (end := ended(session)) is None:
        began = time.perf_counter()
        try:
            found = _next(session, batches)
        except LoaderError:
            if stopping():  # the signal to stop reached the workers too
                return End.STOPPED
            raise
        waited = time.perf_counter() - began
        with _explained_memory(session, _too_large(found[0])):
            loss, usable = step(session, *found)
        _advance(session, found, loss, usable=usable)
        session.at.seconds += time.perf_counter() - began
        session.at.waited_seconds += waited
        session.at.spent_seconds = time.monotonic() - start
        observer.step(session.at, loss)
        last = found[-1].last
        if last:
            end_epoch(session, observer)
        stop = stopping()
        late = time.monotonic() - saved > 60 * session.config.checkpoint_minutes
        if not last and (stop or late or ended(session)):
            save(session)
        if last or late:
            saved = time.monotonic()
        if stop:
            return ended(session) or End.STOPPED
    return end


def ended(session: Session) -> End | None:
    """Why the run is over; None while there is more to train."""
    at, config = session.at, session.config
    if at.epoch > config.epochs:
        return End.EPOCHS
    validated = [row["epoch"] for row in at.rows if row["val_loss"] is not None]
    since_best = sum(epoch > (at.best_epoch or 0) for epoch in validated)
    if config.patience is not None and since_best >= config.patience:
        return End.PATIENCE
    if config.max_hours is not None and at.spent_seconds >= 3600 * config.max_hours:
        return End.HOURS
    return None


def _next(session: Session, batches: Iterator[Batch]) -> list[Batch]:
    """The next step's batches, complete on the device; fewer than `accumulate` at an epoch's end.

    If one fails, a checkpoint is written first, from which all of them come again.
    """
    found = list[Batch]()
    try:
        while len(found) < session.config.accumulate and not (found and found[-1].last):
            found.append(next(batches))
    except FMNetError:
        save(session)
        raise
    if session.compute.device.type == "cuda":  # else the step would do the waiting
        torch.cuda.current_stream(session.compute.device).synchronize()
    return found


@contextmanager
def _explained_memory(session: Session, doing: str) -> Iterator[None]:
    """Raise torch's error of a full device as ours, with what to do."""
    try:
        with told_as_out_of_memory():
            yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{session.compute.describe()}: out of memory at a peak of "
            f"{session.compute.peak_memory_gb():.1f} GB, {doing}, or stop other programs on the "
            f"device and resume with {hints.option('--resume')}"
        ) from error


def _too_large(batch: Batch) -> str:
    return (
        f"with a batch of {len(batch.case_ids)} × {tuple(batch.image.shape[1:])}; begin again with "
        "a lower batch_size, for which accumulate can make up, precision=fp16 or fewer model.widths"
    )


def step(session: Session, *batches: Batch) -> tuple[float, bool]:
    """One step of the optimiser: the main head's loss before it, and whether it was taken.

    Loss and gradient are the means over the batches, weighted by their samples. A step without a
    finite gradient is skipped: half precision overflows now and then until the scale of the
    gradients has settled.
    """
    model, config = session.model.train(), session.config
    session.optimizer.zero_grad()
    session.activations.reset()
    samples = sum(len(batch.case_ids) for batch in batches)
    losses = [_backward(session, batch, len(batch.case_ids) / samples) for batch in batches]
    session.scaler.unscale_(session.optimizer)
    norm = torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    )
    # All in one transfer before the update, during which the next batch is prepared.
    numbers = [torch.stack(losses).sum(), norm, session.activations.value]
    loss, size, largest = torch.stack(numbers).tolist()
    session.at.note_activation(largest)
    usable = math.isfinite(size)
    if usable:
        if config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.clip_norm, norm)
        for group in session.optimizer.param_groups:
            group["lr"] = session.learning_rate(session.at.step)
        session.scaler.step(session.optimizer)
        if session.average:
            session.average.update(model, session.at.step)
    session.scaler.update()
    return loss, usable


def _backward(session: Session, batch: Batch, share: float) -> Tensor:
    """Add a batch's share to the gradients; returns its share of the main head's loss."""
    image = batch.image.to(
        dtype=DTYPES[session.compute.precision], memory_format=session.config.memory_format
    )
    with session.compute.autocast():
        outputs = session.forward(image)
    total, main = session.loss.supervised(outputs, batch.label)
    session.scaler.scale(total * share).backward()  # type: ignore[no-untyped-call]  # torch's stub
    return main * share


def _advance(session: Session, batches: Sequence[Batch], loss: float, *, usable: bool) -> None:
    at, case_ids = session.at, [case_id for batch in batches for case_id in batch.case_ids]
    count = len(case_ids)
    at.samples += count
    at.step += 1
    if math.isfinite(loss):
        at.loss_sum += loss * count
        at.finite_samples += count
    at.skipped += not usable
    at.skipped_in_a_row = 0 if usable else at.skipped_in_a_row + 1
    if at.skipped_in_a_row >= session.config.max_bad_steps:
        raise DivergedError(
            f"{at.skipped_in_a_row} steps in a row had a loss or a gradient that is NaN or "
            f"infinite, the last in epoch {at.epoch}, case(s) {some(case_ids)}, "
            f"loss {loss}. Begin a new run with a lower optimizer.lr, with clip_norm, or with "
            "precision=bf16"
        )


def end_epoch(session: Session, observer: Observer) -> None:
    """Validate if it is due, write the epoch's row and a checkpoint, start the next epoch."""
    at, config = session.at, session.config
    validating = at.epoch % config.validate_every == 0 or at.epoch == config.epochs
    if validating:
        save(session)  # so that a validation that fails or is interrupted loses no training
    row: dict[str, Any] = {
        "epoch": at.epoch,
        "train_loss": at.mean_loss,
        "val_loss": None,
        **{
            f"val_{metric.name}_{region}": None
            for metric in TRAINING_METRICS
            for region in session.store.task.regions
        },
        "steps": at.step,
        "learning_rate": session.learning_rate(at.step - 1),
        "skipped_steps": at.skipped,
        "skipped_share": at.skipped / at.epoch_steps,
        "largest_activation": at.largest_activation,
        "seconds": at.seconds,
        "volumes_per_second": at.samples / at.seconds,
        "wait_share": at.waited_seconds / at.seconds,
        "validation_seconds": None,
        "peak_memory_gb": session.compute.peak_memory_gb(),
    }
    best = False
    if validating:
        began = time.monotonic()
        row |= _validate(session, observer)
        row["validation_seconds"] = time.monotonic() - began
        at.spent_seconds += row["validation_seconds"]
        score = selection_score(row, config, session.store.task)
        best = at.best_score is None or score > at.best_score
        if best:
            at.best_score, at.best_epoch = score, at.epoch
    at.rows.append(row)
    session.at = at.next_epoch()
    save(session, best=best)
    write_metrics(session)
    observer.epoch(row, best=best)


def write_metrics(session: Session) -> None:
    """Write the checkpoint's rows of all finished epochs."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in session.at.rows)
    with explained(session.run_dir):
        write_text(session.run_dir / METRICS_FILE, "".join(lines))


def _validate(session: Session, observer: Observer) -> dict[str, float]:
    """Scores and loss over the validation cases' whole volumes, as entries of the epoch's row."""
    cases, done = session.validation, 0
    observer.validating(session.at, done, len(cases), None)

    def on_case(scored: ScoredCase) -> None:
        nonlocal done
        done += 1
        observer.validating(session.at, done, len(cases), scored)

    fewer = hints.option("--set", "inference.tiles=1")
    resume = f"in validation; resume with {hints.option('--resume')} {fewer}"
    with _explained_memory(session, resume):
        mean = mean_scores(score_cases(session.as_trained(), session.store, cases, on_case))
    return {"val_loss": mean.loss} | {
        f"val_{metric}_{region}": value
        for metric, of_regions in mean.metrics.items()
        for region, value in of_regions.items()
    }


def selection_score(row: Mapping[str, Any], config: TrainConfig, task: Task) -> float:
    """What decides which checkpoint is the best, of a validated epoch's row; higher is better."""
    if config.select_by == "loss":
        return -float(row["val_loss"])
    return mean_over_regions({region: row[f"val_dice_{region}"] for region in task.regions})
