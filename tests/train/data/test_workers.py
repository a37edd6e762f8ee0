"""Both loaders' worker processes: that they end with their feed, die, or are stuck."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from threading import Thread, Timer

import psutil
import pytest
import torch
from failing import FailingStream
from streams import CPU, both, mainly_dali, stream_of
from waiting import Gate, wait_until

from common.errors import ConfigError, LoaderError
from common.store import Store
from train.data.feed import Feed
from train.data.loader import LoaderKind, open_feed
from train.data.stream import Stream

MakeStore = Callable[..., Store]
SOON = 60.0
"""Seconds; far below any timeout that would end a wait anyway."""


def idle(feed: Feed) -> bool:
    """Whether no worker is at a sample, for long enough to be waiting for the next."""
    for _ in range(10):
        if any(feed.workers.current_samples().values()):
            return False
        time.sleep(0.02)
    return True


def is_dead(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


Blocked = tuple[Stream, str]


@pytest.fixture
def blocked(make_store: MakeStore, tmp_path: Path) -> Iterator[Blocked]:
    """A stream, and its third case, whose image holds whoever reads it."""
    stream = stream_of(make_store(), batch_size=1)
    case_id = stream.order(1)[2].case_id
    row = stream.store.record(case_id).row
    shard = Path(stream.store.path) / f"crops/image/c/{row}/0/0/0/0"
    gate = Gate(shard)
    yield stream, case_id
    gate.open()


def the_end_of(feed: Feed) -> str:
    """The message that ends a feed, which comes soon and leaves no process."""
    began = time.monotonic()
    with pytest.raises(LoaderError) as raised:
        deque(islice(feed, 20), maxlen=0)
    assert time.monotonic() - began < SOON
    return str(raised.value)


def when_at(feed: Feed, case_id: str, do: Callable[[], None]) -> None:
    """Do it once a worker has been at the case for half a second, from another thread."""

    def wait() -> None:
        try:
            wait_until(lambda: f"case {case_id}" in feed.workers.current_samples().values())
            time.sleep(0.5)
        finally:  # or the main thread would wait for ever
            do()

    Thread(target=wait).start()


@both
def test_a_worker_that_is_killed_ends_the_feed(store: Store, kind: LoaderKind) -> None:
    with open_feed(kind, stream_of(store, batch_size=1), CPU, 2) as feed:
        next(feed)
        wait_until(lambda: idle(feed))
        victim, other = feed.workers.current_samples()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: is_dead(victim))
        message = the_end_of(feed)
    assert multiprocessing.active_children() == []
    assert message.startswith(f"{store.path}: a loader's worker process ({victim}) died between")
    assert "SIGKILL ended it, as the system does when memory runs out" in message
    assert f"({other})" not in message


@mainly_dali
def test_a_worker_that_is_killed_at_a_case_names_it(blocked: Blocked, kind: LoaderKind) -> None:
    stream, case_id = blocked
    with open_feed(kind, stream, CPU, 1) as feed:
        (victim,) = feed.workers.current_samples()
        when_at(feed, case_id, lambda: os.kill(victim, signal.SIGKILL))
        message = the_end_of(feed)
    assert multiprocessing.active_children() == []
    assert f"({victim}) died while it read case {case_id}: SIGKILL" in message
    assert "--resume" in message


@pytest.mark.slow
# DALI's thread that watches its workers fails if one dies while it waits for the lock of its queue.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@both
@pytest.mark.parametrize("seconds", [n / 8 for n in range(4)])
def test_whenever_a_worker_is_killed_it_is_said_so(
    store: Store, kind: LoaderKind, seconds: float
) -> None:
    """A loader's own error, of a connection that broke, may come before the worker's end shows."""
    with open_feed(kind, stream_of(store, batch_size=2), CPU, 2) as feed:
        next(feed)
        victim = next(iter(feed.workers.current_samples()))
        Timer(seconds, os.kill, [victim, signal.SIGKILL]).start()
        with pytest.raises(LoaderError, match=rf"\({victim}\) died .*SIGKILL"):
            deque(feed, maxlen=0)
    assert multiprocessing.active_children() == []


@mainly_dali
def test_a_stuck_worker_is_seen_and_can_be_ended(blocked: Blocked, kind: LoaderKind) -> None:
    stream, case_id = blocked
    stacks: list[str] = []

    def watch() -> None:
        stacks.append(feed.workers.stacks())
        feed.workers.kill(f"no batch since then, at {set(feed.workers.current_samples().values())}")

    with open_feed(kind, stream, CPU, 1) as feed:
        when_at(feed, case_id, watch)
        message = the_end_of(feed)
    assert multiprocessing.active_children() == []
    assert message.startswith("no batch since then, at {")
    assert f"'case {case_id}'" in message
    assert f", reading case {case_id}:" in stacks[0]
    assert "read_crop" in stacks[0]
    assert stacks[0].count("worker ") == 1


@mainly_dali
def test_a_stuck_worker_does_not_hold_up_the_end(blocked: Blocked, kind: LoaderKind) -> None:
    stream, case_id = blocked
    with open_feed(kind, stream, CPU, 1) as feed:
        next(feed)
        wait_until(lambda: f"case {case_id}" in feed.workers.current_samples().values())
        began = time.monotonic()
    assert time.monotonic() - began < SOON / 2
    assert multiprocessing.active_children() == []


@mainly_dali
def test_a_loader_that_fails_with_its_workers_alive_is_an_error_of_its_own(
    store: Store, kind: LoaderKind
) -> None:
    stream = stream_of(store, batch_size=1)
    failing = FailingStream(**{field.name: getattr(stream, field.name) for field in fields(stream)})
    with open_feed(kind, failing, CPU, 1) as feed:
        message = the_end_of(feed)
    assert multiprocessing.active_children() == []
    assert message.startswith(f"{store.path}: the loader failed (")
    assert "nobody expected this" in message
    assert "--resume" in message


@mainly_dali
def test_a_worker_that_cannot_start_ends_the_feed(make_store: MakeStore, kind: LoaderKind) -> None:
    stream = stream_of(make_store(), batch_size=1)
    Path(stream.store.path).rename(f"{stream.store.path}.gone")

    def learn() -> None:
        with open_feed(kind, stream, CPU, 1) as feed:
            next(feed)

    with pytest.raises(LoaderError, match="worker process"):
        learn()
    assert multiprocessing.active_children() == []


@both
def test_too_little_shared_memory_is_said_before_anything_starts(
    store: Store, kind: LoaderKind
) -> None:
    stream = stream_of(store, batch_size=10**9)
    words = r"/shm has \d+ MB free, the loader needs \d+ MB; .*--shm-size=\d+g.*batch_size"
    with pytest.raises(ConfigError, match=words), open_feed(kind, stream, CPU, 1):
        pass
    assert multiprocessing.active_children() == []


@mainly_dali
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_workers_end_with_the_feed(
    store: Store, kind: LoaderKind, error: type[BaseException] | None
) -> None:
    random_state = torch.get_rng_state()
    try:
        with open_feed(kind, stream_of(store, batch_size=2), CPU, 1) as batches:
            kept = [next(batches) for _ in range(3)]
            copies = [batch.image.clone() for batch in kept]
            for _ in range(3):
                next(batches)
            workers = [psutil.Process(child.pid) for child in multiprocessing.active_children()]
            if error:
                raise error
    except KeyboardInterrupt:  # whose traceback still holds everything that was in use
        assert error
        assert multiprocessing.active_children() == []
    assert len(workers) == 1
    assert not workers[0].is_running()
    # A batch is the consumer's to keep, and torch's random numbers are its own.
    assert all(torch.equal(batch.image, copy) for batch, copy in zip(kept, copies, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


SCRIPT = """
import sys, time, torch
from common.store import Store
from train.data.augment import AugmentConfig
from train.data.loader import open_feed
from train.data.stream import Stream
kind, path, batches = sys.argv[1:]
store = Store.open(path)
stream = Stream(store, tuple(store.contents().split("train")), ("flair",), AugmentConfig(), 0, 1)
with open_feed(kind, stream, torch.device("cpu"), 2) as feed:
    for n in range(int(batches)):
        next(feed)
        print(n, flush=True)
    if batches == "0":
        print("no sample was asked for", flush=True)
        time.sleep(300)
