"""How preprocessing behaves as a cohort grows, on phantoms so small that all but voxels shows.

python benchmarks/scale.py FOLDER [--cases 250 500 1000 2000] [--workers 2] [--json FILE]

FOLDER is new or empty, and holds some 20 kB of phantoms and 60 kB of stores a case afterwards. The
manifest lists every case in a split by its name, which is the most that it can have to say.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from common import nifti
from common.discovery import discover
from common.geometry import Geometry
from common.manifest import DEFAULT_NAME, load_manifest
from common.task import MODALITIES, Convention, from_canonical
from preprocess.cluster import connect
from preprocess.lock import hold
from preprocess.pipeline import execute, peak_memory_mb
from preprocess.plan import plan
from preprocess.pool import available_cores, map_in_processes

SHAPE = (16, 18, 20)
GEOMETRY = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, -17.0, 0.0))
CROP = [8, 8, 8]
TOUCHED = 10
"""One case in so many is touched, and then changed."""

QUANTITIES = {
    "discovery_seconds": "discovery, s",
    "run_seconds": "run, s",
    "worker_ms_a_case": "a case in its worker, ms",
    "overhead_ms_a_case": "overhead a case, ms",
    "client_cpu_ms_a_case": "of it CPU of client and scheduler, ms",
    "load_average": "load of the machine meanwhile",
    "client_peak_mb": "peak memory of client and scheduler, MB",
    "scheduler_topics": "topics that the scheduler keeps",
    "check_seconds": "check, s",
    "status_seconds": "status, s",
    "verify_seconds": "verify, s",
    "report_seconds": "report, s",
    "report_mb": "report, MB",
    "nothing_to_do_seconds": "run with nothing to do, s",
    "touched_seconds": "run after a tenth was touched, s",
    "changed_seconds": "run after a tenth was changed, s",
}
Row = dict[str, float]


class Run(NamedTuple):
    """What is to be run: on which data, into which store, with how many processes."""

    data: Path
    store: Path
    workers: int


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = sorted(given.cases)
    phantoms = given.folder / "phantoms"
    phantoms.mkdir(parents=True)
    for _ in map_in_processes(write_case, phantoms, range(sizes[-1]), available_cores()):
        pass
    rows = []
    for cases in sizes:
        data = cohort(phantoms, given.folder / f"cohort-{cases}", cases)
        rows.append(measure(Run(data, given.folder / f"{cases}.zarr", given.workers), cases))
        print(json.dumps(rows[-1]), flush=True)
    Console().print(table(rows))
    if given.json:
        measured = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": machine(),
            "workers": given.workers,
            "phantoms": f"{' × '.join(map(str, SHAPE))} voxels, crops of {CROP[0]}³",
            "sizes": rows,
        }
        given.json.write_text(json.dumps(measured, indent=2) + "\n", "utf-8")


def case_id(index: int) -> str:
    return f"BraTS-PHANTOM-{index:05d}-000"


def write_case(phantoms: Path, index: int, version: int = 0) -> None:
    """An ellipsoid of noise with a tumour of all three tissues; no two cases are alike."""
    generator = np.random.default_rng([index, version])
    z, y, x = (
        axis - (side - 1) / 2 for axis, side in zip(np.ogrid[:16, :18, :20], SHAPE, strict=True)
    )
    brain = (z / 7) ** 2 + (y / 8) ** 2 + (x / 9) ** 2 < 1
    distance = z**2 + y**2 + (x + 3) ** 2
    canonical = np.select([distance < 2, distance < 5, distance < 9 + index % 5], [1, 3, 2], 0)
    folder = phantoms / case_id(index)
    folder.mkdir(exist_ok=True)
    for ending in ("t2f", "t1n", "t1c", "t2w")[: len(MODALITIES)]:
        image = (generator.integers(50, 900, SHAPE) * brain).astype(np.int16)
        nifti.write(folder / f"{folder.name}-{ending}.nii.gz", image, GEOMETRY)
    label = from_canonical(canonical.astype(np.uint8), Convention.BRATS_2023)
    nifti.write(folder / f"{folder.name}-seg.nii.gz", label, GEOMETRY)


def cohort(phantoms: Path, folder: Path, cases: int) -> Path:
    """A folder of links to the first phantoms, and its manifest."""
    folder.mkdir()
    names = [case_id(index) for index in range(cases)]
    for name in names:
        (folder / name).symlink_to((phantoms / name).resolve())
    lists = {"train": names[cases // 5 :], "val": names[: cases // 10]}
    lists["test"] = names[cases // 10 : cases // 5]
    described = {"name": "tiny", "crop": CROP, "splits": {"kind": "lists"} | lists}
    (folder / DEFAULT_NAME).write_text(yaml.safe_dump(described), "utf-8")
    return folder


def measure(run: Run, cases: int) -> Row:
    """Everything that one size costs, in the order of a cohort's life."""
    row: Row = {"cases": cases}
    manifest = load_manifest(run.data / DEFAULT_NAME)
    began, used = time.perf_counter(), time.process_time()
    found = discover(run.data, manifest)
    row["discovery_seconds"] = time.perf_counter() - began
    row["discovery_cpu_seconds"] = time.process_time() - used
    if len(found.cases) != cases:
        sys.exit(f"{len(found.cases)} of {cases} cases found: {found.findings}")
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # whose peak memory is of this run
        row |= fresh.submit(preprocess, run).result()
    again = ["run", str(run.data), "--store", str(run.store), "--workers", str(run.workers)]
    row |= timed("check", ["check", str(run.data)])
    for name in ("status", "verify", "report"):
        row |= timed(name, [name, str(run.store)])
    page = run.store.with_name(f"{run.store.stem}-quality.html")
    row["report_mb"] = page.stat().st_size / 1e6
    row |= timed("nothing_to_do", again, said(0, cases))
    some = range(0, cases, TOUCHED)
    for index in some:
        for path in (run.data / case_id(index)).iterdir():
            os.utime(path)
    row |= timed("touched", again, said(0, cases))
    for index in some:
        write_case(run.data, index, version=cases)
    return row | timed("changed", again, said(len(some), cases - len(some)))


