"""Kills, full and read-only disks, too little memory and damage: what a run leaves, and the next.

After every fault the committed cases are the bytes they were, the failures say where and why, the
exit code tells that something is missing, and the same command again makes the store whole.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster
from waiting import wait_until

from common import lock as locks
from common import nifti
from common.errors import StoreError
from common.geometry import Geometry
from common.lock import Lock
from common.store import Store
from common.store.audit import Audit, audit_case, case_folders, conclude

pytestmark = pytest.mark.slow

Cohort = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
MakeGate = Callable[[int], Any]

VICTIM_CASE = 2
VICTIM = f"BraTS2021_{VICTIM_CASE:05d}"


@pytest.fixture
def command(process: Command) -> Command:
    return process


SUICIDE = """
import os, signal, sys

def at(event, arguments):
    if event == "os.rename" and os.environ["KILL_AT"] in str(arguments[1]):
        for left in os.listdir(os.environ["KILLS"]):
            os.remove(os.path.join(os.environ["KILLS"], left))
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(at)
"""
"""Kills a process at the very instant at which it would give a certain file its name."""


@pytest.fixture
def kills(tmp_path: Path) -> Callable[[str, int], dict[str, str]]:
    """An environment in which the first processes that write a file are killed over it."""

    def make(name: str, times: int) -> dict[str, str]:
        hook, left = tmp_path / "hook", tmp_path / "kills"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(SUICIDE)
        left.mkdir()
        for number in range(times):
            (left / str(number)).touch()
        settings = {"PYTHONPATH": str(hook), "KILL_AT": name, "KILLS": str(left), "COLUMNS": "200"}
        return os.environ | settings

    return make


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """A disk on which every page that anybody lets go of is taken at once."""
    over = threading.Event()

    def fill() -> None:
        with (disk / "filler").open("ab", buffering=0) as filler:
            while not over.is_set():
                with suppress(OSError):
                    filler.write(bytes(4096))

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        yield
    finally:
        over.set()
        filling.join()


def content(path: Path, *but: str) -> dict[str, str]:
    """Checksums of the files of the committed cases, but some."""
    records = {
        case: r for case, r in Store.open(path).contents().records.items() if case not in but
    }
    folders = [f"cases/{case}" for case in records]
    folders += [f"crops/{name}/c/{r.row}" for r in records.values() for name in ("image", "label")]
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in folders
        for file in (path / folder).rglob("*")
        if file.is_file()
    }


def audit(path: Path) -> Audit:
    """What `verify` finds, in this process."""
    store = Store.open(path)
    return conclude(store, [audit_case(store, case) for case in case_folders(store)])


def assert_sound(path: Path, cases: int) -> None:
    found = audit(path)
    assert found.sound, found
    assert not found.leftovers
    assert len(found.of("stored")) == len(found.cases) == cases


def stored(path: Path) -> int:
    """How many cases the store has by now, if there is one."""
    try:
        return len(Store.open(path).contents().records)
    except StoreError:
        return 0


@pytest.fixture
def start() -> Iterator[Start]:
    """Begins `fmnet-preprocess run DATA --store PATH`; none outlives its test."""
    begun: list[subprocess.Popen[str]] = []

    def run(data: Path, path: Path, *options: str) -> subprocess.Popen[str]:
        arguments = ["run", str(data), "--store", str(path), *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "preprocess", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def test_a_worker_killed_once_in_the_middle_of_a_case_costs_a_retry(
    cohort: Cohort, tmp_path: Path, command: Command, kills: Callable[[str, int], dict[str, str]]
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    ran = command("run", data, "--store", path, env=kills(f"cases/{VICTIM}/image/c", 1))
    assert not list((tmp_path / "kills").iterdir())
    assert ran.returncode == 0, ran.stdout
    assert_sound(path, 4)


def test_a_worker_killed_twice_between_an_old_record_and_the_new_one_costs_the_case(
    cohort: Cohort, tmp_path: Path, command: Command, kills: Callable[[str, int], dict[str, str]]
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    assert command("run", data, "--store", path).returncode == 0
    flair = data / VICTIM / f"{VICTIM}_flair.nii.gz"
    voxels, geometry, *_ = nifti.read(flair)
    nifti.write(flair, voxels * 2, geometry)
    before = content(path, VICTIM)
    ran = command("run", data, "--store", path, env=kills("crops/image/c/4", 2))
    assert ran.returncode == 1
    failure = Store.open(path).contents().failures[VICTIM]
    assert failure.peak_memory_mb is not None
    assert failure.peak_memory_mb > 10
    assert (
        f"✗ {VICTIM}  failed at stage {failure.stage}, peak memory {failure.peak_memory_mb:.0f} MB"
        in ran.stdout
    )
    assert "2 workers died at this case, killed from outside" in failure.reason
    assert "1 of 4 expected case(s), of which 1 failed" in command("verify", path).stdout
    found = audit(path)
    assert found.missing == (VICTIM,)
    assert not found.leftovers
    assert content(path) == before
    again = command("run", data, "--store", path)
    assert again.returncode == 0, again.stdout
    assert "1 case(s) to do, 3 done before" in again.stdout
    assert content(path, VICTIM) == before
    assert_sound(path, 4)


def test_a_killed_run_leaves_no_process_behind_and_goes_on(
    cohort: Cohort, tmp_path: Path, command: Command, start: Start, gate: MakeGate
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    held = gate(VICTIM_CASE)
    running = start(data, path)
    wait_until(lambda: stored(path) == 4)
    family = psutil.Process(running.pid).children(recursive=True)
    assert len(family) >= 2
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    before = content(path)
    held.restore()
    assert audit(path).missing == (VICTIM,)
    again = command("run", data, "--store", path)
    assert again.returncode == 0, again.stdout
    assert "taking over the lock" in again.stdout
    assert "1 case(s) to do, 4 done before" in again.stdout
    assert content(path, VICTIM) == before
    assert_sound(path, 5)


def test_a_worker_that_takes_too_much_memory_is_named_with_what_it_took(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    # 167 MB a file, of which there are five: beyond the limit for longer than from one look at
    # the worker's memory to the next.
    shape = (240, 590, 590)
    voxels = np.zeros(shape, np.int16)
    voxels[100:200, 100:200, 100:200] = np.random.default_rng(0).integers(1, 9, (100, 100, 100))
    small = data / VICTIM
    kept = tmp_path / "kept"
    shutil.copytree(small, kept)
    for file in small.iterdir():
        nifti.write(file, voxels, Geometry(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    limit_mb = 450
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=f"{limit_mb}MB",
            dashboard_address=":0",
            silence_logs=60,
        ) as cluster,
    ):
        at = ("--cluster", cluster.scheduler_address)
        ran = command("run", data, "--store", path, *at)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    store = Store.open(path)
    failure = store.contents().failures[VICTIM]
    assert failure.stage == "read"
    assert failure.reason.startswith("memory: 2 workers died")
    assert "limit of 450 MB" in failure.reason
    assert failure.peak_memory_mb is not None
    assert failure.peak_memory_mb > 0.9 * limit_mb
    assert (
        f"✗ {VICTIM}  failed at stage read, peak memory {failure.peak_memory_mb:.0f} MB: memory"
        in (ran.stdout)
    )
    before = content(path)
    shutil.rmtree(small)
    kept.rename(small)
    assert command("run", data, "--store", path).returncode == 0
    assert content(path, VICTIM) == before
    assert_sound(path, 4)


def test_a_full_disk(cohort: Cohort, command: Command, small_disk: Callable[[str], Path]) -> None:
    data, path = cohort(6), small_disk("size=300k") / "s.zarr"
    ran = command("run", data, "--store", path, "--workers", 2)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    failed = [line for line in ran.stdout.splitlines() if "failed at" in line]
    assert 1 <= len(failed) <= 5
    for line in failed:
        assert "failed at stage store, " in line
        assert "No space left on device" in line
    assert len(Store.open(path).contents().records) == 6 - len(failed)
    assert command("status", path).returncode == 1
    before = content(path)
    small_disk("size=64m")
    again = command("run", data, "--store", path)
    assert again.returncode == 0, again.stdout
    assert f"{len(failed)} case(s) to do, {6 - len(failed)} done before" in again.stdout
    assert before.items() <= content(path).items()
    assert_sound(path, 6)


def test_the_lock_on_a_full_disk_stays_whole_and_none_is_left_half_written(
    small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    disk = small_disk("size=64k")
    first, second = str(disk / "first.zarr"), str(disk / "second.zarr")
    with Lock(first) as lock, filled(disk):
        time.sleep(0.5)  # some beats
        lock.token.check()
        with pytest.raises(StoreError, match=r"second.zarr: cannot be written \(No space left"):
            Lock(second)
    assert not Path(f"{second}.lock").exists()
    (disk / "filler").unlink()
    Lock(second).release()


def test_a_read_only_disk(
    cohort: Cohort, tmp_path: Path, command: Command, small_disk: Callable[[str], Path]
) -> None:
    data, path = cohort(4), small_disk("size=64m") / "s.zarr"
    assert command("run", data, "--store", path).returncode == 0
    before = content(path)
    flair = data / VICTIM / f"{VICTIM}_flair.nii.gz"
    voxels, geometry, *_ = nifti.read(flair)
    nifti.write(flair, voxels * 2, geometry)
    small_disk("ro")
    for arguments in (("run", data, "--store", path), ("verify", path, "--repair")):
        refused = command(*arguments)
        assert refused.returncode == 2
        error = refused.stderr.strip()
        assert error == f"error: {path}: cannot be written (Read-only file system)"
    assert_sound(path, 4)
    assert content(path) == before
    small_disk("rw")
    assert "1 case(s) to do, 3 done before" in command("run", data, "--store", path).stdout
    assert_sound(path, 4)


def test_a_second_run_and_a_repair_are_refused_while_a_run_is_at_it(
    cohort: Cohort, tmp_path: Path, command: Command, start: Start, gate: MakeGate
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    held = gate(VICTIM_CASE)
    running = start(data, path)
    wait_until(lambda: stored(path) == 3)
    for arguments in (("run", data, "--store", path), ("verify", path, "--repair")):
        second = command(*arguments)
        assert second.returncode == 2
        assert f"process {running.pid} has been writing it since" in second.stderr
    meanwhile = command("verify", path)
    assert meanwhile.returncode == 1
    assert f"process {running.pid} is writing this store" in meanwhile.stdout
    assert f"1 case(s) missing: {VICTIM}" in meanwhile.stdout
    held.open()
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert_sound(path, 4)


def test_a_worker_that_outlives_its_run_writes_nothing_more(
    cohort: Cohort,
    tmp_path: Path,
    command: Command,
    start: Start,
    *,
    gate: MakeGate,
    cluster: LocalCluster,
) -> None:
    """It sits at a file while its run is killed and another one makes the store."""
    data, path = cohort(4), tmp_path / "s.zarr"
    held = gate(VICTIM_CASE)
    running = start(data, path, "--cluster", cluster.scheduler_address)
    wait_until(lambda: stored(path) == 3)
    running.kill()
    running.wait()
    held.restore()
    again = command("run", data, "--store", path)
    assert again.returncode == 0, again.stdout
    assert "1 case(s) to do, 3 done before" in again.stdout
    before = content(path)
    with Client(cluster) as client:

        def at_work() -> int:
            return sum(client.run(lambda dask_worker: dask_worker.state.executing_count).values())

        assert at_work() == 1
        held.open()
        wait_until(lambda: at_work() == 0)
    assert content(path) == before
    assert_sound(path, 4)


def damage_each(path: Path) -> dict[str, str]:
    """Damage every case but one, each in another way; case id to what `verify` must say."""
    ids = list(Store.open(path).contents().records)
    rows = {case: record.row for case, record in Store.open(path).contents().records.items()}
    noise, empty, bare, lost, torn = ids[:5]
    (shard,) = (file for file in (path / f"cases/{noise}/image/c").rglob("*") if file.is_file())
    size = shard.stat().st_size
    shard.write_bytes(np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes())
    (shard,) = (f for f in (path / f"crops/image/c/{rows[empty]}").rglob("*") if f.is_file())
    shard.write_bytes(b"")
    for name in ("image", "label"):
        shutil.rmtree(path / f"cases/{bare}/{name}")
    (path / f"cases/{lost}/zarr.json").unlink()
    metadata = path / f"cases/{torn}/zarr.json"
    metadata.write_bytes(metadata.read_bytes()[:100])
    return {
        noise: f"case {noise}: cases/{noise}/image is damaged",
        empty: f"case {empty}: crops/image is ",
        bare: f"case {bare}: ",
        lost: f"cases/{lost}",
        torn: f"case {torn}: its zarr.json is damaged",
    }


def test_damage_is_named_dropped_and_made_again(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(6), tmp_path / "s.zarr"
    assert command("run", data, "--store", path).returncode == 0
    expected = damage_each(path)
    (path / "crops/image/c/7.0123.partial").write_bytes(b"x")
    verified = command("verify", path)
    assert verified.returncode == 1
    for text in expected.values():
        assert text in verified.stdout
    assert "5 case(s) missing" in verified.stdout
    assert f"fmnet-preprocess verify --repair {path}" in verified.stderr.replace("\n", "")
    assert "7.0123.partial" in verified.stdout
    assert re.search(r"intact +1 case", verified.stdout)
    run = command("run", data, "--store", path)  # makes those without a readable record again
    assert run.returncode == 0, run.stderr
    assert "3 case(s) to do, 3 done before" in run.stdout
    repaired = command("verify", path, "--repair")
    assert repaired.returncode == 1
    for case_id in list(expected)[:2]:
        assert f"removed case {case_id}" in repaired.stdout
    assert f"fmnet-preprocess run /path/to/brats --store {path}" in repaired.stderr
    assert not Path(f"{path}.lock").exists()
    again = command("run", data, "--store", path)
    assert again.returncode == 0, again.stdout
    assert "2 case(s) to do, 4 done before" in again.stdout
    verified = command("verify", path)
    assert verified.returncode == 0, verified.stdout
    assert re.search(r"6/6.*elapsed", verified.stdout)
    assert re.search(r"intact +6 case", verified.stdout)
    assert_sound(path, 6)
