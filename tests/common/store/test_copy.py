"""Stores in object storage: written, read and copied; a real S3 protocol on this machine."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fsspec import AbstractFileSystem

from common.case import PreparedCase
from common.errors import StoreError
from common.store import Store, StoreWriter, local_copy
from common.store.copy import cache_folder

Cases = dict[str, PreparedCase]
MakeStore = Callable[..., StoreWriter]

URL = "s3://bucket/folder/brats.zarr"


@pytest.fixture
def bucket(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[AbstractFileSystem]:
    """An empty bucket, and a cache folder of this test's own."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FMNET_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("bucket")
    yield filesystem
    filesystem.rm("bucket", recursive=True)


def copied(path: str = URL) -> tuple[Store, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return local_copy(path, lambda done, todo: told.append((done, todo))), told


def test_a_local_store_is_used_as_it_is(make_store: MakeStore) -> None:
    store = make_store("one")
    used, told = copied(store.path)
    assert used.path == store.path
    assert told == []


@pytest.mark.slow
def test_a_remote_store_is_written_read_and_copied(
    bucket: AbstractFileSystem, make_store: MakeStore, cases: Cases, tmp_path: Path
) -> None:
    make_store("one", "three", "unlabelled", path=URL)
    remote = Store.open(URL)
    remote.verify("one")
    store, told = copied()
    assert Path(store.path).is_relative_to(tmp_path / "cache")
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert store.contents().records == remote.contents().records
    assert store.contents().fingerprint == remote.contents().fingerprint
    for case_id in ("one", "three", "unlabelled"):
        store.verify(case_id)
    assert np.array_equal(store.read_crop("one")[0], cases["one"].crop_image)
    assert not list(Path(store.path).rglob("*.partial"))


@pytest.mark.slow
def test_a_copy_goes_on_and_follows_the_remote_store(
    bucket: AbstractFileSystem, make_store: MakeStore, cases: Cases
) -> None:
    written = make_store("one", "three", path=URL)
    first, _ = copied()
    assert copied()[1] == [(0, 0)]
    Path(first.path, "cases/one/zarr.json").unlink()  # broken off before its record arrived
    assert copied()[1] == [(0, 1), (1, 1)]
    written.write(cases["two"], written.allocate(1)[0])
    written.remove("three")
    store, told = copied()
    assert told == [(0, 1), (1, 1)]
    assert list(store.contents().records) == ["one", "two"]
    for case_id in store.contents().records:
        store.verify(case_id)


@pytest.mark.slow
def test_a_case_that_arrives_damaged_does_not_count(
    bucket: AbstractFileSystem, make_store: MakeStore, tmp_path: Path
) -> None:
    make_store("one", "three", path=URL)
    (shard,) = bucket.find("bucket/folder/brats.zarr/cases/three/image/c")
    content = bytearray(bucket.cat_file(shard))
    content[len(content) // 2] ^= 0xFF
    bucket.pipe_file(shard, bytes(content))
    with pytest.raises(StoreError, match=r"case three: .*(damaged|not what was written)"):
        copied()
    (cache,) = (tmp_path / "cache").iterdir()
    assert list(Store.open(cache).contents().records) == ["one"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../../victim", "..", "a\\b"])
def test_a_hostile_store_writes_and_removes_nothing_outside_of_its_copy(
    name: str, bucket: AbstractFileSystem, make_store: MakeStore, tmp_path: Path
) -> None:
    make_store("one", "two", path=URL)
    root = URL.removeprefix("s3://")
    record = bucket.cat_file(f"{root}/cases/two/zarr.json")
    bucket.pipe_file(f"{root}/cases/{name}/zarr.json", record)
    bucket.pipe_file(
        f"{root}/cases/one/zarr.json", record.replace(b'"two"', json.dumps(name).encode())
    )
    for case_id in ("one", "two"):
        bucket.pipe_file(f"{root}/cases/{case_id}/image/../../../../PWNED", b"x")
    (tmp_path / "cache").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "mine").write_text("mine")
    store, told = copied()
    assert told == [(0, 1), (1, 1)]
    assert list(store.contents().records) == ["two"]
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "victim"}
    assert (tmp_path / "victim" / "mine").read_text() == "mine"
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.slow
def test_no_remote_store(bucket: AbstractFileSystem) -> None:
    with pytest.raises(StoreError, match="no store is there"):
        copied()


def test_where_no_copy_can_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FMNET_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "fm-net"
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="FMNET_CACHE"):
        cache_folder()
