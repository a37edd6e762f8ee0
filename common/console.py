"""What both command lines share: errors, exit codes and progress bars."""

import errno
import io
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperGroup

from common.errors import FMNetError, lacked_memory
from common.interrupts import stop_requests
from common.names import show

USAGE_ERROR = 2
INTERRUPTED = 130

DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
}
"""Errors of a disk or a folder, as opposed to errors of this program."""

MORE_MEMORY = "end other programs, or raise the limit on memory"

EXTRAS = {
    "preprocess": {"dask", "dask_jobqueue", "distributed", "PIL"},
    "s3": {"s3fs"},
    "train": {"matplotlib", "nvidia", "PIL", "psutil", "safetensors", "tensorboard", "torch"},
}
"""Import names of each extra's packages."""


class _Terminal(Console):
    """Prints any text safely, whatever names and messages of files are in it, to whoever reads."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does, but without control characters that are not rich's own."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _shown(text), style, control)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as rich has it
        """As rich does: a cell of a table, whose width is that of what is shown."""
        return super().render_str(_shown(text), **options)

    def on_broken_pipe(self) -> None:
        """Go on in silence when nobody reads any more, as after `| head`: the work counts."""
        _write_nowhere(self.file.fileno())


# No markup: paths may contain brackets.
out = _Terminal(highlight=False, markup=False)
err = _Terminal(stderr=True, highlight=False, markup=False)


def _shown(text: str) -> str:
    """A text as it is printed: its line ends stay."""
    return "\n".join(map(show, text.split("\n")))


def run(app: typer.Typer) -> None:
    """Run a command line; errors that a user can mend are one message without a traceback."""
    _prepare_streams()
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # another Ctrl-C must not end what Python does at its exit
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
    except FMNetError as error:
        _exit_with(str(error))
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in DISK_ERRORS and error.filename is None:
            raise
        mend = "free some space, or make it writable"
        _exit_with(f"{error}: {mend if error.errno in DISK_ERRORS else 'name another place'}")
    except MemoryError as error:
        _exit_with(f"not enough memory ({error or 'for what was read'}): {MORE_MEMORY}")
    except ImportError as error:
        if lacked_memory(error):
            _exit_with(f"not enough memory to load a package ({error}): {MORE_MEMORY}")
        _exit_with(f"a package is missing: {error}{_extra_for(error)}")
    finally:
        _flush_streams()


def _prepare_streams() -> None:
    """Make output possible: a stream may be closed, and names may have no form in its encoding."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush_streams() -> None:
    """Write what is left now: at Python's exit an error would be a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, AttributeError):  # a full disk, a closed pipe; None for a closed stream
            with suppress(OSError, AttributeError):
                _write_nowhere(stream.fileno())


def _write_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Commands(TyperGroup):
    """Commands that end in order, with a line, on Ctrl-C, SIGTERM and SIGHUP."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - of a class that typer does not name
        """Run a command."""
        try:
            with stop_requests(_interrupt):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def _interrupt(requests: int) -> None:
    """Stop in order; a second request is answered alone, and a third one ends the process."""
    if requests == 1:
        raise KeyboardInterrupt
    if requests == 2:
        err.print("stopping; once more ends it at once …")
        return
    err.print("interrupted")
    os._exit(INTERRUPTED)  # workers end with this process, the next command takes a lock over


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
    """Units per second, since the beginning."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate; nothing in the first second, when it is none."""
        seconds = task.finished_time or task.elapsed or 0
        if seconds < 1 or not task.completed:
            return Text()
        return Text(f"{task.completed / seconds:.1f} {self.unit}/s", "cyan")


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
