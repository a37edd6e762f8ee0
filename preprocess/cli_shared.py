"""What the commands have in common: the manifest, the store's lock, and what they print."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from common.console import err, out
from common.manifest import Manifest, load_manifest, manifest_path

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.text import Text

    from common.store.contents import Contents
    from preprocess.lock import Lock
    from preprocess.lock_file import Owner


def cohort_manifest(
    path: Path | None, overrides: list[str] | None, data: Path, *, quiet: bool = False
) -> Manifest:
    """The manifest to use: the one named, else beside the data, else here, else the packaged."""
    chosen = manifest_path(path, data)
    described = load_manifest(chosen, overrides or ())
    if not quiet:
        out.print(f"manifest: {chosen or 'the packaged one'}")
    return described


@contextmanager
def held(store: str) -> Iterator["Lock"]:
    """Hold a store's lock; a scheduler's or a system's SIGTERM gives it back like Ctrl-C."""
    from preprocess.lock import hold

    signal.signal(signal.SIGTERM, _interrupt)
    with hold(store, _say_watched) as lock:
        if lock.taken_over:
            out.print(f"taking over the lock that {lock.taken_over.name} left behind")
        yield lock


def _say_watched(owner: "Owner") -> None:
    from preprocess.lock_file import STALE_SECONDS

    out.print(
        f"{owner.name} left a lock at the store, or is slow: looking for a sign of life for "
        f"{STALE_SECONDS:.0f} s …",
    )


def show(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    """How far work of an unknown length has come; nothing as long as there is none."""
    bar.update(task, completed=done, total=total, visible=bool(total))


def print_lines(lines: Iterator["Text"]) -> None:
    """Each on a line of its own, however long: the terminal wraps it, grep finds it whole."""
    for line in lines:
        out.print(line, soft_wrap=True)


def print_leaks(contents: "Contents") -> bool:
    """A line for each image that is in two splits; whether there was one."""
    for leak in contents.leaks:
        err.print(f"✗ {leak}", soft_wrap=True)
    return bool(contents.leaks)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
