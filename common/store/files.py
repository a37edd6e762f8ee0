"""A store's files, without zarr."""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from common.errors import StoreError, UnsafeError
from common.files import UNFINISHED, write_parts
from common.names import name_fault, show
from common.store.format import CROP_ARRAYS, NODE_FILE, attributes_of
from common.store.paths import check_bucket_exists, damaged, filesystem_of, translate_io_errors

Content = bytes | FileNotFoundError | StoreError
"""A file's bytes, or why there are none."""


class StoreFiles:
    """The files of the store at a path; names are relative to it, with `/` between folders.

    Nothing is listed, read, written or removed through a symbolic link below the store's own
    folder, which may be one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._filesystem, self._root = filesystem_of(path)
        self._is_local = isinstance(self._filesystem, LocalFileSystem)

    def check_bucket(self) -> None:
        """As `check_bucket_exists`, of the store's."""
        if not self._is_local:
            check_bucket_exists(self.path, self._filesystem, self._root)

    def names(self) -> list[str]:
        """Names in the store's own folder, sorted, without what killed writers left.

        Raises:
            FileNotFoundError: there is none.
            NotADirectoryError: it is a file.
        """
        if self._is_local:
            found = [entry.name for entry in Path(self._root).iterdir()]
        else:
            entries = self._filesystem.ls(self._root, detail=False)
            found = [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries]
        return sorted(name for name in found if not name.endswith(UNFINISHED))

    def all(self) -> list[str]:
        """Every file, sorted, and every link."""
        return self._below("")

    def case_folders(self) -> list[str]:
        """Names of the folders and links in `cases`, sorted; a killed writer's may be no case."""
        if self._is_local:
            with os.scandir(self._local("cases")) as entries:
                return sorted(e.name for e in entries if e.is_symlink() or e.is_dir())
        entries = self._filesystem.ls(f"{self._root}/cases", detail=True)
        folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
        return sorted(str(folder).rstrip("/").rsplit("/", 1)[-1] for folder in folders)

    def attributes(self, case_ids: list[str]) -> dict[str, dict[str, Any] | StoreError]:
        """Attributes of cases' folders, `record` or `failure`, without the cases that have none.

        Those that cannot be used are errors that name the case.

        Raises:
            StoreError: the service of a remote store does not answer.
        """
        faults = {case_id: name_fault(case_id) for case_id in case_ids}
        found: dict[str, dict[str, Any] | StoreError] = {
            case_id: self._unsafe(f"cases/{case_id}", fault)
            for case_id, fault in faults.items()
            if fault
        }
        usable = [case_id for case_id, fault in faults.items() if not fault]
        contents = self.contents([f"cases/{case_id}/{NODE_FILE}" for case_id in usable])
        for case_id, content in zip(usable, contents, strict=True):
            if isinstance(content, StoreError):
                found[case_id] = content
            elif isinstance(content, bytes):
                try:
                    found[case_id] = attributes_of(content)
                except ValueError as error:
                    what = f"its {NODE_FILE} is damaged ({error})"
                    found[case_id] = damaged(self.path, case_id, what)
        return found

    def contents(self, names: list[str]) -> Iterator[Content]:
        """The contents of small files.

        Raises:
            StoreError: the service of a remote store does not answer.
        """
        if self._is_local:
            yield from map(self._content, names)
            return
        paths = [f"{self._root}/{name}" for name in names]
        with translate_io_errors(self.path, "read"):
            found = self._filesystem.cat_ranges(paths, None, None, on_error="return")
            for content in found:
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        yield from found

    def _content(self, name: str) -> Content:
        try:
            return self.read(name)
        except NotADirectoryError as error:
            return FileNotFoundError(*error.args)
        except (FileNotFoundError, StoreError) as error:
            return error
        except OSError as error:
            what = f"{_case_of(name)}{name} cannot be read ({error.strerror})"
            return StoreError(f"{self.path}: {what}; make it readable")

    def check_regular(self, names: Iterable[str]) -> None:
        """Refuse links on the way to these files, and what would keep a reader waiting for ever.

        Raises:
            UnsafeError: there is one.
        """
        for name in names if self._is_local else ():
            with suppress(FileNotFoundError, NotADirectoryError):
                mode = os.lstat(self._local(name)).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # zarr calls a folder damage
                    raise self._unsafe(name, "no regular file")

    def of_case(self, case_id: str, row: int | None) -> list[str]:
        """The files of a case: those in its folder, and those of its row in the crops.

        Raises:
            UnsafeError: its id cannot be a folder's name, or there is a link.
        """
        if fault := name_fault(case_id):
            raise self._unsafe(f"cases/{case_id}", fault)
        return self._of(f"cases/{case_id}") + ([] if row is None else self.of_row(row))

    def of_row(self, row: int) -> list[str]:
        """The files of a row of the crops.

        Raises:
            UnsafeError: there is a link.
        """
        return [name for array in CROP_ARRAYS for name in self._of(f"{array}/c/{row}")]

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            UnsafeError: it is a link, in a folder that is one, or no regular file.
        """
        if self._is_local:
            with open(self._local(name), "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self._unsafe(name, "no regular file")
                return file.read()
        content: bytes = self._filesystem.cat_file(f"{self._root}/{name}")
        return content

    def write(self, name: str, parts: Sequence[bytes]) -> None:
        """Make or replace a whole file; on a disk, without joining its parts (decision 15)."""
        if not self._is_local:
            self._filesystem.pipe_file(f"{self._root}/{name}", b"".join(parts))
            return
        path = Path(self._local(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parts(path, parts)

    def size_bytes(self, folder: str) -> int:
        """Size of all files below a folder."""
        path = f"{self._root}/{folder}"
        if self._is_local:
            return _size_bytes(path)  # in a third of fsspec's time
        size: int = self._filesystem.du(path, total=True)
        return size

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; of a link, not what it points to."""
        with suppress(FileNotFoundError):
            if self._is_local:
                os.remove(self._local(name, but_last=True))  # noqa: PTH107
            else:
                self._filesystem.rm_file(f"{self._root}/{name}")

    def remove_case(self, case_id: str) -> None:
        """Remove a case's folder: first the record, then the arrays.

        Raises:
            UnsafeError: its id cannot be a folder's name, or there is a link.
        """
        names = self.of_case(case_id, None)
        self.remove(f"cases/{case_id}/{NODE_FILE}")
        for name in names:
            self.remove(name)
        if self._is_local and (folder := Path(self._root, "cases", case_id)).is_dir():
            shutil.rmtree(folder)  # an object store has no folders

    def _of(self, folder: str) -> list[str]:
        """The files below a folder that belongs to one case."""
        names = self._below(folder)
        for name in names if self._is_local else ():
            mode = os.lstat(f"{self._root}/{name}").st_mode
            if not stat.S_ISREG(mode):
                raise self._unsafe(
                    name, "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
                )
        return names

    def _below(self, folder: str) -> list[str]:
        path = f"{self._root}/{folder}".rstrip("/")
        if self._is_local:
            self._local(folder)
            found = _files_below(path)
        else:
            found = self._filesystem.find(path)
        start = len(self._root) + 1
        return sorted(str(file)[start:] for file in found)

    def _local(self, name: str, *, but_last: bool = False) -> str:
        """The path on this disk, after a check that no part of the name is a link.

        This is in every reading of a case, so without `Path`, which takes most of the time.
        """
        path = self._root
        parts = [part for part in name.split("/") if part]
        for part in parts[: len(parts) - but_last]:
            path += f"/{part}"
            if os.path.islink(path):  # noqa: PTH114
                raise self._unsafe(path[len(self._root) + 1 :], "a symbolic link")
        return f"{self._root}/{name}"

    def _unsafe(self, name: str, what: str) -> UnsafeError:
        return UnsafeError(
            f"{self.path}: {_case_of(name)}{show(name)} is {what}, so it is neither read nor "
            "removed; put the folder or the file itself there, or remove it, and preprocess again"
        )


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a named pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _case_of(name: str) -> str:
    """The case that a file of a store belongs to, for messages."""
    return f"case {show(name.split('/')[1])}: " if name.startswith("cases/") else ""


def _files_below(folder: str) -> Iterator[str]:
    """Every file and every link below a folder; nothing if it is not there."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(entry.path)
            else:
                yield entry.path


def _size_bytes(folder: str | os.DirEntry[str]) -> int:
    """As `StoreFiles.size_bytes`; what is unreadable or gone counts as 0."""
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    size += _size_bytes(entry)
                elif entry.is_file(follow_symlinks=False):
                    size += entry.stat().st_size
    return size


def rows_of(files: list[str]) -> Iterator[tuple[int, str]]:
    """Row and name of each file that holds voxels of a row of the crops."""
    for name in files:
        for array in CROP_ARRAYS:
            row = name.removeprefix(f"{array}/c/").partition("/")[0]
            if name.startswith(f"{array}/c/") and row.isdigit():
                yield int(row), name
