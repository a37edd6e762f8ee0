"""The training loop, to be read from top to bottom."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch

from common.errors import FMNetError, LoaderError
from common.labels import REGIONS
from common.metrics import over_regions
from train import checkpoint
from train.config import TrainConfig
from train.evaluate import ScoredCase, mean_scores, score_cases
from train.loader import Batch
from train.monitor import Monitor
from train.precision import DTYPES
from train.session import METRICS, Position, Session, save


class DivergedError(FMNetError):
    """The loss or its gradients stayed non-finite."""


class OutOfMemoryError(FMNetError):
    """The network and its batch do not fit into the device's memory."""


class End(Enum):
    """Why training ended."""

    EPOCHS = "all epochs are done"
    PATIENCE = "no better validation for as long as patience allows"
    HOURS = "max_hours are over"
    STOPPED = "stopped"


def train(
    session: Session, batches: Iterator[Batch], monitor: Monitor, stopping: Callable[[], bool]
) -> End:
    """Train until the run is over, or until somebody wants it to stop.

    A checkpoint holds all that was learnt, but where the errors below say otherwise.

    Args:
        session: what to train; its position moves.
        batches: the endless stream, beginning at the session's position.
        monitor: told what happens.
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
        monitor.step(session.at, loss)
        if batch.last:
            end_epoch(session, monitor)
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
            "programs and go on with --resume"
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


def end_epoch(session: Session, monitor: Monitor) -> None:
    """Validate if it is time, write the epoch's row and a checkpoint, go on to the next."""
    at, config = session.at, session.config
    validating = at.epoch % config.validate_every == 0 or at.epoch == config.epochs
    if validating:
        save(session)  # a validation that fails, or is not waited for, costs no training
    row: dict[str, Any] = {
        "epoch": at.epoch,
        "train_loss": at.mean_loss,
        "val_loss": None,
        **{f"val_dice_{region}": None for region in REGIONS},
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
        row |= _validate(session, monitor)
        at.spent_seconds += time.monotonic() - began
        score = _score(row, config)
        best = at.best_score is None or score > at.best_score
        if best:
            at.best_score, at.best_epoch = score, at.epoch
    at.rows.append(row)
    session.at = at.next_epoch()
    save(session, best=best)
    write_metrics(session)
    monitor.epoch(row, best=best)


def write_metrics(session: Session) -> None:
    """The rows of all finished epochs; they come from the checkpoint, so none is there twice."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in session.at.rows)
    checkpoint.write_text(session.run_dir / METRICS, "".join(lines))


def _validate(session: Session, monitor: Monitor) -> dict[str, float]:
    """Whole-volume Dice and loss of the validation cases, as entries of the epoch's row."""
    cases, done = session.validation, 0
    monitor.validating(done, len(cases))

    def on_case(scored: ScoredCase) -> None:
        nonlocal done
        monitor.case(session.at, done, scored)
        done += 1
        monitor.validating(done, len(cases))

    with _memory_told(session, "in validation; go on with --resume --set inference.tiles=1"):
        mean = mean_scores(score_cases(session.as_trained(), session.store, cases, on_case))
    return {"val_loss": mean.loss} | {
        f"val_dice_{region}": dice for region, dice in mean.dice.items()
    }


def _score(row: dict[str, Any], config: TrainConfig) -> float:
    """What the best checkpoint is best in; more is better."""
    if config.select_by == "loss":
        return -float(row["val_loss"])
    return over_regions({region: row[f"val_dice_{region}"] for region in REGIONS})
