"""One run at a time writes a store."""

import getpass
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import lock as locks
from common.errors import StoreError
from common.lock import STALE_SECONDS, Lock, this_machine


def owner(**changes: object) -> str:
    """A lock file of another run on this machine that is alive."""
    now = time.time()
    fields = {
        "token": "another",
        "user": "ada",
        "host": socket.gethostname(),
        "machine": this_machine(),
        "process": os.getppid(),
        "since": now - 5,
        "heartbeat": now,
    }
    return json.dumps(fields | changes)


def finished_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait(timeout=60)
    return done.pid


def test_it_is_there_while_held_and_gone_after(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "s.zarr")
    with Lock(path) as lock:
        lock.token.check()
        content = json.loads(Path(path + ".lock").read_text())
        assert content["user"] == getpass.getuser()
        assert content["process"] == os.getpid()
    assert not Path(path + ".lock").exists()


def test_it_is_given_back_when_work_fails(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    with pytest.raises(RuntimeError), Lock(path):
        raise RuntimeError
    assert not Path(path + ".lock").exists()


def test_a_second_run_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    name = f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}"
    with Lock(path) as lock:
        with pytest.raises(StoreError, match=f"{name} has been writing it since"):
            Lock(path)
        lock.token.check()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """A run is watched for this many seconds, and beats much more often."""
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    return 1.0


@pytest.mark.parametrize("far_away", [False, True])
def test_a_lock_that_a_dead_run_left_is_taken_over(
    far_away: bool, tmp_path: Path, short: float
) -> None:
    path = tmp_path / "s.zarr"
    if far_away:  # nobody here can see whether that process lives: its silence tells
        text = owner(
            host="elsewhere", machine="elsewhere", heartbeat=time.time() - STALE_SECONDS - 1
        )
    else:
        text = owner(process=finished_process())
    Path(f"{path}.lock").write_text(text)
    began, waited = time.monotonic(), []
    with Lock(str(path), lambda owner: waited.append(owner.name)) as lock:
        assert lock.taken_over is not None
        assert lock.taken_over.user == "ada"
        lock.token.check()
        process = json.loads(text)["process"]
        assert waited == ([f"ada on elsewhere, process {process}"] if far_away else [])
        assert (time.monotonic() - began >= short) == far_away
    assert not list(tmp_path.iterdir())


def test_a_far_away_run_that_still_beats_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    Path(f"{path}.lock").write_text(owner(host="elsewhere", machine="elsewhere", process=1))
    with pytest.raises(StoreError, match="ada on elsewhere, process 1"):
        Lock(str(path))


def test_a_container_of_the_same_host_name_is_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    Path(f"{path}.lock").write_text(owner(machine="elsewhere", process=finished_process()))
    with pytest.raises(StoreError, match="ada on"):
        Lock(str(path))


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_run_that_beats_by_another_clock_is_left_alone(
    hours: int, tmp_path: Path, short: float
) -> None:
    path = tmp_path / "s.zarr"
    file, over = Path(f"{path}.lock"), threading.Event()

    def heart_beat() -> None:
        while not over.wait(short / 10):
            now = time.time() + 3600 * hours
            text = owner(host="elsewhere", machine="elsewhere", since=0, heartbeat=now)
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").replace(file)

    file.write_text(owner(host="elsewhere", machine="elsewhere", since=0, heartbeat=1))
    heart = threading.Thread(target=heart_beat)
    heart.start()
    try:
        with pytest.raises(StoreError, match="ada on elsewhere"):
            Lock(str(path))
    finally:
        over.set()
        heart.join()


def test_a_run_that_ends_while_it_is_watched_leaves_the_store_to_the_next(
    tmp_path: Path, short: float
) -> None:
    path = tmp_path / "s.zarr"
    file = Path(f"{path}.lock")
    file.write_text(owner(host="elsewhere", machine="elsewhere", heartbeat=1))
    with Lock(str(path), lambda _: file.unlink()) as lock:
        assert lock.taken_over is None
        lock.token.check()


def test_a_run_that_died_while_it_took_a_lock_over_is_succeeded(tmp_path: Path) -> None:
    path, dead = tmp_path / "s.zarr", finished_process()
    Path(f"{path}.lock").write_text(owner(process=dead))
    third = {"token": "third", "user": "bob", "process": dead}
    Path(f"{path}.lock.another").write_text(owner(**third))
    with Lock(str(path)) as lock:
        assert lock.taken_over is not None
        assert lock.taken_over.user == "ada"
        lock.token.check()
    assert not list(tmp_path.iterdir())


