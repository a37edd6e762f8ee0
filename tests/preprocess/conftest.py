"""Small BraTS-like cohorts on disk, files that make a run wait, and a shared Dask cluster."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cases import SHAPE, make_files
from cli import invoke
from distributed import LocalCluster
from waiting import Gate

from common import nifti
from common.geometry import Geometry
from preprocess.cli import app

MANIFEST = """
crop: [16, 16, 16]
splits: {{kind: lists, train: [{train}], val: [{val}], test: [{test}]}}
"""


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `fmnet-preprocess` with these arguments to its end, in a wide terminal."""
    return partial(invoke, app)


@pytest.fixture(scope="session")
def process() -> Command:
    """The same in a process of its own."""

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
            (data / case_id).mkdir(parents=True)
            for ending, voxels in make_files(index, shift=index % 3).items():
                grid = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
                nifti.write(data / case_id / f"{case_id}_{ending}.nii.gz", voxels, grid)
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


@pytest.fixture
def run(command: Command, cluster: LocalCluster) -> Command:
    """Runs `fmnet-preprocess run` with these arguments, on workers that are there already."""
    return partial(command, "run", "--cluster", cluster.scheduler_address)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Callable[[int], Gate]]:
    """Makes a gate of a case's file; nobody is left waiting at it after the test."""
    gates: list[Gate] = []

    def make(case: int) -> Gate:
        name = f"BraTS2021_{case:05d}"
        file = tmp_path / "data" / name / f"{name}_flair.nii.gz"
        gates.append(Gate(file))
        return gates[-1]

    yield make
    for one in gates:
        one.open()
