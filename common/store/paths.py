"""A store's path, its files without zarr, and plain messages for errors of disks and services."""

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import zarr
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from zarr.errors import ContainsArrayError

from common import hints
from common.errors import FMNetError, InputError, StoreError, UnsafeError
from common.files import UNFINISHED, open_regular, reason_of, write_parts
from common.names import name_fault, show
from common.store.format import CROP_ARRAYS, NODE_FILE, is_remote

PASSWORD = re.compile(r"://[^/@]*:.*@")


def filesystem_of(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path, without a cache of listings, and the path in it.

    Raises:
        StoreError: the path has a secret in it.
    """
    _check_no_secrets(path)
    filesystem, root = url_to_fs(path, use_listings_cache=False)
    return filesystem, root.rstrip("/")


def resolved(path: str) -> str:
    """A path that does not depend on a process's working folder."""
    return path if is_remote(path) else str(Path(path).resolve())


def open_store(path: str) -> zarr.Group:
    """The root of a store that exists.

    Raises:
        StoreError: none is there, it is damaged, or it cannot be reached.
    """
    with translate_io_errors(path, "read"):
        if is_remote(path):
            _check_reachable(path)
        root = find_store(path)
    if root is None:
        raise StoreError(
            f"{path}: no store is there; make one with `{hints.preprocess(path)}`, "
            "or name another store"
        )
    return root


def find_store(path: str) -> zarr.Group | None:
    """The root of a store; None if nothing is there, or a store that was only begun.

    Raises:
        StoreError: something else is there, or the store's zarr.json is damaged.
    """
    try:
        root = _node(path)
    except (ValueError, LookupError) as error:
        raise StoreError(
            f"{path}: its {NODE_FILE} is damaged ({error}); {restored(NODE_FILE)}"
        ) from error
    if isinstance(root, zarr.Group) and "schema_version" in root.attrs:  # these are written last
        return root
    if found := _what_else(path, root):
        raise StoreError(f"{path}: {found}")
    return None


def _node(path: str) -> zarr.Group | zarr.Array[Any] | None:
    try:
        return zarr.open_group(path, mode="r")
    except ContainsArrayError:
        return zarr.open_array(path, mode="r")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_no_secrets(path: str) -> None:
    """Refuse a path with a password or options: messages and the records of runs show paths."""
    if is_remote(path) and (PASSWORD.search(path) or "?" in path):
        scheme = path.partition("://")[0]
        raise StoreError(
            f"{scheme}://…: an address with a password or options in it, which would show in logs; "
            "name it as in s3://bucket/brats.zarr and give credentials in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in ~/.aws/credentials"
        )


def damaged(path: str, case_id: str, what: str) -> StoreError:
    """The error for a damaged case."""
    return StoreError(f"{path}: case {case_id}: {what}; {remedy(path)}")


def restored(name: str) -> str:
    """What to do about a lost or damaged file that all cases share: nothing can make it again."""
    return f"fetch {name} from a copy of the store, or preprocess into a new one"


def remedy(path: str) -> str:
    """What to do about damage."""
    return f"`{hints.verify(path, repair=True)}` drops it; then preprocess again"


@contextmanager
def translate_io_errors(path: str, to_be: Literal["read", "written"]) -> Iterator[None]:
    """Raise a StoreError of one line instead of any error of a disk or a remote service."""
    try:
        yield
    except (FMNetError, ImportError):
        raise
    except Exception as error:
        # Each remote file system raises what its own library does.
        if not is_remote(path) and not isinstance(error, OSError):
            raise
        reason = (isinstance(error, OSError) and error.strerror) or error or type(error).__name__
        advice = "; check the address and the credentials" if is_remote(path) else ""
        if path.startswith("s3"):
            advice += (
                ": AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, and "
                "AWS_ENDPOINT_URL for another service than Amazon's"
            )
        raise StoreError(f"{path}: cannot be {to_be} ({reason}){advice}") from error


def check_bucket_exists(path: str, filesystem: AbstractFileSystem, root: str) -> None:
    """Refuse a bucket that does not exist: s3fs would make one of a mistyped name.

    Raises:
        StoreError: the store's bucket does not exist.
    """
    bucket, _, below = root.partition("/")
    if not bucket:  # a path from the root of a file system without buckets
        return
    try:
        filesystem.ls(f"{bucket}/{below}")
    except FileNotFoundError:
        try:
            filesystem.info(bucket)
        except FileNotFoundError as error:
            raise StoreError(
                f"{path}: there is no bucket {bucket}; make it, or name another"
            ) from error
        except PermissionError:  # the credentials are for a part of the bucket
            return


def _check_reachable(path: str) -> None:
    """Ask for one file before zarr asks for four at a time and drops all errors but one."""
    filesystem, root = filesystem_of(path)
    try:
        filesystem.info(f"{root}/zarr.json")
    except FileNotFoundError:
        check_bucket_exists(path, filesystem, root)


def _what_else(path: str, root: zarr.Group | zarr.Array[Any] | None) -> str | None:
    """What is at a path instead of a store, and what to do; None for nothing, or one just begun."""
    if isinstance(root, zarr.Array):
        return _instead("other Zarr data")
    if root is not None:
        begun = not dict(root.attrs) and {*root.keys()} <= {"crops", "cases"}
        return None if begun else _instead("other Zarr data")
    place = Path(path)
    if is_remote(path) or not place.exists():
        return None
    if (place / "cases").is_dir() and (place / "crops").is_dir():
        return f"a store whose {NODE_FILE} is gone; {restored(NODE_FILE)}"
    if not place.is_dir():
        return _instead("a file")
    names = sorted(entry.name for entry in place.iterdir() if entry.suffix != UNFINISHED)
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return _instead(f"a folder with {shown}") if names else None


def _instead(found: str) -> str:
    return f"no store is there, but {found}; name another path"


class StoreFiles:
    """The files of the store at a path; names are relative to it, with `/` between folders.

    Nothing is listed, written or removed through a symbolic link below the store's own folder,
    which may be one.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._filesystem, self._root = filesystem_of(path)
        self._is_local = isinstance(self._filesystem, LocalFileSystem)

    def all(self) -> list[str]:
        """Every file, sorted, and every link."""
        return self._below("")

    def case_folders(self) -> list[str]:
        """Names of the folders in `cases`, sorted; a killed writer's may be no case."""
        if self._is_local:
            with os.scandir(self._local("cases")) as entries:
                return sorted(e.name for e in entries if e.is_dir() or e.is_symlink())
        entries = self._filesystem.ls(f"{self._root}/cases", detail=True)
        folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
        return sorted(str(folder).rstrip("/").rsplit("/", 1)[-1] for folder in folders)

    def attributes(self, case_ids: list[str]) -> dict[str, dict[str, Any] | StoreError]:
        """Attributes of cases' folders, `record` or `failure`, without the cases that have none.

        Those that cannot be used are errors that name the case. Without zarr, which is slower.

        Raises:
            StoreError: the service of a remote store does not answer.
        """
        found = dict[str, dict[str, Any] | StoreError]()
        for case_id, content in zip(case_ids, self._case_files(case_ids), strict=True):
            if isinstance(content, (FileNotFoundError, NotADirectoryError)):
                continue
            if isinstance(content, StoreError):
                found[case_id] = content
                continue
            if isinstance(content, Exception):
                with translate_io_errors(self._path, "read"):
                    raise content
            try:
                found[case_id] = dict(json.loads(content)["attributes"])
            except (ValueError, LookupError, TypeError) as error:
                what = f"its {NODE_FILE} is damaged ({error})"
                found[case_id] = damaged(self._path, case_id, what)
        return found

    def _case_files(self, case_ids: list[str]) -> Iterator[bytes | Exception]:
        """The content of each case's `NODE_FILE`, or why there is none."""
        faults = {case_id: name_fault(case_id) for case_id in case_ids}
        names = [f"cases/{case_id}/{NODE_FILE}" for case_id, fault in faults.items() if not fault]
        with translate_io_errors(self._path, "read"):
            contents = self._contents(names)
        for case_id in case_ids:
            if faults[case_id]:
                yield self._unsafe(f"cases/{case_id}", faults[case_id])
            else:
                yield next(contents)

    def _contents(self, names: list[str]) -> Iterator[bytes | Exception]:
        if self._is_local:
            return map(self._content, names)
        paths = [f"{self._root}/{name}" for name in names]
        return iter(self._filesystem.cat_ranges(paths, None, None, on_error="return"))

    def _content(self, name: str) -> bytes | Exception:
        try:
            return self.read(name)
        except (FileNotFoundError, NotADirectoryError, StoreError) as error:
            return error
        except OSError as error:
            case_id, what = name.split("/")[1], f"{name} cannot be read ({error.strerror})"
            return StoreError(f"{self._path}: case {case_id}: {what}; make it readable")

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
            path = self._local(name)
            try:
                with open_regular(path) as file:
                    return file.read()
            except InputError as error:
                raise self._unsafe(name, reason_of(error)) from error
        content: bytes = self._filesystem.cat_file(f"{self._root}/{name}")
        return content

    def write(self, name: str, parts: Sequence[bytes]) -> None:
        """Make or replace a whole file; on a disk, without joining its parts (decision 15)."""
        if not self._is_local:
            self._filesystem.pipe_file(f"{self._root}/{name}", b"".join(parts))
            return
        path = self._local(name)
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
                self._local(name, but_last=True).unlink()
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

    def _local(self, name: str, *, but_last: bool = False) -> Path:
        """The path on this disk, after a check that no part of the name is a link."""
        path = self._root
        parts = [part for part in name.split("/") if part]
        for part in parts[: len(parts) - but_last]:
            path += f"/{part}"
            if os.path.islink(path):  # noqa: PTH114 - this is in every reading of a case
                raise self._unsafe(path[len(self._root) + 1 :], "a symbolic link")
        return Path(self._root, name)

    def _unsafe(self, name: str, what: str) -> UnsafeError:
        case = name.split("/")[1] if name.startswith("cases/") else ""
        of_case = f"case {show(case)}: " if case else ""
        return UnsafeError(
            f"{self._path}: {of_case}{show(name)} is {what}, so it is neither read nor removed; "
            "put the folder or the file itself there, or remove it, and preprocess again"
        )


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
