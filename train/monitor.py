"""What a run shows while it goes on and when it ends."""

from datetime import timedelta
from statistics import median
from types import TracebackType
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text
from torch.utils.tensorboard.writer import SummaryWriter

from common import hints
from common.console import out
from common.task import REGION_COLOURS, REGIONS
from train.checkpoint import checkpoint_path
from train.evaluate import ScoredCase
from train.figures import overlay, sample_of
from train.trainer import End, Position, Session

OVERLAYS = 3
"""Cases whose picture goes to TensorBoard at each validation: always the same, to see them grow."""

RATE_SECONDS = 1800
"""How far back the remaining time looks, so that a validation counts with what it delays."""


class Monitor:
    """Shows training as it goes; a context manager.

    Args:
        session: the run, where it begins; what TensorBoard has from beyond that is hidden.
        samples: how many an epoch has.
    """

    def __init__(self, session: Session, samples: int) -> None:
        at, run_dir = session.at, session.run_dir
        self._session, self._samples = session, samples
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=at.step + 1)
        self._bars = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            speed_estimate_period=RATE_SECONDS,
        )
        epochs = session.config.epochs
        self._task = self._bars.add_task(
            _epoch_of(at, epochs), total=epochs * samples, completed=self._done(at), numbers="left"
        )
        self._validation = self._bars.add_task("validating", visible=False, numbers="")
        self._live = Live(
            console=out, refresh_per_second=4, transient=True, get_renderable=self._panel
        )

    def __enter__(self) -> Self:
        if out.is_terminal:  # elsewhere the epochs' lines are the log
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        self._writer.close()

    def step(self, at: Position, loss: float) -> None:
        """After a step: how far the run is, and the loss."""
        self._writer.add_scalar("train/loss_step", loss, at.step)
        self._bars.update(
            self._task,
            description=_epoch_of(at, self._session.config.epochs),
            completed=self._done(at),
        )

    def validating(self, done: int, total: int) -> None:
        """How many of the validation cases are scored."""
        self._bars.update(
            self._validation,
            completed=done,
            total=total,
            numbers=f"{done} of {total} cases",
            visible=done < total,
        )

    def case(self, at: Position, index: int, scored: ScoredCase) -> None:
        """A validated case: TensorBoard gets a picture of the first few, image, expert, network."""
        if index >= OVERLAYS:
            return
        score = scored.score
        sample = sample_of(
            score.case_id, score.dice, scored.image, scored.reference, scored.prediction
        )
        name = f"val/{index + 1} {score.case_id} (FLAIR, expert, prediction)"
        self._writer.add_image(name, overlay(sample), at.step, dataformats="HWC")

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        """A finished epoch's row: one line that stays, and TensorBoard's curves."""
        for key, value in row.items():
            if value is not None and key not in {"epoch", "steps"}:
                self._writer.add_scalar(_curve(key), value, row["steps"])
        self._writer.flush()
        line = f"epoch {row['epoch']:>3}  loss {_shown(row['train_loss'])}"
        if row["val_loss"] is not None:
            scores = [f"{region.upper()} {row[f'val_dice_{region}']:.3f}" for region in REGIONS]
            line += f"  val loss {row['val_loss']:.3f}  Dice {' '.join(scores)}"
        line += f"  {row['volumes_per_second']:.3g} volumes/s  wait {row['wait_share']:.1%}"
        if row["skipped_steps"]:
            line += f"  {row['skipped_steps']} step(s) skipped"
        out.print(line + ("  ★ best" if best else ""), soft_wrap=True)

    def _done(self, at: Position) -> int:
        return (at.epoch - 1) * self._samples + at.samples

    def _panel(self) -> Panel:
        """The numbers as they are now; drawn by a thread of its own, four times a second."""
        session, at = self._session, self._session.at
        rate = at.samples / at.seconds if at.seconds else 0.0
        wait = at.waited_seconds / at.seconds if at.seconds else 0.0
        numbers = Table.grid(*(Column(no_wrap=True) for _ in range(5)), padding=(0, 3))
        numbers.add_row(
            Text.assemble("loss ", (_shown(at.mean_loss) if at.judged else "–", "bold")),
            Text.assemble((f"{rate:.3g}", "bold"), " volumes/s"),
            Text.assemble("wait ", (f"{wait:.1%}", "bold" if wait < 0.02 else "bold yellow")),
            Text.assemble("memory ", (f"{session.compute.peak_memory_gb():.1f} GB", "bold")),
            Text(f"{at.skipped} step(s) skipped" if at.skipped else "", "yellow"),
        )
        parts = (self._bars, numbers, _dice_line(at))
        title = f"{session.run_dir.name} · {session.compute.describe()}"
        return Panel(Group(*parts), title=Text(title), title_align="left", expand=False)