"""


def start(kind: LoaderKind, store: Store, batches: int, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind, store.path, str(batches)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )


@pytest.mark.slow
@both
def test_nothing_is_said_or_left_at_exit(store: Store, kind: LoaderKind, tmp_path: Path) -> None:
    program = start(kind, store, 3, tmp_path)
    _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@both
def test_workers_without_a_sample_end_with_the_program_too(
    store: Store, kind: LoaderKind, tmp_path: Path
) -> None:
    program = start(kind, store, 0, tmp_path)
    assert program.stdout is not None
    assert program.stdout.readline().startswith("no sample")
    children = psutil.Process(program.pid).children(recursive=True)
    assert len(children) >= 2
    program.kill()
    program.communicate(timeout=120)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.slow
@both
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_program(
    store: Store, kind: LoaderKind, number: signal.Signals, tmp_path: Path
) -> None:
    program = start(kind, store, 10**9, tmp_path)
    assert program.stdout is not None
    for _ in range(3):
        program.stdout.readline()
    assert list(tmp_path.glob("fmnet-*"))
    children = psutil.Process(program.pid).children(recursive=True)
    assert len(children) >= 2
    if number == signal.SIGINT:
        # As a terminal sends it: to the workers too, which leave it to the program.
        os.killpg(program.pid, number)
    else:
        program.kill()
    _, errors = program.communicate(timeout=120)
    assert program.returncode == -number
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert not list(tmp_path.glob("fmnet-*"))
    if number == signal.SIGINT:
        # Not the only one if it came while the program held a lock of DALI's queues.
        assert errors.rstrip().endswith("KeyboardInterrupt")
