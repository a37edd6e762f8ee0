"""`fmnet-preprocess run` on a real cluster of processes, through the command line's door."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from waiting import wait_until

from common import nifti
from common.errors import InputError
from common.lock import Lock
from common.manifest import load_manifest
from common.store import Store, StoreWriter
from preprocess.cluster import DASK_SETTINGS
from preprocess.pipeline import begin, execute
from preprocess.plan import plan

Cohort = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


def stored(path: Path) -> int:
    """How many cases the store has by now; looks at files alone, not to fall behind the run."""
    cases = path.glob("cases/*/zarr.json")
    return sum('"record"' in case.read_text() for case in cases)


def test_a_cohort_becomes_a_store_and_comes_back(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(), tmp_path / "s.zarr"
    done = command("run", data, "--store", path, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"6/6.*elapsed", done.stdout)
    assert "6 new, 0 kept" in done.stdout
    assert "train 3, val 2, test 1" in done.stdout
    store = Store.open(path)
    assert list(store.contents().records) == [f"BraTS2021_{index:05d}" for index in range(6)]
    for case_id, record in store.contents().records.items():
        store.verify(case_id)
        _, label = store.read_volume(case_id)
        assert label is not None
        restored = store.task.from_canonical(record.to_file_grid(label), record.convention)
        original = nifti.read(data / case_id / f"{case_id}_seg.nii.gz")
        assert np.array_equal(restored, original.voxels)
        assert record.geometry.matches(original.geometry)


def test_a_rerun_keeps_what_is_done_and_redoes_what_changed(
    cohort: Cohort, tmp_path: Path, run: Command
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    assert run(data, "--store", path).returncode == 0
    before = Store.open(path).contents().records
    again = run(data, "--store", path)
    assert "0 case(s) to do, 4 done before" in again.stdout
    assert re.search(r"comparing.*4/4.*elapsed", again.stdout)
    flair = data / "BraTS2021_00003" / "BraTS2021_00003_flair.nii.gz"
    voxels, geometry, *_ = nifti.read(flair)
    os.utime(flair)  # touched, but the same bytes: the checksum decides
    assert "4 done before" in run(data, "--store", path).stdout
    nifti.write(flair, voxels * 2, geometry)
    changed = run(data, "--store", path)
    assert "1 case(s) to do, 3 done before" in changed.stdout
    after = Store.open(path).contents().records
    assert [c for c in before if before[c] != after[c]] == ["BraTS2021_00003"]
    Store.open(path).verify("BraTS2021_00003")


def test_one_task_a_case_on_two_processes(
    cohort: Cohort, tmp_path: Path, cluster: LocalCluster
) -> None:
    data, path = cohort(6), str(tmp_path / "s.zarr")
    with Client(cluster) as client, Lock(path) as lock:
        client.get_task_stream(start=0)  # installs the scheduler's own recorder
        work = plan(data, path, load_manifest(data / "data_manifest.yaml"))
        outcomes = list(execute(client, work, lock))
        recorded = client.get_task_stream(count=1000)
    tasks = [task for task in recorded if task["key"].startswith("case-")]
    assert sorted(task["key"] for task in tasks) == [
        f"case-{c}" for c in Store.open(path).contents().records
    ]
    assert len({task["worker"] for task in tasks}) == 2
    assert len({outcome.process for outcome in outcomes} - {os.getpid()}) == 2


def test_a_scheduler_at_an_address(
    cohort: Cohort, tmp_path: Path, cluster: LocalCluster, command: Command
) -> None:
    address = cluster.scheduler_address
    done = command("run", cohort(4), "--store", tmp_path / "s.zarr", "--cluster", address)
    assert done.returncode == 0, done.stderr
    assert len(Store.open(tmp_path / "s.zarr").contents().records) == 4


def test_a_cluster_that_outlives_a_run_takes_the_next_manifest(
    cohort: Cohort, tmp_path: Path, cluster: LocalCluster, command: Command
) -> None:
    data, path = cohort(3), tmp_path / "s.zarr"
    at = ("--store", path, "--cluster", cluster.scheduler_address)
    assert command("run", data, *at).returncode == 0
    wider = command("run", data, *at, "--set", "margin=4")
    assert "3 case(s) to do, 0 done before" in wider.stdout
    again = command("run", data, *at, "--set", "margin=4")
    assert "0 case(s) to do, 3 done before" in again.stdout


def test_an_interrupt_while_workers_start_is_heard(cohort: Cohort, tmp_path: Path) -> None:
    data = cohort(3)
    running = subprocess.Popen(
        [sys.executable, "-m", "preprocess", "run", str(data), "--store", str(tmp_path / "s.zarr")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    while "starting local workers" not in running.stdout.readline():
        assert running.poll() is None
    time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "of 3 case(s) are stored" in errors
    assert "Traceback" not in errors


def test_an_interrupted_run_goes_on(cohort: Cohort, tmp_path: Path, run: Command) -> None:
    data, path = cohort(60), tmp_path / "s.zarr"
    running = subprocess.Popen(
        [sys.executable, "-m", "preprocess", "run", str(data), "--store", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: stored(path) >= 3, "three cases", 120)
    os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C does: every process of the terminal
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    told = re.search(r"interrupted: (\d+) of 60 case\(s\) are stored", errors)
    assert told is not None, errors
    assert "Traceback" not in errors
    done = len(Store.open(path).contents().records)
    assert 3 <= done < 60
    assert not Path(f"{path}.lock").exists()
    rerun = run(data, "--store", path)
    assert f"{60 - done} case(s) to do, {done} done before" in rerun.stdout
    assert rerun.returncode == 0
    assert len(Store.open(path).contents().records) == 60


def test_cases_from_before_a_change_of_the_manifest_are_not_called_done(
    cohort: Cohort, tmp_path: Path, command: Command, run: Command
) -> None:
    data, path = cohort(3), tmp_path / "s.zarr"
    assert run(data, "--store", path).returncode == 0
    manifest = load_manifest(data / "data_manifest.yaml", ["margin=6"])
    begin(plan(data, str(path), manifest))  # and the run is killed before its first case
    status = command("status", path)
    assert status.returncode == 1, status.stdout
    assert "0 done, 0 failed" in status.stdout
    assert "to be made again" in status.stdout
    assert "3: made with other parameters" in status.stdout
    assert not any(Store.open(path).contents().splits.values())
    unchanged = plan(data, str(path), load_manifest(data / "data_manifest.yaml"))
    assert len(unchanged.kept) == 3
    again = run(data, "--store", path, "--set", "margin=6")
    assert "3 case(s) to do, 0 done before" in again.stdout
    assert command("status", path).returncode == 0


def test_bad_cases_are_set_aside_and_the_others_stored(
    cohort: Cohort, tmp_path: Path, command: Command, run: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    flair = data / "BraTS2021_00004" / "BraTS2021_00004_flair.nii.gz"
    flair.write_bytes(flair.read_bytes()[:2000])
    (data / "BraTS2021_00003" / "BraTS2021_00003_t1.nii.gz").unlink()
    (data / "notes.mha").write_text("version https://git-lfs.github.com/spec/v1\n")
    (data / "stray").mkdir()
    (data / "stray" / "x.dcm").write_text("no case")
    assert "3 usable case(s) of 5, 4 error(s)" in command("check", data).stdout
    done = run(data, "--store", path)
    assert "3 of 5 case(s) are stored" in done.stderr
    assert done.returncode == 1
    assert "BraTS2021_00004_flair.nii.gz: damaged: incomplete or truncated stream" in done.stdout
    assert "t1 is missing" in done.stdout
    assert "git-LFS pointer" in done.stdout
    store = Store.open(path)
    assert list(store.contents().records) == [
        "BraTS2021_00000",
        "BraTS2021_00001",
        "BraTS2021_00002",
    ]
    failure = store.contents().failures["BraTS2021_00004"]
    assert failure.stage == "read"
    assert failure.reason.startswith(f"BraTS2021_00004/{flair.name}: damaged: incomplete")
    assert failure.peak_memory_mb is not None
    assert failure.peak_memory_mb > 10
    status = command("status", path)
    assert status.returncode == 1
    assert "3 done, 2 failed" in status.stdout


def test_what_is_unusual_in_a_case_is_said_when_it_is_stored(
    cohort: Cohort, tmp_path: Path, run: Command
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    name = "BraTS2021_00001"
    flair, t2 = (data / name / f"{name}_{ending}.nii.gz" for ending in ("flair", "t2"))
    t2.write_bytes(flair.read_bytes())
    said = f"warning: {name}  {t2.name}: the same voxels"
    first = run(data, "--store", path)
    assert first.returncode == 0, first.stderr
    assert said in first.stdout
    again = run(data, "--store", path)
    assert said not in again.stdout
    assert "on 1 case(s)" in again.stdout


def test_an_image_in_two_splits_is_said(
    cohort: Cohort, tmp_path: Path, command: Command, run: Command
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    for name in ("flair", "t1", "t1ce", "t2", "seg"):
        copy = data / "BraTS2021_00003" / f"BraTS2021_00003_{name}.nii.gz"
        copy.write_bytes((data / "BraTS2021_00000" / f"BraTS2021_00000_{name}.nii.gz").read_bytes())
    done = run(data, "--store", path)
    assert done.returncode == 1
    line = "BraTS2021_00000 (val) and BraTS2021_00003 (train) have the same image"
    assert line in done.stderr
    assert line in command("status", path).stderr
    assert len(Store.open(path).contents().records) == 4


def test_nothing_is_written_among_the_cases_or_in_a_store(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(3), tmp_path / "s.zarr"
    before = sorted(data.rglob("*"))
    inside = command("run", data, "--store", data / "s.zarr")
    assert inside.returncode == 2
    assert f"s.zarr: is in the folder of the data; name a place outside {data}" in inside.stderr
    assert sorted(data.rglob("*")) == before
    StoreWriter.create(path, load_manifest(data / "data_manifest.yaml"))
    for arguments in (("report", path, "--out", path / "x.html"), ("phantom", path / "phantoms")):
        refused = command(*arguments)
        assert refused.returncode == 2
        assert "is in the store" in refused.stderr


def test_after_a_clean_check_the_next_command_is_said(cohort: Cohort, command: Command) -> None:
    data = cohort(3)
    told = command("check", data, "--set", "store=x y.zarr", "--set", "margin=3").stdout
    (line,) = (line for line in told.splitlines() if line.startswith("next: "))
    settings = ["--set", "store=x y.zarr", "--set", "margin=3"]
    assert shlex.split(line)[2:] == ["run", str(data), "--store", "x y.zarr", *settings]
    within = command("check", data, cwd=data).stdout
    assert f"--store {data.parent / 'brats.zarr'}" in within
    (data / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz").unlink()
    assert "next: " not in command("check", data).stdout


def test_what_is_missing_is_said(
    tmp_path: Path, cohort: Cohort, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DASK_SETTINGS, "distributed.comm.timeouts.connect", "1s")
    (tmp_path / "empty").mkdir()
    nothing = command("run", tmp_path / "empty", "--store", tmp_path / "s.zarr")
    assert nothing.returncode == 2
    assert "no usable case" in nothing.stderr
    assert not (tmp_path / "s.zarr").exists()
    assert "no such folder" in command("run", tmp_path / "nowhere", cwd=tmp_path).stderr
    missing = command("status", tmp_path / "s.zarr")
    assert missing.returncode == 2
    assert "fmnet-preprocess run " in missing.stderr
    typo = command("run", cohort(3), "--set", "crip=[16,16,16]", cwd=tmp_path)
    assert typo.returncode == 2
    assert "crip: no such key; did you mean crop?" in typo.stderr
    nobody = command("run", tmp_path / "data", "--cluster", "tcp://127.0.0.1:9", cwd=tmp_path)
    assert nobody.returncode == 2
    assert "no Dask scheduler answers there" in nobody.stderr
    for where in ("tcp://127.0.0.1:9", "slurm"):
        at = ("--store", tmp_path / "brats.zarr", "--cluster", where)
        idle = command("run", tmp_path / "data", *at, "--workers", 2)
        assert idle.returncode == 2
        assert (
            f"--workers 2: only for local workers; leave it out with --cluster {where}"
            in idle.stderr
        )
    assert not (tmp_path / "brats.zarr").exists()
    assert not (tmp_path / "brats.zarr.lock").exists()


def test_a_cohort_without_labels_is_said_to_be_of_no_use_for_training(
    cohort: Cohort, tmp_path: Path, run: Command
) -> None:
    data, path = cohort(3), tmp_path / "s.zarr"
    for label in data.rglob("*_seg.nii.gz"):
        label.unlink()
    done = run(data, "--store", path)
    assert done.returncode == 0, done.stderr
    assert "no case has a label" in done.stdout


def test_no_progress_is_shown_of_nothing(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "[old]" / "x[" / "b].zarr"  # which Rich would take for markup
    StoreWriter.create(path, load_manifest())
    for name in ("verify", "report"):
        done = command(name, path)
        assert done.returncode == 0, done.stderr
        assert "elapsed" not in done.stdout
        assert "[old]/x[/b]" in done.stdout.replace("\n", "")


def test_cases_are_stored_whatever_the_splits(
    cohort: Cohort, tmp_path: Path, command: Command, run: Command
) -> None:
    data, path = cohort(4), tmp_path / "s.zarr"
    lists = "splits={kind: lists, train: [BraTS2021_00000], val: [gone]}"
    done = run(data, "--store", path, "--set", lists)
    assert done.returncode == 0, done.stderr
    assert len(Store.open(path).contents().records) == 4
    assert command("status", path).returncode == 0


def test_a_folder_without_a_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable case"):
        plan(tmp_path, str(tmp_path / "s.zarr"), load_manifest())


def test_job_settings_among_the_data_count_only_if_named(tmp_path: Path, command: Command) -> None:
    manifest = tmp_path / "data" / "data_manifest.yaml"
    manifest.parent.mkdir()
    manifest.write_text("cluster: {directives: ['--output=/etc/passwd']}")
    slurm = ("run", manifest.parent, "--store", tmp_path / "s.zarr", "--cluster", "slurm")
    refused = command(*slurm)
    assert refused.returncode == 2
    assert f"--manifest {manifest}" in refused.stderr
    named = command(*slurm, "--manifest", manifest)
    assert "--manifest" not in named.stderr
    assert "no usable case" in named.stderr  # it was read
    broken = command(*slurm, "--set", r'cluster.queue="a\n#SBATCH --wrap=x"')
    assert broken.returncode == 2
    assert "cluster.queue" in broken.stderr
