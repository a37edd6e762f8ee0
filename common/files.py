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
def replacing(path: Path, *, via: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """A path beside `path`, for the block to write a file to; then it is moved to `path`.

    If the block or the move fails, no file is left behind and `path` is as it was.

    Args:
        path: the file to make or to replace.
        via: the path to write to; by default a new one, so that several processes may write `path`.
        sync: write through to the disk, so that the file survives a power failure.
    """
    beside = via or path.with_name(f".{path.name}.{uuid4().hex[:8]}{UNFINISHED}")
    try:
        yield beside
        if sync:
            flush(beside)
        beside.replace(path)
        if sync:
            flush(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_parts(path: Path, parts: Iterable[bytes], *, sync: bool = False) -> None:
    """Write a file of these parts, one after the other."""
    with replacing(path, sync=sync) as beside, beside.open("xb") as file:
        file.writelines(parts)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text, through to the disk."""
    write_parts(path, [text.encode()], sync=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of readable JSON, through to the disk.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def flush(path: Path) -> None:
    """Have the system write a file, or a folder's names, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
