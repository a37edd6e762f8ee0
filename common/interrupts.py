"""Ctrl-C, which reaches every process of a terminal, and worker processes."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C; they leave the answer to the main process.

    One that comes meanwhile reaches the main process afterwards. For its main thread alone.
    """
    resource_tracker.ensure_running()  # which, when it is started, unblocks the signal
    came = list[int]()
    handler = signal.getsignal(signal.SIGINT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Another thread takes what this one does not, and Python has this one answer.
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupts_end_at_once() -> Iterator[None]:
    """Ctrl-C meanwhile ends the process, by its signal: for imports, which would show a traceback.

    A process that is not to hear it, as some shells start those in the background, goes on so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
