"""What a run came to, for people: the end of `python -m train run`."""

from datetime import timedelta
from statistics import median

from rich.table import Table
from rich.text import Text

from common.labels import REGIONS
from common.program import command
from train.checkpoint import checkpoint_path
from train.loop import End
from train.session import Session
from train.trained import resuming


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
    again = resuming(store, folder)
    evaluate = command("train", "evaluate", str(folder), "--store", store)
    if session.at.best_epoch is None:
        evaluate += " --checkpoint last"
    go_on = {
        End.EPOCHS: f"{again} --set epochs={2 * config.epochs}",
        End.PATIENCE: f"{again} --set patience=null",
        End.HOURS: f"{again} --set max_hours={2 * (config.max_hours or 0):g}",
        End.STOPPED: again,
    }[end]
    if end is End.STOPPED:
        return [f"go on: {go_on}"]
    return [f"next: {evaluate}", f"to train longer: {go_on}"]


def _hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _validation(session: Session) -> str:
    count = len(session.validation)
    return f"{count} validation case{'s' if count > 1 else ''}"
