"""What both command lines share: how they end, and how long work shows itself."""

import errno
import sys
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
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typer.core import TyperGroup

from common.errors import FMNetError

USAGE_ERROR = 2
INTERRUPTED = 130

SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of the system's that are a disk's or a folder's, and not this program's."""

EXTRAS = {
    "preprocess": {"dask", "dask_jobqueue", "distributed", "jinja2", "markupsafe", "PIL"},
    "s3": {"s3fs"},
    "train": {"matplotlib", "nvidia", "psutil", "safetensors", "tensorboard", "torch"},
}
"""Each extra's packages, by the names that they are imported by."""

# Paths have brackets in them that are no markup.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


def run(app: typer.Typer) -> None:
    """Run a command line; what a user caused is one message without a traceback."""
    try:
        app()
    except FMNetError as error:
        _end_with(str(error))
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        _end_with(f"{error}: make room, or make it writable")
    except ImportError as error:
        _end_with(f"a package is missing: {error}{_extra_for(error)}")


class Commands(TyperGroup):
    """Commands of which one that Ctrl-C ends says so; typer itself ends it without a word."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - of a class that typer does not name
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def _end_with(message: str) -> NoReturn:
    err.print("error:", style="bold red", end=" ")
    err.print(message, soft_wrap=True)
    sys.exit(USAGE_ERROR)


def _extra_for(error: ImportError) -> str:
    """How to get a package, if it is in one of the extras; fsspec has an error of its own."""
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    package = (cause.name or "").partition(".")[0]
    extras = [extra for extra, packages in EXTRAS.items() if package in packages]
    return "".join(f"; pip install '.[{extra}]' brings it" for extra in extras)


class RateColumn(ProgressColumn):
    """How many units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate, or a dash before there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self.unit}/s" if speed else f"– {self.unit}/s", "cyan")


def progress(unit: str) -> Progress:
    """A progress bar with counts, rate, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=out,
    )
