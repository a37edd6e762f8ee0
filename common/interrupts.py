"""Ctrl-C, which a terminal sends to worker processes too."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Processes that start inside this context ignore Ctrl-C: the main process handles it.

    A Ctrl-C inside the context reaches the main process at its end. Only for the main thread.
    """
    resource_tracker.ensure_running()  # its start would unblock the signal
    received = list[int]()
    handler = signal.getsignal(signal.SIGINT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Another thread may receive the signal; Python then calls the handler in this one.
    signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if received:
            signal.raise_signal(signal.SIGINT)


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
