"""What a run shows while it goes on: a progress bar, a line an epoch, and TensorBoard."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard.writer import SummaryWriter

from common.console import out
from common.labels import REGIONS
from train.session import Position


class Monitor:
    """Shows training as it goes; a context manager.

    Args:
        run_dir: TensorBoard's files go into its folder `tensorboard`.
        epochs: how many there will be.
        samples: how many an epoch has.
        at: where the run begins; what TensorBoard has from beyond it is hidden.
    """

    def __init__(self, run_dir: Path, epochs: int, samples: int, at: Position) -> None:
        self._samples = samples
        self._dice = "–"
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=at.step + 1)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=out,
        )
        done = (at.epoch - 1) * samples + at.samples
        self._task = self._bar.add_task(
            f"epoch {at.epoch}", total=epochs * samples, completed=done, numbers=""
        )
        self._validation = self._bar.add_task("validating", visible=False, numbers="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._writer.close()

    def step(self, at: Position, loss: float) -> None:
        """After a step: how far the epoch is, and its loss, rate and wait so far."""
        self._writer.add_scalar("train/loss_step", loss, at.step)
        numbers = (
            f"loss {_shown(at.mean_loss)} · Dice {self._dice} · "
            f"{at.samples / at.seconds:.1f}/s · wait {at.waited_seconds / at.seconds:.1%}"
        )
        self._bar.update(
            self._task,
            description=f"epoch {at.epoch}",
            completed=(at.epoch - 1) * self._samples + at.samples,
            numbers=numbers + (f" · {at.skipped} skipped" if at.skipped else ""),
        )

    def validating(self, done: int, total: int) -> None:
        """How many of the validation cases are scored."""
        self._bar.update(
            self._validation,
            completed=done,
            total=total,
            numbers=f"{done} of {total} cases",
            visible=done < total,
        )

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        """A finished epoch's row: one line that stays, and TensorBoard's curves."""
        for key, value in row.items():
            if value is not None and key not in {"epoch", "steps"}:
                self._writer.add_scalar(_curve(key), value, row["steps"])
        self._writer.flush()
        line = f"epoch {row['epoch']:>3}  loss {_shown(row['train_loss'])}"
        if row["val_loss"] is not None:
            scores = [f"{region.upper()} {row[f'val_dice_{region}']:.3f}" for region in REGIONS]
            self._dice = " ".join(f"{row[f'val_dice_{region}']:.2f}" for region in REGIONS)
            line += f"  val loss {row['val_loss']:.3f}  Dice {' '.join(scores)}"
        line += f"  {row['volumes_per_second']:.1f} volumes/s  wait {row['wait_share']:.1%}"
        if row["skipped_steps"]:
            line += f"  {row['skipped_steps']} step(s) skipped"
        self._bar.print(line + ("  ★ best" if best else ""), soft_wrap=True)


def _shown(loss: float | None) -> str:
    return "non-finite" if loss is None else f"{loss:.3f}"


def _curve(key: str) -> str:
    """TensorBoard groups by what stands before the slash."""
    group, _, name = key.partition("_")
    return f"{group}/{name}" if group in {"train", "val"} else f"run/{key}"
