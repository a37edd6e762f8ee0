"""A store's path, and plain messages for what is damaged and for errors of disks and services."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from common import hints
from common.errors import FMNetError, StoreError
from common.names import show
from common.store.format import is_remote

MOST_PATH_BYTES = 3500
"""Linux allows 4,096 with the names of a store's files."""
SECRET = re.compile(r"://([^/]*|[^/@]*:.*)@|://.*\?")
"""What may be secret in an address: a user or a key, a password, which may have a `/`, options."""


def filesystem_of(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path, without a cache of listings, and the path in it.

    Raises:
        StoreError: as `check_address`.
    """
    check_address(path)
    filesystem, root = url_to_fs(path, use_listings_cache=False)
    return filesystem, root.rstrip("/")


def resolved(path: str) -> str:
    """A path that does not depend on a process's working folder."""
    return path if is_remote(path) else os.path.realpath(path)


def check_address(path: str) -> None:
    """Refuse an address with a user, a password or options: messages and run folders show it.

    Raises:
        StoreError: it has one, is a web address, chains file systems, or is longer than any path.
    """
    if SECRET.search(path):
        scheme = path.partition("://")[0]
        raise StoreError(
            f"{scheme}://…: an address with a user, a password or options in it, which would show "
            "in logs; name it as in s3://bucket/brats.zarr and give credentials in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in ~/.aws/credentials"
        )
    if path.lower().startswith(("http://", "https://")):
        raise StoreError(
            f"{path}: a web address, whose files can be neither listed nor written; name a folder "
            "of this machine, or a bucket as in s3://bucket/brats.zarr"
        )
    if (size := len(os.fsencode(path))) > MOST_PATH_BYTES:
        raise StoreError(f"{path[:40]}…: a path of {size} bytes; name one of {MOST_PATH_BYTES}")
    if "::" in path:
        raise StoreError(f"{path}: has '::', which chains file systems; name a path without it")


def damaged(path: str, case_id: str, what: str) -> StoreError:
    """The error for a damaged case."""
    return StoreError(f"{path}: case {show(case_id)}: {what}; {remedy(path)}")


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
