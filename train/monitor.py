"""What a run shows while it trains and when it ends."""

from collections.abc import Mapping
from statistics import median
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

from common import hints
from common.console import TimesColumn, duration, err, out
from common.images import shown_channel
from common.task import Task, title
from train.activations import FP16_LIMIT, NEAR
from train.checkpoint import checkpoint_path
from train.evaluate import ScoredCase
from train.figures.samples import overlay
from train.figures.tensorboard import Curves
from train.position import Position
from train.session import Session
from train.trainer import End

OVERLAYS = 3  # cases whose picture goes to TensorBoard at each validation: always the same ones

RATE_SECONDS = 1800
"""The remaining time is estimated over the last half hour, so that validations are in it."""


class Monitor:
    """Shows training as it goes; a context manager."""

    def __init__(self, session: Session, samples: int) -> None:
        at = session.at
        self._session, self._samples = session, samples
        self._curves = Curves(session.run_dir, at.step + 1)
        self._bars = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[cases]}"),
            TimesColumn(),
            speed_estimate_period=RATE_SECONDS,
        )
        epochs = session.config.epochs
        self._task = self._bars.add_task(
            _epoch_of(at, epochs), total=epochs * samples, completed=self._done(at), cases=""
        )
        self._validation = self._bars.add_task("validating", visible=False, cases="")
        self._live = Live(
            console=out, refresh_per_second=4, transient=True, get_renderable=self._panel
        )

    def __enter__(self) -> Self:
        if out.is_terminal:  # without a terminal, a line for each epoch is the log
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._curves.close()

    def step(self, at: Position, loss: float) -> None:
        """Show the loss of a step, and how far the run is."""
        self._curves.add("train/loss_step", loss, at.step)
        self._bars.update(
            self._task,
            description=_epoch_of(at, self._session.config.epochs),
            completed=self._done(at),
        )

    def validating(self, at: Position, done: int, total: int, scored: ScoredCase | None) -> None:
        """Show how many validation cases are scored; TensorBoard gets pictures of the first few."""
        self._bars.update(
            self._validation,
            completed=done,
            total=total,
            cases=f"{done} of {total} cases",
            visible=done < total,
        )
        if scored and done <= OVERLAYS:
            task = scored.task
            modality = title(task.modalities[shown_channel(task.modalities)])
            name = f"val/{done} {scored.score.case_id} ({modality}, reference, prediction)"
            self._curves.add_image(name, overlay(scored.sample(), task), at.step)

    def epoch(self, row: dict[str, Any], *, best: bool) -> None:
        """Print a line for a finished epoch, and send its row to TensorBoard."""
        for key, value in row.items():
            if value is not None and key not in {"epoch", "steps"}:
                self._curves.add(_curve(key), value, row["steps"])
        self._curves.flush()
        line = f"epoch {row['epoch']:>3}  loss {_shown(row['train_loss'])}"
        if row["val_loss"] is not None:
            dice = _dice(row, self._session.store.task)
            line += f"  val loss {row['val_loss']:.3f}  Dice {dice}"
        line += f"  {row['volumes_per_second']:.3g} volumes/s  wait {row['wait_share']:.1%}"
        if row["skipped_steps"]:
            line += f"  {row['skipped_steps']} step(s) skipped"
        out.print(line + ("  ★ best" if best else ""), soft_wrap=True)
        before = [each for each in self._session.at.rows if each["epoch"] < row["epoch"]]
        near = self._session.compute.precision == "fp16" and _near_limit(row)
        if near and not any(map(_near_limit, before)):
            err.print(f"warning: {_too_near(row)}", soft_wrap=True)

    def _done(self, at: Position) -> int:
        return (at.epoch - 1) * self._samples + at.samples

    def _panel(self) -> Panel:
        """The current numbers; a thread draws them four times a second."""
        session, at = self._session, self._session.at
        rate = at.samples / at.seconds if at.seconds else 0.0
        wait = at.waited_seconds / at.seconds if at.seconds else 0.0
        numbers = Table.grid(*(Column(no_wrap=True) for _ in range(5)), padding=(0, 3))
        numbers.add_row(
            Text.assemble("loss ", (_shown(at.mean_loss) if at.finite_samples else "–", "bold")),
            Text.assemble((f"{rate:.3g}", "bold"), " volumes/s"),
            Text.assemble("wait ", (f"{wait:.1%}", "bold" if wait < 0.02 else "bold yellow")),
            Text.assemble("peak ", (f"{session.compute.peak_memory_gb():.1f} GB", "bold")),
            Text(f"{at.skipped} step(s) skipped" if at.skipped else "", "yellow"),
        )
        parts = Group(self._bars, numbers, _dice_line(at, session.store.task))
        title = Text(f"{session.run_dir.name} · {session.compute.describe()}")
        return Panel(parts, title=title, title_align="left", expand=False)


