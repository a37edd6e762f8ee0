"""How far a run is, as its checkpoints hold it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import CheckpointError
from common.metrics import DICE
from common.settings import explain
from common.task import Task

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
ALWAYS = ("epoch", "steps", "skipped_steps", "volumes_per_second", "wait_share")
"""Keys of a row that are never null."""


@dataclass
class Position:
    """How far a run is: what a checkpoint holds beside the tensors."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    epoch: Annotated[int, Field(ge=1)] = 1  # the current one, from 1
    samples: Count = 0  # samples of this epoch trained on so far
    loss_sum: Finite = 0.0  # of this epoch's finite losses of the main head
    finite_samples: Count = 0  # samples of this epoch with a finite loss
    step: Count = 0  # optimiser steps over all epochs, with the skipped ones
    skipped: Count = 0  # steps of this epoch without a finite gradient
    largest_activation: Finite | None = 0.0  # of this epoch; None if one was not finite
    skipped_in_a_row: Count = 0  # steps up to now without a finite gradient
    spent_seconds: Finite = 0.0  # training and validation time, over all sessions
    seconds: Finite = 0.0  # training time of this epoch, without validation
    waited_seconds: Finite = 0.0  # of this, time spent waiting for data
    best_score: Finite | None = None  # of the best validation so far; higher is better
    best_epoch: Count | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)  # a row for each finished epoch

    @property
    def mean_loss(self) -> float | None:
        """Of this epoch; None if no loss was finite."""
        return self.loss_sum / self.finite_samples if self.finite_samples else None

    @property
    def epoch_steps(self) -> int:
        """Optimiser steps of this epoch, with the skipped ones."""
        return self.step - (self.rows[-1]["steps"] if self.rows else 0)

    def note_activation(self, largest: float) -> None:
        """Take in the largest activation of a step."""
        if self.largest_activation is not None:
            finite = math.isfinite(largest)
            self.largest_activation = max(self.largest_activation, largest) if finite else None

    def next_epoch(self) -> "Position":
        """The start of the next epoch."""
        return Position(
            epoch=self.epoch + 1,
            step=self.step,
            skipped_in_a_row=self.skipped_in_a_row,
            spent_seconds=self.spent_seconds,
            best_score=self.best_score,
            best_epoch=self.best_epoch,
            rows=self.rows,
        )


_ADAPTER = TypeAdapter(Position)


def position_of(state: Mapping[str, Any], task: Task, run_dir: Path) -> Position:
    """The position in a checkpoint's state, which has the gradient scaler's beside it.

    Raises:
        CheckpointError: it is not one that this version wrote.
    """
    values = {key: value for key, value in state.items() if key != "scaler"}
    try:
        found = _ADAPTER.validate_json(json.dumps(values))
        problem = _problem(found, task)
    except ValidationError as error:
        problem = explain(error)
    if problem:
        raise CheckpointError(
            f"{run_dir}: the checkpoint's state is not that of this version ({problem}); resume "
            "with the version that wrote it, or begin a new run"
        )
    return found


def _problem(at: Position, task: Task) -> str:
    """What does not fit in a position; empty if all does."""
    epochs = [row.get("epoch") for row in at.rows]
    if epochs != [epoch for epoch in range(1, at.epoch) if epoch in epochs]:
        return f"its rows are not those of the epochs before epoch {at.epoch}"
    validated = [f"val_{DICE.name}_{region}" for region in task.regions]
    for row in at.rows:
        if odd := [key for key, value in row.items() if value is not None and not _finite(value)]:
            return f"the row of epoch {row['epoch']} has no number as {', '.join(odd)}"
        needed = [*ALWAYS, *(validated if row.get("val_loss") is not None else ())]
        if absent := [key for key in needed if row.get(key) is None]:
            return f"the row of epoch {row['epoch']} has no {', '.join(absent)}"
        if absent := [key for key in ("train_loss", "val_loss") if key not in row]:
            return f"the row of epoch {row['epoch']} has no {', '.join(absent)}"
    return "samples without any time" if at.samples and not at.seconds else ""


def _finite(value: object) -> bool:
    return type(value) in {int, float} and math.isfinite(value)  # type: ignore[arg-type]  # no bool
