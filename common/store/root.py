"""What a store says of all its cases, and what is at a path where there is none."""

from typing import Any

from pydantic import BaseModel

from common import hints
from common.errors import StoreError
from common.names import some
from common.store.files import StoreFiles
from common.store.format import NODE_FILE, ROOT_ATTRIBUTES, SCHEMA_VERSION, attributes_of, node_of
from common.store.paths import restored, translate_io_errors


class Root(BaseModel):
    """The attributes of a store."""

    schema_version: int
    manifest: dict[str, Any]
    parameters: dict[str, Any]
    parameter_hash: str
    expected: tuple[str, ...]
    checksum: str | None = None
    """Of the others; stores of earlier versions have none."""


def open_store(path: str) -> dict[str, Any]:
    """The attributes of a store that exists.

    Raises:
        StoreError: none is there, it is damaged, or it cannot be reached.
    """
    attributes = find_store(path)
    if attributes is None:
        raise StoreError(
            f"{path}: no store is there; make one with `{hints.preprocess(path)}`, "
            "or name another store"
        )
    return attributes


def find_store(path: str) -> dict[str, Any] | None:
    """The attributes of a store; None if nothing is there, or a store that was only begun.

    Raises:
        StoreError: something else is there, a store of another schema, or one whose zarr.json is
            damaged or out of reach.
    """
    with translate_io_errors(path, "read"):
        files = StoreFiles(path)
        (content,) = files.contents([NODE_FILE])
        if isinstance(content, StoreError):
            raise content
        if isinstance(content, FileNotFoundError):
            files.check_bucket()
            found = _instead_of_store(files)
        else:
            found = "other Zarr data" if _is_other_data(files, content) else ""
    if found:
        raise StoreError(f"{path}: no store is there, but {found}; name another path")
    if isinstance(content, FileNotFoundError):
        return None
    try:
        _check_schema(path, node_of(content).get("attributes"))
        return attributes_of(content) or None  # these are written last
    except ValueError as error:
        raise StoreError(
            f"{path}: its {NODE_FILE} is damaged ({error}); {restored(NODE_FILE)}"
        ) from error


def _instead_of_store(files: StoreFiles) -> str:
    """What is at a path without a `NODE_FILE`; empty for nothing, or a store just begun.

    Raises:
        StoreError: a store has lost that file.
    """
    try:
        names = files.names()
    except FileNotFoundError:
        return ""
    except NotADirectoryError:
        return "a file"
    if {"cases", "crops"} <= {*names}:
        raise StoreError(f"{files.path}: a store whose {NODE_FILE} is gone; {restored(NODE_FILE)}")
    return f"a folder with {some(names, 3)}" if names else ""


def _is_other_data(files: StoreFiles, content: bytes) -> bool:
    """Whether a `NODE_FILE` is that of other Zarr data, and neither a store's nor just begun."""
    try:
        node = node_of(content)
    except ValueError:
        return False
    if isinstance(attributes := node.get("attributes"), dict) and attributes:
        return attributes.keys().isdisjoint(ROOT_ATTRIBUTES)
    return node.get("node_type") == "array" or not {*files.names()} <= {NODE_FILE, "crops", "cases"}


def _check_schema(path: str, attributes: object) -> None:
    found = attributes.get("schema_version") if isinstance(attributes, dict) else None
    if found in (None, SCHEMA_VERSION):
        return
    is_older = isinstance(found, int) and found < SCHEMA_VERSION
    action = "run preprocess again, into a new store" if is_older else "use a newer fm-net"
    raise StoreError(
        f"{path}: a store of schema version {found}; this program reads version {SCHEMA_VERSION}: "
        f"{action}"
    )
