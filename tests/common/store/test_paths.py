"""What is at a path where no store is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import zarr

from common.errors import StoreError
from common.lock import Lock
from common.manifest import Manifest
from common.store import Store, StoreWriter

NOTHING = r"no store is there; make one with `\S*fmnet-preprocess run "
THINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda path: path.write_text("x"), "a file"),
    "a folder": (
        lambda path: [(path / name).mkdir(parents=True) for name in "dbac"],
        "a folder with a, b, c and 1 more",
    ),
    "a folder of the store's own names": (
        lambda path: (path / "cases").mkdir(parents=True),
        "a folder with cases",
    ),
    "other Zarr data": (
        lambda path: zarr.open_group(path, mode="w").create_group("plate"),
        "other Zarr data",
    ),
    "a group with attributes": (
        lambda path: zarr.open_group(path, mode="w", attributes={"plate": 1}),
        "other Zarr data",
    ),
    "an array": (
        lambda path: zarr.create_array(path, shape=(2,), dtype="i4"),
        "other Zarr data",
    ),
}


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=NOTHING):
        Store.open(tmp_path / "s.zarr")


@pytest.mark.parametrize("name", THINGS)
def test_what_is_there_instead_is_said_and_never_written_over(name: str, tmp_path: Path) -> None:
    make, found = THINGS[name]
    path = tmp_path / "s.zarr"
    make(path)
    before = sorted(path.rglob("*"))
    with pytest.raises(StoreError) as refused:
        Store.open(path)
    assert f"{path}: no store is there, but {found}" in str(refused.value)
    with pytest.raises(StoreError) as refused:
        StoreWriter.create(path, Manifest())
    assert f"{path}: no store is there, but {found}" in str(refused.value)
    assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/s.zarr", "HTTPS://localhost/s.zarr"])
def test_a_web_address_is_refused_without_asking_it(path: str) -> None:
    for use in (Store.open, Lock, lambda path: StoreWriter.create(path, Manifest())):
        with pytest.raises(StoreError, match=r"a web address.*s3://") as refused:
            use(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["dir::x", "simplecache::s.zarr", "n" * 5000, "a/" * 3000])
def test_a_path_that_can_be_none_is_one_line(name: str, tmp_path: Path) -> None:
    for use in (Store.open, Lock, lambda path: StoreWriter.create(path, Manifest())):
        with pytest.raises(StoreError) as refused:
            use(str(tmp_path / name))
        assert "\n" not in str(refused.value)
