"""Atomic writes: a path holds the old file or the new one, never a part of it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from common.errors import ConfigError

UNFINISHED = ".partial"
"""Suffix of an unfinished file; a killed process leaves one behind."""


@contextmanager
def replacing(path: Path, *, via: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """A new path (or `via`) for the block to write a file to, which is then moved to `path`.

    If the block or the move fails, no file is left behind and `path` is unchanged. With `sync` the
    file is on the disk at the end, so that it survives a power failure.
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


def check_outside(path: str | Path, *folders: str | Path) -> None:
    """Refuse a path in a folder of cases, or in a store, where it would be taken for a part of it.

    Raises:
        ConfigError: it lies in one of these folders, or in any store.
    """
    if "://" in str(path):
        return
    place = Path(path).resolve()
    stores = [above for above in place.parents if (above / "zarr.json").is_file()]
    for folder in (*(Path(f).resolve() for f in folders if "://" not in str(f)), *stores):
        if place.is_relative_to(folder):
            what = "the store" if (folder / "zarr.json").is_file() else "the folder of the data"
            raise ConfigError(f"{path}: is in {what}; name a place outside {folder}")


def write_parts(path: Path, parts: Iterable[bytes], *, sync: bool = False) -> None:
    """Write a file of these parts."""
    with replacing(path, sync=sync) as beside, beside.open("xb") as file:
        file.writelines(parts)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text, with `sync`."""
    write_parts(path, [text.encode()], sync=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of readable JSON, with `sync`.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def flush(path: Path) -> None:
    """Write a file, or a folder's names, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
