"""What both command lines share: errors, exit codes and progress bars."""

import errno
import signal
import sys
from datetime import timedelta
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.text import Text
from typer.core import TyperGroup

from common.errors import FMNetError

USAGE_ERROR = 2
INTERRUPTED = 130

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of a disk or a folder, as opposed to errors of this program."""

EXTRAS = {
    "preprocess": {"dask", "dask_jobqueue", "distributed", "jinja2", "markupsafe", "PIL"},
    "s3": {"s3fs"},
    "train": {"matplotlib", "nvidia", "psutil", "safetensors", "tensorboard", "torch"},
}
"""Import names of each extra's packages."""

# No markup: paths may contain brackets.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


def run(app: typer.Typer) -> None:
    """Run a command line; errors that a user can mend are one message without a traceback."""
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # another Ctrl-C must not end what Python does at its exit
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
    except FMNetError as error:
        _exit_with(str(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _exit_with(f"{error}: free some space, or make it writable")
    except ImportError as error:
        _exit_with(f"a package is missing: {error}{_extra_for(error)}")


class Commands(TyperGroup):
    """Commands that print a line when Ctrl-C ends them; typer's own print nothing."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - of a class that typer does not name
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def _exit_with(message: str) -> NoReturn:
    err.print("error:", style="bold red", end=" ")
    err.print(message, soft_wrap=True)
    sys.exit(USAGE_ERROR)


def _extra_for(error: ImportError) -> str:
    """How to install a package, if it belongs to an extra; fsspec wraps the error."""
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    package = (cause.name or "").partition(".")[0]
    extras = [extra for extra, packages in EXTRAS.items() if package in packages]
    return "".join(f"; install it with pip install '.[{extra}]'" for extra in extras)


class RateColumn(ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate; a dash until it is known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self.unit}/s" if speed else f"– {self.unit}/s", "cyan")


class TimesColumn(ProgressColumn):
    """Elapsed and remaining time."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """`0:01:05 elapsed`, and the remaining time once it is known."""
        times = [f"{duration(task.finished_time or task.elapsed or 0)} elapsed"]
        if not task.finished and task.time_remaining is not None:
            times.append(f"{duration(task.time_remaining)} left")
        return Text(", ".join(times), "yellow")


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def progress(unit: str) -> Progress:
    """A progress bar with counts, rate, elapsed and remaining time; it fits 80 columns."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=max(6, min(40, out.width - 70))),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimesColumn(),
        console=out,
    )
