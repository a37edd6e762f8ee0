"""Atomic writes: at its path, a file is the old one or the new one, never a part of it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

UNFINISHED = ".partial"
"""Suffix of a file that is not complete; one that stays was left by a killed process."""


@contextmanager
def replacing(path: Path, *, suffix: str = UNFINISHED, sync: bool = False) -> Iterator[Path]:
    """A new path beside `path`, for the block to write a file to; then it is moved to `path`.

    If the block or the move fails, no file is left behind and `path` is as it was.

    Args:
        path: the file to make or to replace.
        suffix: of the path to write to, for writers that choose a format by it.
        sync: write through to the disk, so that the file survives a power failure.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}{suffix}")
    try:
        yield beside
        if sync:
            flush(beside)
        move(beside, path, sync=sync)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_parts(path: Path, parts: Iterable[bytes], *, sync: bool = False) -> None:
    """Write a file of these parts, one after the other."""
    with replacing(path, sync=sync) as beside, beside.open("xb") as file:
        file.writelines(parts)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a file of UTF-8 text."""
    write_parts(path, [text.encode()], sync=sync)


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = False) -> None:
    """Write a file of readable JSON.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", sync=sync)


def move(source: Path, target: Path, *, sync: bool = False) -> None:
    """Rename a file within one disk; with `sync`, write the new name through to the disk."""
    source.replace(target)
    if sync:
        flush(target.parent)


def flush(path: Path) -> None:
    """Have the system write a file, or a folder's names, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
