"""Crops kept in memory: the same samples, in one copy, that nobody leaves behind."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
import pytest
from streams import CPU, assert_same_bits, by_key, stream_of, take

from common.errors import ConfigError, StoreError
from common.store import Store
from train.data.cache import CacheKind, free_memory, shared_crops
from train.data.feed import Batch
from train.data.loader import LoaderKind, open_feed

MakeStore = Callable[..., Store]
WAYS = (
    ("dali", "ram"),
    ("dali", "device"),
    pytest.param("torch", "ram", marks=pytest.mark.slow),
)


Uncached = Callable[[LoaderKind, Literal[2, 3]], list[Batch]]


@pytest.fixture(scope="module")
def uncached(store: Store) -> Uncached:
    """Three epochs."""

    @cache
    def collect(kind: LoaderKind, dims: Literal[2, 3]) -> list[Batch]:
        stream = stream_of(store, dims=dims, modalities=("t2", "flair"))
        stream = replace(stream, batch_size=3 if dims == 3 else 24)
        return take(kind, stream, 3 * -(-stream.samples // stream.batch_size))

    return collect


@pytest.mark.parametrize(("kind", "kept"), WAYS)
@pytest.mark.parametrize("dims", [2, 3])
def test_a_cache_changes_no_sample(
    store: Store, uncached: Uncached, kind: LoaderKind, kept: CacheKind, dims: Literal[2, 3]
) -> None:
    before = by_key(uncached(kind, dims))
    stream = stream_of(store, dims=dims, modalities=("t2", "flair"))
    size = stream.samples // 2
    stream = replace(stream, batch_size=size, skip=1)
    # The first of these epochs fills it.
    after = by_key(take(kind, stream, 6, cache=kept))
    assert len(after) == 3 * stream.samples - 1
    assert_same_bits(after, before)


def test_float32_crops_stay_what_they_are(make_store: MakeStore) -> None:
    store = make_store(dtype="float32")
    cases = tuple(store.contents().split("train"))
    with shared_crops(store, cases) as crops:
        for _ in range(2):
            for case_id in cases:
                image, label = crops.read_crop(case_id)
                expected, its_label = store.read_crop(case_id)
                assert image.dtype == expected.dtype
                assert (image == expected).all()
                assert (label == its_label).all()


def test_a_second_cache_does_not_hold_what_the_first_did(make_store: MakeStore) -> None:
    for stores in (make_store(), make_store(dtype="float32")):
        cases = tuple(stores.contents().split("train"))
        with shared_crops(stores, cases) as crops:
            image, _ = crops.read_crop(cases[0])
            assert (image == stores.read_crop(cases[0])[0]).all()


LIMIT_BYTES = 500 * 2**20
IN_GROUP = """
import sys
from train.data.cache import free_memory
open(sys.argv[1], "w").write("0")
print(free_memory())
"""


def test_a_control_group_bounds_what_is_free() -> None:
    """As of a container: made for real where this process may."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, limit = (v1, "memory.limit_in_bytes") if v1.is_dir() else (v2, "memory.max")
    folder = root / f"fm-net-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        command = [sys.executable, "-c", IN_GROUP, str(folder / "cgroup.procs")]
        free = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        folder.rmdir()
    assert 0.5 * LIMIT_BYTES < free <= LIMIT_BYTES
    assert free_memory() > LIMIT_BYTES


@pytest.mark.parametrize(("kind", "kept"), WAYS)
def test_a_case_is_read_from_the_store_once(
    make_store: MakeStore, kind: LoaderKind, kept: CacheKind
) -> None:
    store = make_store()
    stream = stream_of(store, batch_size=1)
    with open_feed(kind, stream, CPU, 2 if kind == "dali" else 1, kept) as batches:
        for _ in range(8):  # with what is read ahead, all four cases have been read
            next(batches)
        for array in ("image", "label"):
            shutil.rmtree(Path(store.path) / "crops" / array / "c")
        assert {next(batches).case_ids[0] for _ in range(12)} == set(stream.case_ids)


@pytest.mark.parametrize(("kind", "kept"), WAYS)
def test_a_damaged_case_is_named(make_store: MakeStore, kind: LoaderKind, kept: CacheKind) -> None:
    store = make_store()
    stream = stream_of(store)
    victim = stream.order(1)[2].case_id
    row = store.record(victim).row
    shard = Path(store.path) / f"crops/image/c/{row}/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StoreError, match=f"case {victim}: crops/image is damaged"):
        take(kind, stream, 2, cache=kept)


@pytest.mark.parametrize("kept", ["ram", "device"])
def test_what_it_takes_is_said_and_refused_if_there_is_less(
    store: Store, kept: CacheKind, capsys: pytest.CaptureFixture[str]
) -> None:
    take("dali", stream_of(store), 1, cache=kept)
    said = capsys.readouterr().out
    amounts = rf"cache={kept} takes 0\.0 GB of (\d+\.\d) GB of memory free"
    (free,) = re.findall(amounts, said)
    crop_bytes = 16**3 * 9
    few = stream_of(store).case_ids
    many = few * int(2 * float(free) * 1e9 / crop_bytes / len(few))
    words = rf"cache={kept} takes \d+\.\d GB of \d+\.\d GB of memory free: take cache=none"
    stream = stream_of(store, case_ids=many)
    with pytest.raises(ConfigError, match=words), open_feed("dali", stream, CPU, 1, kept):
        pass


def test_what_does_not_go_together_is_refused(store: Store) -> None:
    random = stream_of(store, window="random")
    for kept in ("ram", "device"):
        with (
            pytest.raises(ConfigError, match=rf"cache={kept} keeps crops, and window=random"),
            open_feed("dali", random, CPU, 1, kept),
        ):
            pass
    with (
        pytest.raises(ConfigError, match=r"cache=device needs loader=dali"),
        open_feed("torch", stream_of(store), CPU, 1, "device"),
    ):
        pass


SCRIPT = """
import sys, torch
from common.store import Store
from train.data.augment import AugmentConfig
from train.data.loader import open_feed
from train.data.stream import Stream
store = Store.open(sys.argv[2])
stream = Stream(store, tuple(store.contents().split("train")), ("flair",), AugmentConfig(), 0, 1)
with open_feed(sys.argv[1], stream, torch.device("cpu"), 2, "ram") as feed:
    for n in range(10**9):
        next(feed)
        print("batch", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dali", "torch"])
def test_a_killed_program_leaves_no_memory_behind(store: Store, kind: LoaderKind) -> None:
    command = [sys.executable, "-c", SCRIPT, kind, store.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        while "batch" not in program.stdout.readline():
            pass
        main = psutil.Process(program.pid)
        family = [main, *main.children(recursive=True)]
        held = [line for one in family for line in maps(one.pid) if "fmnet-crops" in line]
        # It has no name in a file system: once nobody holds it, it is gone.
        assert held
        assert all(line.endswith("/memfd:fmnet-crops (deleted)") for line in held)
        program.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def maps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()
