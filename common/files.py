"""Files read only if they are files, of a bounded size, and written whole or not at all."""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any
from uuid import uuid4

from common.errors import ConfigError, Finding, InputError

UNFINISHED = ".partial"
"""Suffix of an unfinished file; a killed process leaves one behind."""

MOST_TEXT_BYTES = 1 << 26
"""Largest text that is read, such as a `dataset.json`, which lists every case."""

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: str | Path) -> None:
    """Refuse what is no regular file, nor a link to one, without opening it.

    Opening a pipe waits for a writer, and a device such as `/dev/zero` never ends.

    Raises:
        InputError: it is something else.
        OSError: there is nothing, or it cannot be looked at.
    """
    try:
        kind = stat.S_IFMT(Path(path).stat().st_mode)
    except FileNotFoundError as error:
        if not Path(path).is_symlink():
            raise
        found = f"a link to nothing ({Path(path).readlink()})"
        raise _wrong(path, found, "a file", "put the file in its place") from error
    if kind != stat.S_IFREG:
        raise _wrong(path, KINDS.get(kind, "no file"), "a file", "move it away")


def kind_fault(path: str | Path) -> str:
    """Why a path is no regular file, nor a link to one, without its name; empty if it is."""
    try:
        check_regular(path)
    except (InputError, OSError) as error:
        return reason_of(error)
    return ""


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file to read it.

    Raises:
        InputError: it is something else.
        OSError: it cannot be opened.
    """
    check_regular(path)
    return Path(path).open("rb")


def sha256(path: str | Path) -> str:
    """A regular file's SHA-256.

    Raises:
        InputError: it is something else.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        InputError: it is something else, or larger.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        found = f"more than {most:,} bytes"
        raise _wrong(path, found, "a smaller file", "put the right one there")
    return content


def read_text(path: str | Path, most: int = MOST_TEXT_BYTES) -> str:
    """The content of a UTF-8 file, without a byte order mark.

    Raises:
        InputError: it is no file, is larger than `most` bytes, or is not UTF-8.
        OSError: it cannot be read.
    """
    content = read_bytes(path, most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"byte 0x{content[error.start]:02x} in line {line}, which is not UTF-8"
        raise _wrong(path, found, "a text in UTF-8", "save it as UTF-8") from error


def read_json(path: str | Path) -> Any:  # noqa: ANN401 - what the file holds
    """The value of a JSON file.

    Raises:
        InputError: it is no file, too large, not UTF-8 or no JSON.
        OSError: it cannot be read.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"no JSON: {error}", "a JSON file", "restore it") from error


def reason_of(error: InputError | OSError) -> str:
    """Why a file cannot be read, in words that do not name it."""
    if isinstance(error, InputError):
        return error.findings[0].found
    return error.strerror or str(error)


def _wrong(path: str | Path, found: str, expected: str, action: str) -> InputError:
    return InputError(Finding(str(path), found, expected, action))


@contextmanager
def replacing(path: Path, *, via: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """A new path (or `via`) for the block to write a file to, which is then moved to `path`.

    If the block or the move fails, no file is left behind and `path` is unchanged. With `sync` the
    file is on the disk at the end, so that it survives a power failure.
    """
    beside = via or path.with_name(f".{path.name[:40]}.{uuid4().hex[:8]}{UNFINISHED}")
    try:
        yield beside
        if sync:
            flush(beside)
        beside.replace(path)
        if sync:
            flush(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk names no file
            error.filename = str(path)
        raise


def check_outside(path: str | Path, *folders: str | Path) -> None:
    """Refuse a path in a folder of cases, or in a store, where it would be taken for a part of it.

    Raises:
        ConfigError: it lies in one of these folders, or in any store.
    """
    if "://" in str(path):
        return
    place = real_path(path)
    stores = [above for above in place.parents if (above / "zarr.json").is_file()]
    for folder in (*(real_path(f) for f in folders if "://" not in str(f)), *stores):
        if place.is_relative_to(folder):
            what = "the store" if (folder / "zarr.json").is_file() else "the folder of the data"
            raise ConfigError(f"{path}: is in {what}; name a place outside {folder}")


def real_path(path: str | Path) -> Path:
    """From the root and without links; those in a circle stay: `Path.resolve` raises for them."""
    return Path(os.path.realpath(path))


def write_parts(path: Path, parts: Iterable[bytes], *, sync: bool = False) -> None:
    """Write a file of these parts."""
    with replacing(path, sync=sync) as beside, beside.open("xb") as file:
        file.writelines(parts)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text, with `sync`."""
    write_parts(path, [text.encode()], sync=True)


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write several files of UTF-8 text, with `sync`: where one cannot be, all stay as they are."""
    with ExitStack() as files:
        for path, text in reversed([*texts.items()]):  # the first is moved into its place first
            files.enter_context(replacing(path, sync=True)).write_bytes(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of readable JSON, with `sync`.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    write_text(path, json_text(value))


def json_text(value: Mapping[str, Any]) -> str:
    """Readable JSON.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def flush(path: Path) -> None:
    """Write a file, or a folder's names, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
