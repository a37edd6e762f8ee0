"""What a run is made of while it runs, and its way into a checkpoint and back."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from common.console import err
from common.store import Store
from train import checkpoint
from train.checkpoint import Checkpoint, Which
from train.compiled import Compiled
from train.config import TrainConfig
from train.loss import RegionLoss
from train.model import FMNet
from train.precision import Compute
from train.stream import Stream
from train.trained import TrainedModel

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
        validation: ids of the cases that are scored.
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
    validation: list[str]
    model: FMNet
    forward: Callable[[Tensor], tuple[Tensor, ...]]
    loss: RegionLoss
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    at: Position = field(default_factory=Position)

    @cached_property
    def training(self) -> tuple[str, ...]:
        """Ids of the cases to learn from; every record of the store is read for them, once."""
        return tuple(self.store.split("train"))

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

    def as_trained(self) -> TrainedModel:
        """The network as it is now, for scoring."""
        return TrainedModel(
            self.model,
            self.config,
            self.store.manifest,
            self.compute,
            self.run_dir,
            "last",
            self.at.epoch,
        )


def new_session(
    run_dir: Path, config: TrainConfig, compute: Compute, store: Store, validation: list[str]
) -> Session:
    """A session at its beginning: fresh weights from the configured seed."""
    torch.manual_seed(config.seed)
    model = FMNet(config.model).to(compute.device)
    model = model.to(memory_format=config.memory_format)  # type: ignore[call-overload]  # torch's stub has only the 4-D format
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
        validation,
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
