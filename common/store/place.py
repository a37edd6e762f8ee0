"""Where a store is, and plain words for what keeps a program from it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import zarr
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from zarr.errors import ContainsArrayError

from common.errors import FMNetError, StoreError
from common.program import command
from common.store.arrays import UNFINISHED, is_remote

PASSWORD = re.compile(r"://[^/@]*:.*@")


def filesystem_of(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system that a path is in, and the path there.

    Listings are fetched anew each time: whoever writes may be another process.

    Raises:
        StoreError: the path has a secret in it.
    """
    refuse_secrets(path)
    filesystem, root = url_to_fs(path, use_listings_cache=False)
    return filesystem, root.rstrip("/")


def resolved(path: str) -> str:
    """A path that means the same to every process of this machine, whatever folder it stands in."""
    return path if is_remote(path) else str(Path(path).resolve())


def open_store(path: str) -> zarr.Group:
    """The root of a store that exists.

    Raises:
        StoreError: none is there, it is damaged, or it cannot be reached.
    """
    with reachable(path, "read"):
        if is_remote(path):
            _ask_once(path)
        try:
            root = _node(path)
        except (ValueError, LookupError) as error:
            raise StoreError(
                f"{path}: its zarr.json is damaged ({error}); fetch that file from a copy of the "
                "store, or preprocess into a new one"
            ) from error
        if isinstance(root, zarr.Group) and _is_finished(root):
            return root
        if found := _what_else(path, root):
            raise StoreError(f"{path}: no store is there, but {found}; name a store with STORE=")
        raise StoreError(
            f"{path}: no store is there; make one with `make preprocess DATA=… STORE={path}`, "
            "or name another with STORE="
        )


def is_taken(path: str) -> bool:
    """Whether a store is there; one that a crash left without its attributes is not.

    Raises:
        StoreError: something else is.
        ValueError, LookupError: its zarr.json is damaged.
    """
    root = _node(path)
    if isinstance(root, zarr.Group) and _is_finished(root):
        return True
    if found := _what_else(path, root):
        raise StoreError(f"{path}: {found}, and no store; name another path with --store")
    return False


def _node(path: str) -> zarr.Group | zarr.Array[Any] | None:
    """What Zarr finds at a path."""
    try:
        return zarr.open_group(path, mode="r")
    except ContainsArrayError:
        return zarr.open_array(path, mode="r")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_finished(root: zarr.Group) -> bool:
    """Whether the making of a store came to its end: it writes the root's attributes last."""
    return "schema_version" in root.attrs


def refuse_secrets(path: str) -> None:
    """A store's path stands in messages and in the records of runs: no secret may be in it.

    Raises:
        StoreError: it holds a password or options; the message does not repeat them.
    """
    if is_remote(path) and (PASSWORD.search(path) or "?" in path):
        scheme = path.partition("://")[0]
        raise StoreError(
            f"{scheme}://…: an address with a password or options in it, which would show in logs; "
            "name it as in s3://bucket/brats.zarr and give credentials in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in ~/.aws/credentials"
        )


def damaged(path: str, case_id: str, what: str) -> StoreError:
    """What is wrong with a case, and the way out."""
    return StoreError(f"{path}: case {case_id}: {what}; {remedy(path)}")


def remedy(path: str) -> str:
    """The way out of damage."""
    return f"`{command('preprocess', 'verify', '--repair', path)}` drops it, then preprocess again"


@contextmanager
def reachable(path: str, to_be: Literal["read", "written"]) -> Iterator[None]:
    """Turn what a disk or a remote service answers into one line that names the store.

    Raises:
        StoreError: instead of any error of the file system.
    """
    try:
        yield
    except (FMNetError, ImportError):
        raise
    except Exception as error:
        # Each remote file system raises what its own library does.
        if not is_remote(path) and not isinstance(error, OSError):
            raise
        reason = (isinstance(error, OSError) and error.strerror) or error or type(error).__name__
        raise StoreError(f"{path}: cannot be {to_be} ({reason}){_advice(path)}") from error


def _advice(path: str) -> str:
    if not is_remote(path):
        return ""
    advice = "; check the address and the credentials"
    if path.startswith("s3"):
        advice += (
            ": AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, and "
            "AWS_ENDPOINT_URL for another service than Amazon's"
        )
    return advice


def refuse_missing_bucket(path: str, filesystem: AbstractFileSystem, root: str) -> None:
    """A bucket that is not there is a slip of the pen: s3fs would make it.

    Raises:
        StoreError: the store's bucket does not exist.
    """
    bucket, _, below = root.partition("/")
    if not bucket:  # a path from the root of a file system without buckets
        return
    try:
        filesystem.ls(f"{bucket}/{below}")
    except FileNotFoundError as error:
        if _is_missing(filesystem, bucket):
            raise StoreError(
                f"{path}: there is no bucket {bucket}; make it, or name another"
            ) from error


def _is_missing(filesystem: AbstractFileSystem, bucket: str) -> bool:
    try:
        filesystem.info(bucket)
    except FileNotFoundError:
        return True
    except PermissionError:  # the credentials are for a part of the bucket
        return False
    return False


def _ask_once(path: str) -> None:
    """Before zarr, which asks for four files at a time and leaves all errors but one in the air.

    Raises:
        StoreError: there is no such bucket, or the path has a secret in it.
    """
    filesystem, root = filesystem_of(path)
    try:
        filesystem.info(f"{root}/zarr.json")
    except FileNotFoundError:
        refuse_missing_bucket(path, filesystem, root)


def _what_else(path: str, root: zarr.Group | zarr.Array[Any] | None) -> str | None:
    """What else is at a path where no store is; None for nothing, or a store only begun.

    Args:
        path: where.
        root: what Zarr finds there.
    """
    if isinstance(root, zarr.Array):
        return "other Zarr data"
    if root is not None:
        begun = not dict(root.attrs) and {*root.keys()} <= {"crops", "cases"}
        return None if begun else "other Zarr data"
    place = Path(path)
    if is_remote(path) or not place.exists():
        return None
    if not place.is_dir():
        return "a file"
    names = sorted(entry.name for entry in place.iterdir() if entry.suffix != UNFINISHED)
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"a folder with {shown}" if names else None