STARTER = """
import sys, time
from common.errors import StoreError
from common.lock import Lock

print("ready", flush=True)
for line in sys.stdin:
    path, moment = line.split()
    while time.time() < float(moment):
        pass
    try:
        lock = Lock(path)
    except StoreError as error:
        print("refused:", error, flush=True)
        sys.stdin.readline()
        continue
    print("held", flush=True)
    sys.stdin.readline()
    try:
        lock.token.check()
        found = "holds it still"
    except StoreError as error:
        found = f"lost: {error}"
    lock.release()
    print(found, flush=True)
"""


@pytest.fixture
def starters() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that wait to take locks at the same moment."""
    made = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(4)
    ]
    for one in made:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    yield made
    for one in made:
        one.communicate(timeout=60)


def tell(starter: subprocess.Popen[str], line: str) -> None:
    assert starter.stdin is not None
    starter.stdin.write(line + "\n")


def hear(starter: subprocess.Popen[str]) -> str:
    assert starter.stdout is not None
    return starter.stdout.readline().strip()


def test_of_runs_that_start_at_once_one_holds_the_lock(
    tmp_path: Path, starters: list[subprocess.Popen[str]]
) -> None:
    dead = finished_process()
    for index in range(100):
        folder = tmp_path / str(index)
        folder.mkdir()
        path = folder / "s.zarr"
        if index % 2:  # a lock that a dead run left, and that all of them want to take over
            Path(f"{path}.lock").write_text(owner(process=dead))
        moment = time.time() + 0.005
        for one in starters:
            tell(one, f"{path} {moment}")
        answers = [hear(one) for one in starters]
        for one in starters:
            tell(one, "check")
        held = [hear(o) for o, a in zip(starters, answers, strict=True) if a == "held"]
        assert held == ["holds it still"], (index, answers, held)
        assert not list(folder.iterdir())


def test_a_run_whose_lock_was_taken_stops_and_leaves_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    file = Path(f"{path}.lock")
    with Lock(str(path)) as lock:
        file.write_text(owner())
        with pytest.raises(StoreError, match="now held by ada"):
            lock.token.check()
    assert json.loads(file.read_text())["user"] == "ada"
    file.unlink()
    with Lock(str(path)) as lock:
        file.unlink()
        with pytest.raises(StoreError, match="its file was removed"):
            lock.token.check()


def test_it_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    path = tmp_path / "s.zarr"
    file = Path(f"{path}.lock")
    with Lock(str(path)):
        first = json.loads(file.read_text())["heartbeat"]
        deadline = time.monotonic() + 10
        beat = first
        while beat <= first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            text = file.read_text()
            beat = json.loads(text)["heartbeat"] if text else first


ODD: dict[str, str] = {
    "empty": "",
    "no JSON": "not json",
    "binary": "\x00\x07\x1b",
    "no object": "[1]",
    "no fields": "{}",
    "a field": '{"token": "x"}',
    "nested": "[" * 200_000,
    "another token": owner(token="../../victim"),  # noqa: S106 - no password
    "a number as text": owner(user=7),
    "a group of processes": owner(process=-1),
    "no process": owner(process=10**30),
    "before all time": owner(since=-1e300),
    "no time": owner(heartbeat="soon"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_that_is_no_lock_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "READ_TRIES", 1)
    path = tmp_path / "s.zarr"
    Path(f"{path}.lock").write_text(ODD[name])
    with pytest.raises(StoreError, match=r"s.zarr.lock: not a lock that this program wrote"):
        Lock(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr.lock"]


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda lock: lock.symlink_to("nothing"),
        lambda lock: lock.symlink_to("/dev/zero"),
    ],
    ids=["folder", "pipe", "link to nothing", "device"],
)
def test_what_is_no_file_is_no_lock(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "s.zarr.lock")
    with pytest.raises(StoreError, match=r"s.zarr.lock: not a lock that this program wrote"):
        Lock(str(tmp_path / "s.zarr"))
    assert os.path.lexists(tmp_path / "s.zarr.lock")


def test_a_lock_that_cannot_be_removed_does_not_hide_the_error(
    small_disk: Callable[[str], Path],
) -> None:
    path = str(small_disk("size=64k") / "s.zarr")

    def work() -> None:
        with Lock(path):
            small_disk("ro")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    small_disk("rw")
    assert Path(f"{path}.lock").exists()
