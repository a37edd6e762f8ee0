"""Copy a remote store to a local disk, case by case, each verified before its commit."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from fsspec import AbstractFileSystem

from common.errors import StoreError
from common.files import UNFINISHED, replacing
from common.record import CaseRecord
from common.store.format import NODE_FILE, is_remote, shard_files, volume_shapes
from common.store.paths import filesystem_of
from common.store.reader import Store

FOLDERS = ("crops/", "crops/image/", "crops/label/", "cases/", "")
"""Folders of the store itself; the last is the root."""


def cache_folder() -> Path:
    """The folder of copies of remote stores: `$FMNET_CACHE`, else the user's cache folder.

    Raises:
        StoreError: it cannot be made.
    """
    named, folder = os.environ.get("FMNET_CACHE"), Path("~/.cache/fm-net")
    try:
        folder = Path(named) if named else folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # the latter without a home
        raise StoreError(
            f"{folder}: no copy of a remote store can be kept there ({error}); name another folder "
            "in the environment variable FMNET_CACHE"
        ) from error
    return folder


def local_copy(path: str, on_case: Callable[[int, int], None] = lambda *_: None) -> Store:
    """A store to train from: a local one as it is, a remote one copied to the cache first.

    Cases that were copied before and have the same record are not copied again; cases that the
    remote store no longer has are removed.

    `on_case` is called with (cases copied, cases to copy) after each.

    Raises:
        StoreError: there is no such store, the disk is full, or what arrived is damaged.
    """
    store = Store.open(path)
    if not is_remote(path):
        return store
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    target = cache_folder() / f"{path.rstrip('/').rsplit('/', 1)[-1]}-{digest}"
    filesystem, root = filesystem_of(path)
    records = store.contents().records
    for folder in FOLDERS:
        _fetch(filesystem, f"{root}/{folder}{NODE_FILE}", target / folder / NODE_FILE)
    copy = Store.open(target)
    known = copy.contents().committed  # of an earlier copy
    for case_id in set(known) - set(records):
        copy.files.remove_case(case_id)
    todo = [record for case_id, record in records.items() if known.get(case_id) != record]
    on_case(0, len(todo))
    for done, record in enumerate(todo, 1):
        _copy_case(filesystem, root, copy, record)
        on_case(done, len(todo))
    return copy


def _copy_case(filesystem: AbstractFileSystem, root: str, copy: Store, record: CaseRecord) -> None:
    """Copy a case's files by the names that they must have; a store may list any others."""
    folder, target = f"cases/{record.case_id}", Path(copy.path)
    copy.files.remove(f"{folder}/{NODE_FILE}")
    volumes = volume_shapes(record, copy.manifest)
    for name in [f"{folder}/{name}/{NODE_FILE}" for name in volumes] + shard_files(record):
        _fetch(filesystem, f"{root}/{name}", target / name)
    copy.verify_record(record)
    _fetch(filesystem, f"{root}/{folder}/{NODE_FILE}", target / folder / NODE_FILE)


def _fetch(filesystem: AbstractFileSystem, remote: str, local: Path) -> None:
    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(local, via=local.with_name(local.name + UNFINISHED)) as unfinished:
            filesystem.get_file(remote, str(unfinished))
    except OSError as error:
        raise StoreError(f"{remote}: could not be copied to {local}: {error}") from error
