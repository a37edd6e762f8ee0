"""Requests to stop: Ctrl-C, SIGTERM, SIGHUP of a closed terminal, which workers get as well."""

import errno
import os
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OF_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to every process that it started."""


@contextmanager
def stop_requests(on_request: Callable[[int], None]) -> Iterator[None]:
    """Call `on_request` with the number of requests so far whenever this process is asked to stop.

    What is ignored, as SIGHUP under nohup, stays so. Only for the main thread.
    """
    count = 0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        _leave_closed_terminal()
        on_request(count)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _leave_closed_terminal() -> None:
    """Write nowhere instead of to a terminal that is gone, where every line would be an error."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Processes that start inside this context ignore a terminal's signals: the main one has them.

    One that arrives inside the context reaches the main process at its end. Only for the main
    thread.
    """
    received = list[int]()
    handlers = {number: signal.getsignal(number) for number in OF_TERMINAL}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()  # it ignores SIGINT itself, and its start unblocks that
    signal.pthread_sigmask(signal.SIG_BLOCK, OF_TERMINAL)
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            # Another thread may receive the signal; Python then calls the handler in this one.
            signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for arrived in dict.fromkeys(received):
            signal.raise_signal(arrived)


@contextmanager
def interrupts_end_at_once() -> Iterator[None]:
    """Ctrl-C inside this context ends the process without a traceback: for imports.

    A process that ignores Ctrl-C, as some shells start background jobs, keeps ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
