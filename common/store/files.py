"""A store's files as they lie there, below zarr: listed, written, and taken away."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

from common.errors import StoreError
from common.store.arrays import NODE_FILE, UNFINISHED
from common.store.place import damaged, filesystem_of, reachable

ROW_ARRAYS = ("crops/image", "crops/label")
NOT_A_FOLDER = ("", ".", "..", NODE_FILE)


class StoreFiles:
    """The files of the store at a path; names are relative to it, with `/` between folders."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._filesystem, self._root = filesystem_of(path)
        self._is_local = isinstance(self._filesystem, LocalFileSystem)

    def all(self) -> list[str]:
        """Every file, sorted."""
        return self._below("")

    def case_folders(self) -> list[str]:
        """Names of what lies in `cases`, case or not, sorted."""
        entries = self._filesystem.ls(f"{self._root}/cases", detail=True)
        folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
        return sorted(str(folder).rstrip("/").rsplit("/", 1)[-1] for folder in folders)

    def attributes(self, case_ids: list[str]) -> dict[str, dict[str, Any]]:
        """What stands in cases' folders, `record` or `failure`; a case without is left out.

        All at a time where the file system can, and without zarr, which is slower and tells of a
        damaged one neither which nor what the others hold.

        Raises:
            StoreError: one is damaged, or cannot be read.
        """
        names = [f"{self._root}/cases/{case_id}/{NODE_FILE}" for case_id in case_ids]
        with reachable(self._path, "read"):
            contents = self._filesystem.cat_ranges(names, None, None, on_error="return")
        found = {}
        for case_id, content in zip(case_ids, contents, strict=True):
            if isinstance(content, (FileNotFoundError, NotADirectoryError)):
                continue
            if isinstance(content, Exception):
                with reachable(self._path, "read"):
                    raise content
            try:
                found[case_id] = dict(json.loads(content)["attributes"])
            except (ValueError, LookupError, TypeError) as error:
                what = f"its {NODE_FILE} is damaged ({error})"
                raise damaged(self._path, case_id, what) from error
        return found

    def of_case(self, case_id: str, row: int | None) -> list[str]:
        """The files of a case: those in its folder, and those of its row in the crops."""
        return self._below(f"cases/{case_id}") + ([] if row is None else self.of_row(row))

    def of_row(self, row: int) -> list[str]:
        """The files of a row of the crops."""
        return [name for array in ROW_ARRAYS for name in self._below(f"{array}/c/{row}")]

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        content: bytes = self._filesystem.cat_file(f"{self._root}/{name}")
        return content

    def write(self, name: str, parts: Sequence[bytes]) -> None:
        """Make a file of these parts, or put them in its place.

        As zarr does it, but without its event loop, and on a disk without joining the parts. There
        the file is whole or not there at all, as with object stores.
        """
        if not self._is_local:
            self._filesystem.pipe_file(f"{self._root}/{name}", b"".join(parts))
            return
        path = Path(self._root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{uuid4().hex}{UNFINISHED}")
        try:
            with unfinished.open("xb") as file:
                file.writelines(parts)
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def size_bytes(self, folder: str) -> int:
        """What all files below a folder take; here in a third of fsspec's time."""
        path = f"{self._root}/{folder}"
        if self._is_local:
            return _size_bytes(path)
        size: int = self._filesystem.du(path, total=True)
        return size

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        with suppress(FileNotFoundError):
            self._filesystem.rm_file(f"{self._root}/{name}")

    def let_go(self, names: Iterable[str]) -> None:
        """Have the system write files to the disk, and keep none in memory that is on it already.

        Else a run would fill the memory with what it does not read again. Does nothing where the
        store is not on a disk, nor where a system takes no such advice.
        """
        if not self._is_local or not hasattr(os, "posix_fadvise"):
            return
        for name in names:
            # Advice: where it cannot be given or is refused, nothing is lost.
            with suppress(OSError), Path(self._root, name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def remove_case(self, case_id: str) -> None:
        """Take a case's folder away, whatever is in it: first the record, then the arrays.

        Raises:
            StoreError: the id is not the name of one folder, and more than a case would go.
        """
        if case_id in NOT_A_FOLDER or "/" in case_id:
            raise StoreError(f"{self._path}: {case_id!r} cannot be the name of a case's folder")
        folder = f"{self._root}/cases/{case_id}"
        if not self._filesystem.exists(folder):
            return
        self.remove(f"cases/{case_id}/{NODE_FILE}")
        for name in self._below(f"cases/{case_id}"):
            self.remove(name)
        if self._filesystem.isdir(folder):  # an object store has no folders
            self._filesystem.rm(folder, recursive=True)

    def _below(self, folder: str) -> list[str]:
        start = len(self._root) + 1
        found = self._filesystem.find(f"{self._root}/{folder}".rstrip("/"))
        return sorted(str(file)[start:] for file in found)


def _size_bytes(folder: str | os.DirEntry[str]) -> int:
    """As `StoreFiles.size_bytes`; 0 for what is gone meanwhile, as in a run, or not to be seen."""
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                is_folder = entry.is_dir(follow_symlinks=False)
                size += _size_bytes(entry) if is_folder else entry.stat().st_size
    return size


def rows_of(files: list[str]) -> Iterator[tuple[int, str]]:
    """Row and name of each file that holds voxels of a row of the crops."""
    for name in files:
        for array in ROW_ARRAYS:
            row = name.removeprefix(f"{array}/c/").partition("/")[0]
            if name.startswith(f"{array}/c/") and row.isdigit():
                yield int(row), name