def said(todo: int, kept: int) -> str:
    """What a run says of its plan, as a pattern."""
    return rf"\b{todo} case\(s\) to do, {kept} done before"


def preprocess(run: Run) -> Row:
    """A run as the command does it, in this process, which is client and scheduler."""
    manifest = load_manifest(run.data / DEFAULT_NAME)
    with hold(str(run.store)) as lock, connect("local", run.workers, manifest.cluster) as client:
        work = plan(run.data, str(run.store), manifest)
        began, used = time.perf_counter(), time.process_time()
        outcomes = list(execute(client, work, lock))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
        topics = len(client.get_events())
    if failures := [outcome.failure for outcome in outcomes if outcome.failure]:
        sys.exit(str(failures[0]))
    at_work = sum(outcome.seconds for outcome in outcomes)
    return {
        "run_seconds": seconds,
        "worker_ms_a_case": 1e3 * at_work / len(outcomes),
        "overhead_ms_a_case": 1e3 * (run.workers * seconds - at_work) / len(outcomes),
        "client_cpu_ms_a_case": 1e3 * cpu_seconds / len(outcomes),
        "load_average": os.getloadavg()[0],
        "client_peak_mb": peak_memory_mb() or float("nan"),
        "scheduler_topics": topics,
    }


def timed(name: str, command: list[str], told: str = "") -> Row:
    """What a command takes, start and imports included; it must succeed and say what is `told`.

    CPU seconds, which are its processes' together, do not depend on what else the machine does.
    """
    began, used = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "preprocess", *command],
        env=os.environ | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds, now = time.perf_counter() - began, os.times()
    if done.returncode or not re.search(told, done.stdout):
        sys.exit(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout[-5000:]}")
    cpu_seconds = now.children_user + now.children_system
    cpu_seconds -= used.children_user + used.children_system
    return {f"{name}_seconds": seconds, f"{name}_cpu_seconds": cpu_seconds}


def machine() -> str:
    """The processor that this ran on."""
    known = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return f"{available_cores()} cores of {known[1].strip() if known else 'an unknown processor'}"


def table(rows: list[Row]) -> Table:
    """A column a size; then, for what is a sum over cases, the CPU that a further case takes."""
    drawn = Table(box=None)
    drawn.add_column("cases")
    for row in rows:
        drawn.add_column(f"{row['cases']:.0f}", justify="right")
    for first, last in pairwise(rows):
        span = f"{first['cases']:.0f}–{last['cases']:.0f}"
        drawn.add_column(f"CPU ms a case, {span}", justify="right")
    for key, name in QUANTITIES.items():
        cells = [f"{row[key]:.2f}" for row in rows]
        cpu = key.replace("_seconds", "_cpu_seconds")
        for first, last in pairwise(rows) if cpu != key and cpu in rows[0] else ():
            added = (last[cpu] - first[cpu]) / (last["cases"] - first["cases"])
            cells.append(f"{1e3 * added:.2f}")
        drawn.add_row(name, *cells)
    return drawn


if __name__ == "__main__":
    main()
