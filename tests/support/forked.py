"""Command lines in processes of their own, bounded in time and memory, for tests that run many.

A server imports a program once and forks for each command, which saves an interpreter's seconds. It
reads no store itself: zarrs hangs in a process that was forked from one that has read.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

CPU_SECONDS = 20
HANGS_AFTER_SECONDS = 120
PEAK_BYTES = 2 << 30


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    """Negative if a signal ended it, such as that of its time limit."""
    text: str
    """What it printed."""
    cpu_seconds: float
    peak_bytes: int

    def fault(self, *names: str) -> str:
        """What is wrong with this ending; empty if nothing.

        A command that fails says so in lines that have one of these names, the file's or case's.
        """
        told = self.code == 0 or any(name in self.text for name in names)
        faults = {
            f"ended by signal {-self.code}": self.code < 0,
            f"took {self.cpu_seconds:.0f} s": self.cpu_seconds > CPU_SECONDS,
            f"took {self.peak_bytes / 2**30:.1f} GiB": self.peak_bytes > PEAK_BYTES,
            "a traceback": "Traceback" in self.text,
            "control characters": any(c != "\n" and not c.isprintable() for c in self.text),
            f"exit code {self.code} and no name of what is wrong": not told,
        }
        found = ", ".join(fault for fault, has_it in faults.items() if has_it)
        shown = self.text[-2000:]
        if "Traceback" in self.text:
            shown = self.text[self.text.index("Traceback") :][:4000]
        return f"{found}:\n{shown}" if found else ""


class Commands:
    """Runs commands of a program, `preprocess` or `train`."""

    def __init__(self, program: str) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def __call__(self, *arguments: object) -> Outcome:
        """Run a command to its end."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(
            json.dumps([os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments]),
            file=self._server.stdin,
            flush=True,
        )
        return Outcome(**json.loads(self._server.stdout.readline()))


def _serve(main: Callable[[], None]) -> None:
    for line in sys.stdin:
        with tempfile.TemporaryFile() as printed:
            child = os.fork()
            if child == 0:
                _run(main, json.loads(line), printed.fileno())
            _, status, usage = os.wait4(child, 0)
            with suppress(ProcessLookupError):  # of its workers, if it was killed
                os.killpg(child, signal.SIGKILL)
            printed.seek(0)
            outcome = {
                "code": os.waitstatus_to_exitcode(status),
                "text": printed.read().decode(errors="backslashreplace"),
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_bytes": usage.ru_maxrss * 1024,
            }
        print(json.dumps(outcome), flush=True)


def _run(main: Callable[[], None], arguments: list[str], printed: int) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    resource.setrlimit(resource.RLIMIT_AS, (8 * PEAK_BYTES, 8 * PEAK_BYTES))
    signal.alarm(HANGS_AFTER_SECONDS)
    sys.argv = ["fmnet", *arguments]
    code = 1
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - printed as Python itself would
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "preprocess":
        from preprocess.cli import main
    else:
        from train.cli import main
    _serve(main)
