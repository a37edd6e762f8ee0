"""What preprocessing costs apart from the voxels, as a cohort grows.

The manifest lists every case in a split by its name, which makes it as long as possible.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.synthetic import write_case
from common.discovery import discover
from common.files import write_json
from common.lock import Lock
from common.manifest import DEFAULT_NAME, load_manifest
from common.pool import available_cores, map_in_processes
from preprocess.cluster import connect
from preprocess.pipeline import execute, peak_memory_mb
from preprocess.plan import plan

SHAPE = (16, 18, 20)
CROP = [8, 8, 8]
TOUCHED = 10
"""One case in so many is touched, then changed."""

Row = dict[str, float]
"""Figures of one size, by name; of a command both wall and CPU seconds."""


class Run(NamedTuple):
    data: Path
    store: Path
    workers: int


def measure_sizes(
    folder: Path, sizes: list[int], workers: int, json_file: Path | None = None
) -> None:
    """Measure each size, the smallest first, print the table and write the JSON file.

    The folder is new or empty.
    """
    phantoms = folder / "phantoms"
    phantoms.mkdir(parents=True)
    for _ in map_in_processes(write_tiny, phantoms, range(sizes[-1]), available_cores()):
        pass
    rows = []
    for cases in sizes:
        data = cohort(phantoms, folder / f"cohort-{cases}", cases)
        rows.append(measure(Run(data, folder / f"{cases}.zarr", workers), cases))
        print(json.dumps(rows[-1]), flush=True)
    Console().print(table(rows))
    if json_file:
        sizes_in_voxels = {"shape": SHAPE, "crop": CROP}
        write_json(json_file, machine() | sizes_in_voxels | {"workers": workers, "sizes": rows})


def case_id(index: int) -> str:
    return f"BraTS-PHANTOM-{index:05d}-000"


def write_tiny(phantoms: Path, index: int, version: int = 0) -> None:
    write_case(phantoms / case_id(index), SHAPE, [index, version], ".nii.gz")


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
    """Everything that one size costs."""
    row: Row = {"cases": cases}
    manifest = load_manifest(run.data / DEFAULT_NAME)
    began, used = time.perf_counter(), time.process_time()
    found = discover(run.data, manifest)
    row["discovery_seconds"] = time.perf_counter() - began
    row["discovery_cpu_seconds"] = time.process_time() - used
    if len(found.cases) != cases:
        sys.exit(f"{len(found.cases)} of {cases} cases found: {found.findings}")
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # for the peak memory of this run
        row |= fresh.submit(preprocess, run).result()
    again = ["run", str(run.data), "--store", str(run.store), "--workers", str(run.workers)]
    row |= timed("check", ["check", str(run.data)])
    for name in ("status", "verify", "report"):
        row |= timed(name, [name, str(run.store)])
    page = run.store.with_name(f"{run.store.stem}-quality.html")
    row["report_mb"] = page.stat().st_size / 1e6
    row |= timed("nothing_to_do", again, plan_line(0, cases))
    some = range(0, cases, TOUCHED)
    for index in some:
        for path in (run.data / case_id(index)).iterdir():
            os.utime(path)
    row |= timed("touched", again, plan_line(0, cases))
    for index in some:
        write_tiny(run.data, index, version=cases)
    return row | timed("changed", again, plan_line(len(some), cases - len(some)))


def plan_line(todo: int, kept: int) -> str:
    """A pattern of what a run prints of its plan."""
    return rf"\b{todo} case\(s\) to do, {kept} done before"


def preprocess(run: Run) -> Row:
    """Run as the command does, in this process, which is client and scheduler."""
    manifest = load_manifest(run.data / DEFAULT_NAME)
    with Lock(str(run.store)) as lock, connect("local", run.workers, manifest.cluster) as client:
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


def timed(name: str, command: list[str], expected: str = "") -> Row:
    """Wall seconds of a command with its start, and CPU seconds of all its processes."""
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
    if done.returncode or not re.search(expected, done.stdout):
        sys.exit(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout[-5000:]}")
    cpu_seconds = now.children_user + now.children_system
    cpu_seconds -= used.children_user + used.children_system
    return {f"{name}_seconds": seconds, f"{name}_cpu_seconds": cpu_seconds}


def table(rows: list[Row]) -> Table:
    """A column for each size, then the CPU time that a further case adds."""
    first, last, drawn = rows[0], rows[-1], Table(box=None)
    drawn.add_column("")
    for row in rows:
        drawn.add_column(f"{row['cases']:.0f}", justify="right")
    drawn.add_column("CPU ms per further case", justify="right")
    for key in rows[0]:
        if key == "cases" or key.endswith("_cpu_seconds"):
            continue
        cells, cpu = [f"{row[key]:.2f}" for row in rows], key.replace("_seconds", "_cpu_seconds")
        if cpu != key and cpu in first and first is not last:
            added = (last[cpu] - first[cpu]) / (last["cases"] - first["cases"])
            cells.append(f"{1e3 * added:.2f}")
        drawn.add_row(key.replace("_", " "), *cells)
    return drawn
