"""What both command lines share: how they end, and how long work shows itself."""

import errno
import sys

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

from common.errors import FMNetError

USAGE_ERROR = 2
INTERRUPTED = 130

SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of the system's that are a disk's or a folder's, and not this program's."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def run(app: typer.Typer) -> None:
    """Run a command line; what a user caused is one message without a traceback."""
    try:
        app()
    except FMNetError as error:
        err.print("[bold red]error:[/]", end=" ")
        err.print(str(error), markup=False, soft_wrap=True)
        sys.exit(USAGE_ERROR)
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        err.print("[bold red]error:[/]", end=" ")
        err.print(f"{error}: make room, or make it writable", markup=False, soft_wrap=True)
        sys.exit(USAGE_ERROR)
    except ImportError as error:
        err.print("[bold red]error:[/] a package is missing:", end=" ")
        err.print(f"{error}; s3:// needs pip install '.[s3]'", markup=False, soft_wrap=True)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(INTERRUPTED)


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
