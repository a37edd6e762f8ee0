"""A real SLURM, and runs as they go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import running_slurm, slurm
from waiting import wait_until

from common.store import Store

__all__ = ["running_slurm", "slurm"]


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Waits until a condition holds, and fails by its description where that takes too long."""
    return wait_until


class Run:
    """`fmnet-preprocess run data --store s.zarr` in a folder, as it goes on.

    Attributes:
        process: the command's.
    """

    def __init__(
        self,
        folder: Path,
        cluster: str,
        *settings: str,
        environment: dict[str, str] | None = None,
        inside: tuple[str, ...] = (),
    ) -> None:
        command = [*inside, sys.executable, "-m", "preprocess", "run", "data", "--store", "s.zarr"]
        options = [word for setting in settings for word in ("--set", setting)]
        self._store = folder / "s.zarr"
        self._files = [folder / "stdout", folder / "stderr"]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [*command, "--cluster", cluster, *options],
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return "".join(file.read_text() for file in self._files)

    def until_it_says(self, words: str, times: int = 1) -> None:
        wait_until(lambda: self.said.count(words) >= times, f"{words} in {self.said}")

    def wait(self, seconds: float = 120) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=seconds)
        assert "Traceback" not in self.said, self.said
        return code

    def verified(self) -> int:
        """How many cases are stored, each as it was written."""
        store = Store.open(self._store)
        for case_id in store.contents().records:
            store.verify(case_id)
        return len(store.contents().records)

    def interrupt(self) -> int:
        """As Ctrl-C does: every process of the terminal; its exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait(60)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts a run; none goes on after the test."""
    runs: list[Run] = []

    def start(cluster: str, *settings: str, **options: Any) -> Run:
        runs.append(Run(tmp_path, cluster, *settings, **options))
        return runs[-1]

    yield start
    for one in runs:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(60)
