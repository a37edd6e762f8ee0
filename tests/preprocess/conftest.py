"""Small BraTS-like cohorts on disk, files that make a run wait, and a shared Dask cluster."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from common import nifti
from common.geometry import Geometry

SHAPE = (20, 26, 24)
ENDINGS_2021 = ("flair", "t1", "t1ce", "t2")
ENDINGS_2023 = ("t2f", "t1n", "t1c", "t2w")

MANIFEST = """
crop: [16, 16, 16]
splits: {{kind: lists, train: [{train}], val: [{val}], test: [{test}]}}
"""


def write_case(folder: Path, case_id: str, seed: int, *, release: str = "2021") -> Path:
    """One case: an ellipsoid of noise with a tumour of all three labels."""
    generator = np.random.default_rng(seed)
    z, y, x = np.ogrid[:20, :26, :24]
    brain = ((z - 10) / 8) ** 2 + ((y - 13) / 11) ** 2 + ((x - 12) / 10) ** 2 < 1
    tumour = (z - 10) ** 2 + (y - 10) ** 2 + (x - 9 - seed % 3) ** 2
    enhancing = 4 if release == "2021" else 3
    label = np.select([tumour < 3, tumour < 6, tumour < 14], [1, enhancing, 2], 0)
    geometry = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
    case = folder / case_id
    case.mkdir(parents=True)
    joint, endings = ("_", ENDINGS_2021) if release == "2021" else ("-", ENDINGS_2023)
    for ending in endings:
        image = generator.integers(50, 900, SHAPE) * brain
        nifti.write(case / f"{case_id}{joint}{ending}.nii.gz", image.astype(np.int16), geometry)
    values = (label * brain).astype(np.uint8)
    nifti.write(case / f"{case_id}{joint}seg.nii.gz", values, geometry)
    return case


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `fmnet-preprocess` with these arguments to its end, in a wide terminal."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        settings = {"env": os.environ | {"COLUMNS": "200"}, "timeout": 300} | options
        return subprocess.run(
            [sys.executable, "-m", "preprocess", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            **settings,
        )

    return run


@pytest.fixture
def cohort(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of cases with a manifest beside them; most train, two val, one test."""

    def make(cases: int = 6, name: str = "data") -> Path:
        data = tmp_path / name
        ids = [f"BraTS2021_{index:05d}" for index in range(cases)]
        for index, case_id in enumerate(ids):
            write_case(data, case_id, index)
        lists = {"train": ids[3:], "val": ids[:2], "test": ids[2:3]}
        text = MANIFEST.format(**{split: ", ".join(members) for split, members in lists.items()})
        (data / "data_manifest.yaml").write_text(text)
        return data

    return make


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes with a scheduler that other processes can reach."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as running:
        yield running


class Gate:
    """Holds whoever reads a file until it is opened: a named pipe stands in the file's place."""

    def __init__(self, path: Path, pipe: Path) -> None:
        self._path, self._pipe = path, pipe
        self._content = path.read_bytes()
        os.mkfifo(pipe)
        path.unlink()
        path.hardlink_to(pipe)
        self._end: int | None = None

    def wait(self, seconds: float = 120) -> None:
        """Until somebody has come to read."""
        deadline = time.monotonic() + seconds
        while not self._reached():
            assert time.monotonic() < deadline, f"nobody reads {self._path}"
            time.sleep(0.05)

    def restore(self) -> None:
        """Give the file to everybody who comes from now on; whoever waits goes on waiting."""
        real = self._pipe.with_suffix(".real")
        real.write_bytes(self._content)
        real.replace(self._path)

    def open(self) -> None:
        """Give the file to whoever waits for it, and to everybody who comes later."""
        self.restore()
        if self._end is not None or self._reached():
            os.write(self._end, self._content)
            self.expect_another()

    def _reached(self) -> bool:
        with suppress(OSError):  # a pipe that nobody reads cannot be opened so
            self._end = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
        return self._end is not None

    def expect_another(self) -> None:
        """Wait for somebody new, once the one who came is dead."""
        if self._end is not None:
            os.close(self._end)
            self._end = None


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Callable[[int], Gate]]:
    """Makes a gate of a case's file; nobody is left waiting at it after the test."""
    gates: list[Gate] = []

    def make(case: int) -> Gate:
        name = f"BraTS2021_{case:05d}"
        file = tmp_path / "data" / name / f"{name}_flair.nii.gz"
        gates.append(Gate(file, tmp_path / f"gate-{len(gates)}"))
        return gates[-1]

    yield make
    for one in gates:
        with suppress(BrokenPipeError):  # whoever waited is dead
            one.open()
