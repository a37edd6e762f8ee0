"""A run's state: what the training loop works on, and how it is begun, saved and restored."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from common.console import err
from common.errors import CheckpointError
from common.splits import SplitAssignment
from common.store import Store
from train import checkpoint
from train.activations import LargestActivation
from train.average import Average
from train.checkpoint import Checkpoint, Which
from train.config import TrainConfig
from train.data.stream import Stream
from train.initial import Start
from train.loaded_run import LoadedRun
from train.loss import RegionLoss
from train.position import Position, position_of
from train.precision import Compiled, Compute


@dataclass
class Session:
    """What the training loop works on."""

    run_dir: Path
    config: TrainConfig
    compute: Compute
    store: Store
    splits: SplitAssignment
    model: nn.Module  # on the device
    forward: Callable[[Tensor], tuple[Tensor, ...]]  # the model itself, or compiled
    loss: RegionLoss
    optimizer: torch.optim.Optimizer
    activations: LargestActivation  # of the steps
    scaler: GradScaler  # passes gradients through where the precision needs no scaling
    average: Average | None = None  # of the weights, where the configuration has `ema`
    at: Position = field(default_factory=Position)
    start: Start | None = None  # the weights of another model that it began with

    @property
    def training(self) -> tuple[str, ...]:
        """Ids of the cases to train on."""
        return tuple(self.splits.cases["train"])

    @property
    def validation(self) -> list[str]:
        """Ids of the cases that are scored after an epoch."""
        return self.splits.cases["val"]

    def epoch_stream(self) -> Stream:
        """The samples from the start of the first epoch.

        Raises:
            ConfigError: the store does not have what `window` or `modalities` asks for.
        """
        return Stream(
            store=self.store,
            case_ids=self.training,
            modalities=self.config.modalities_of(self.store.task),
            augment=self.config.augment,
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            dims=self.config.model.dims,
            window=self.config.window,
            tumour_share=self.config.tumour_share,
            foreground=self.config.foreground_channel,
        )

    def stream(self) -> Stream:
        """The samples from the current position on."""
        return replace(self.epoch_stream(), first_epoch=self.at.epoch, skip=self.at.samples)

    def add_note(self, note: str) -> None:
        """Print and keep how the run computes differently than configured."""
        kept = "; ".join(filter(None, (self.compute.note, note)))
        self.compute = replace(self.compute, note=kept)
        err.print(f"warning: {note}", soft_wrap=True)

    @cached_property
    def steps(self) -> int:
        """Of all epochs."""
        samples = self.config.batch_size * self.config.accumulate
        return self.config.epochs * math.ceil(self.epoch_stream().samples / samples)

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0 over all epochs."""
        return self.config.optimizer.lr * self.config.schedule.factor(step, self.steps)

    def begin_average(self) -> None:
        """Begin the mean of the weights, if there is to be one, with those of now."""
        if self.config.ema is not None:
            self.average = Average(self.model, self.config.ema)

    def as_trained(self) -> LoadedRun:
        """The network as it is now, for scoring."""
        manifest, epoch = self.store.manifest, self.at.epoch
        model = self.average.model if self.average else self.model
        return LoadedRun(model, self.config, manifest, self.compute, self.run_dir, "last", epoch)


def new_session(
    run_dir: Path, config: TrainConfig, compute: Compute, store: Store, splits: SplitAssignment
) -> Session:
    """A session before its first step; the configured seed decides the weights."""
    torch.manual_seed(config.seed)
    model = config.build_network(store.task, compute.device)
    optimizer = config.optimizer.build(model.parameters())
    scaler = GradScaler(compute.device.type, enabled=compute.precision == "fp16")
    loss = RegionLoss(config.loss, store.task.regions)
    activations = LargestActivation(model, compute.device)
    session = Session(
        *(run_dir, config, compute, store, splits, model, model, loss, optimizer),
        activations,
        scaler,
    )
    session.begin_average()
    if config.compile:
        session.forward = Compiled(model, session.add_note)
    return session


def save(session: Session, *, best: bool = False) -> None:
    """Write the last checkpoint, which is also the best if `best`."""
    state = asdict(session.at) | {"scaler": session.scaler.state_dict()}
    tensors = checkpoint.capture(session.model, session.optimizer)
    if session.average:
        tensors |= checkpoint.capture_average(session.average.model)
    checkpoint.save(session.run_dir, Checkpoint(tensors, state), best=best)


def restore(session: Session) -> None:
    """Continue from the last checkpoint; if there is none, from the previous, else from the best.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    names: tuple[Which, ...] = ("last", "previous", "best")
    found = [name for name in names if checkpoint.checkpoint_path(session.run_dir, name).exists()]
    saved = checkpoint.load(session.run_dir, found[0] if found else "last")
    if found[0] != "last":
        err.print(
            f"warning: {session.run_dir}: last.safetensors is missing; going on from {found[0]}",
            soft_wrap=True,
        )
    checkpoint.restore(saved.tensors, session.model, session.optimizer)
    if session.average:
        checkpoint.load_weights(session.average.model, saved.average)
    session.at = position_of(saved.state, session.store.task, session.run_dir)
    if session.at.samples > session.epoch_stream().samples:
        raise CheckpointError(
            f"{session.run_dir}: the checkpoint is {session.at.samples} samples into an epoch of "
            f"{session.epoch_stream().samples}; begin a new run"
        )
    scaler = saved.state.get("scaler")
    try:
        if scaler and session.scaler.is_enabled():  # both are missing where nothing is scaled
            session.scaler.load_state_dict(scaler)
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{session.run_dir}: the checkpoint's gradient scale cannot be read ({error}); begin a "
            "new run"
        ) from error