def _dice_line(at: Position, task: Task) -> Text:
    """The last validation's Dice per region, and which epoch is the best so far."""
    validated = [row for row in at.rows if row["val_loss"] is not None]
    if not validated:
        return Text("Dice: not validated yet", "dim")
    line, last = Text("Dice"), validated[-1]
    for region, colour in task.region_colours.items():
        line.append(f"  {region.upper()} ").append(f"{last[f'val_dice_{region}']:.3f}", colour)
    line.append(f"  in epoch {last['epoch']}; best in epoch {at.best_epoch}", "dim")
    return line


def _dice(row: Mapping[str, Any], task: Task) -> str:
    """A validated epoch's Dice per region."""
    return " ".join(f"{each.upper()} {row[f'val_dice_{each}']:.3f}" for each in task.regions)


def _epoch_of(at: Position, epochs: int) -> str:
    return f"epoch {min(at.epoch, epochs)} of {epochs}"


def _shown(loss: float | None) -> str:
    return "non-finite" if loss is None else f"{loss:.3f}"


def _near_limit(row: Mapping[str, Any]) -> bool:
    """Whether an epoch's activations came near to float16's limit; False in rows of old runs."""
    largest = row.get("largest_activation", 0.0)
    return largest is None or largest >= NEAR


def _too_near(row: Mapping[str, Any]) -> str:
    largest = row["largest_activation"]
    found = "beyond it" if largest is None else f"{largest:,.0f}"
    return (
        f"epoch {row['epoch']}: the largest activation is {found}, float16 ends at "
        f"{FP16_LIMIT:,.0f} and steps beyond it are skipped; if the share of skipped steps grows, "
        "begin a new run with precision=bf16, a lower optimizer.lr or, of fm_net, model.norm=each"
    )


def _curve(key: str) -> str:
    """A row's key for TensorBoard, which groups by the part before the slash."""
    group, _, name = key.partition("_")
    return f"{group}/{name}" if group in {"train", "val"} else f"run/{key}"


def run_summary(session: Session, end: End) -> Table:
    """A run's results and what it took, a row for each."""
    at, config, compute = session.at, session.config, session.compute
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=True)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    why = f" ({end.value})" if end is not End.EPOCHS else ""
    under_way = f", {at.samples} sample(s) into the next" if at.samples else ""
    table.add_row("epochs", f"{len(at.rows)} of {config.epochs}{under_way}{why}")
    table.add_row("elapsed", f"{duration(at.spent_seconds)} with validation, over all sessions")
    best = next((row for row in at.rows if row["epoch"] == at.best_epoch), None)
    if best is None:
        table.add_row("best", "none yet: not validated yet")
    else:
        count, dice = len(session.validation), _dice(best, session.store.task)
        table.add_row(
            "best",
            f"epoch {at.best_epoch}, by {config.select_by}: Dice {dice}, loss "
            f"{best['val_loss']:.3f}, on {count} validation case{'s' if count > 1 else ''}",
        )
    if at.rows:
        rate, wait = (
            median(row[key] for row in at.rows) for key in ("volumes_per_second", "wait_share")
        )
        speed = f"{rate:.3g} volumes/s, {wait:.1%} of the time waiting for data"
        table.add_row("speed", f"{speed} (medians over epochs)")
    table.add_row("memory", f"peak {compute.peak_memory_gb():.1f} GB, {compute.describe()}")
    if skipped := at.skipped + sum(row["skipped_steps"] for row in at.rows):
        table.add_row("skipped", f"{skipped} of {at.step} steps had no finite gradient")
    weights = checkpoint_path(session.run_dir, "best" if best else "last")
    table.add_row("weights", Text(str(weights)))
    return table


def next_steps(session: Session, end: End) -> list[str]:
    """Commands that may follow, each after what it is for."""
    store, folder, config = session.store.path, session.run_dir, session.config
    if end is End.STOPPED:
        return [f"next: {hints.resume(store, folder)}"]
    which = "last" if session.at.best_epoch is None else "best"
    evaluate = hints.evaluate(folder, which)
    if end is End.EPOCHS and config.schedule.needs_end:  # its learning rate has fallen to 0
        return [f"next: {evaluate}"]
    longer = {
        End.EPOCHS: f"epochs={2 * config.epochs}",
        End.PATIENCE: "patience=null",
        End.HOURS: f"max_hours={2 * (config.max_hours or 0):g}",
    }[end]
    longer_run = hints.resume(store, folder, longer)
    return [f"next: {evaluate}", f"or train longer: {longer_run}"]