def _dice_line(at: Position) -> Text:
    """The last validation's Dice per region, and which epoch is the best so far."""
    validated = [row for row in at.rows if row["val_loss"] is not None]
    if not validated:
        return Text("whole-volume Dice: not validated yet", "dim")
    line = Text("whole-volume Dice")
    for region in REGIONS:
        value = f"{validated[-1][f'val_dice_{region}']:.3f}"
        line.append(f"  {region.upper()} ").append(value, REGION_COLOURS[region])
    line.append(f"  in epoch {validated[-1]['epoch']}; best in epoch {at.best_epoch}", "dim")
    return line


def _epoch_of(at: Position, epochs: int) -> str:
    return f"epoch {min(at.epoch, epochs)} of {epochs}"


def _shown(loss: float | None) -> str:
    return "non-finite" if loss is None else f"{loss:.3f}"


def _curve(key: str) -> str:
    """TensorBoard groups by what stands before the slash."""
    group, _, name = key.partition("_")
    return f"{group}/{name}" if group in {"train", "val"} else f"run/{key}"


def run_summary(session: Session, end: End) -> Table:
    """A row for each thing that one wants to know when coming back in the morning."""
    at, config, compute = session.at, session.config, session.compute
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=True)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    why = f" ({end.value})" if end is not End.EPOCHS else ""
    under_way = f", {at.samples} sample(s) into the next" if at.samples else ""
    table.add_row("epochs", f"{len(at.rows)} of {config.epochs}{under_way}{why}")
    table.add_row("time", f"{_hours(at.spent_seconds)}, validation and earlier sessions with it")
    best = [row for row in at.rows if row["epoch"] == at.best_epoch]
    if best:
        dice = "  ".join(
            f"{region.upper()} {best[0][f'val_dice_{region}']:.3f}" for region in REGIONS
        )
        chosen = f"epoch {at.best_epoch}, by {config.select_by}: whole-volume Dice {dice}"
        table.add_row(
            "best", f"{chosen}, loss {best[0]['val_loss']:.3f}, on {_validation(session)}"
        )
    else:
        table.add_row("best", "none yet: never validated")
    if at.rows:
        rates, waits = (
            [row[key] for row in at.rows] for key in ("volumes_per_second", "wait_share")
        )
        speed = f"{median(rates):.3g} volumes/s, {median(waits):.1%} of it waiting for data"
        table.add_row("speed", f"{speed} (medians over epochs)")
    table.add_row("memory", f"{compute.peak_memory_gb():.1f} GB at most, {compute.describe()}")
    if skipped := at.skipped + sum(row["skipped_steps"] for row in at.rows):
        table.add_row("skipped", f"{skipped} of {at.step} steps had no finite gradient")
    weights = checkpoint_path(session.run_dir, "best" if best else "last")
    table.add_row("weights", Text(str(weights)))
    return table


def next_steps(session: Session, end: End) -> list[str]:
    """The commands that one may want after it."""
    store, folder, config = session.store.path, session.run_dir, session.config
    which = "last" if session.at.best_epoch is None else "best"
    evaluate = hints.evaluate(store, folder, which)
    if end is End.STOPPED:
        return [f"resume with: {hints.resume(store, folder)}"]
    longer = {
        End.EPOCHS: f"epochs={2 * config.epochs}",
        End.PATIENCE: "patience=null",
        End.HOURS: f"max_hours={2 * (config.max_hours or 0):g}",
    }[end]
    return [f"next: {evaluate}", f"to train longer: {hints.resume(store, folder, longer)}"]


def _hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _validation(session: Session) -> str:
    count = len(session.validation)
    return f"{count} validation case{'s' if count > 1 else ''}"
