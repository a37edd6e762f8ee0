"""A run on data that changed under a store: what was moved away, refused, or is out of reach."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import NO_FILES
from storing import preprocess

from common.manifest import load_manifest
from common.record import CaseFailure
from common.store import Store
from preprocess.pipeline import begin
from preprocess.plan import plan

Cohort = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]

NAMES = ("flair", "t1", "t1ce", "t2", "seg")
ONE, TWO, THREE, FOUR, FIVE = (f"BraTS2021_{index:05d}" for index in range(5))


def file_of(data: Path, case_id: str, name: str) -> Path:
    return data / case_id / f"{case_id}_{name}.nii.gz"


def test_a_case_that_discovery_refuses_is_known_to_the_store(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    t1 = file_of(data, FOUR, "t1")
    t1.rename(tmp_path / "aside")
    store = preprocess(data, path)
    assert list(store.contents().failures) == [FOUR]
    status = command("status", path)
    assert status.returncode == 1
    assert "4 done, 1 failed" in status.stdout
    assert f"{FOUR}  failed at stage read: {FOUR}: t1 is missing" in status.stdout
    (tmp_path / "aside").rename(t1)
    store = preprocess(data, path)
    assert store.contents().failures == {}
    t1.unlink()  # now that the case is stored, it is not lost for what its folder has become
    store = preprocess(data, path)
    assert list(store.contents().records) == [ONE, TWO, THREE, FOUR, FIVE]
    assert store.contents().failures == {}


def test_stored_cases_that_were_moved_away_are_said_and_dropped_when_asked(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    for name in NAMES:
        file_of(data, FOUR, name).write_bytes(file_of(data, ONE, name).read_bytes())
    preprocess(data, path)
    (data / FOUR).rename(tmp_path / "aside")
    rerun = command("run", data, "--store", path)
    assert rerun.returncode == 1
    assert f"1 stored case(s) are not in {data} and were kept: {FOUR}" in rerun.stdout
    assert "have the same image" in rerun.stderr
    assert "--drop-absent" in rerun.stderr
    assert FOUR in Store.open(path).contents().records
    dropped = command("run", data, "--store", path, "--drop-absent")
    assert dropped.returncode == 0, dropped.stdout + dropped.stderr
    assert f"removed 1 stored case(s) that are not in {data}: {FOUR}" in dropped.stdout
    store = Store.open(path)
    assert list(store.contents().records) == [ONE, TWO, THREE, FIVE]
    assert store.expected == (ONE, TWO, THREE, FIVE)
    assert store.contents().split("val") == [ONE, TWO]
    assert not [file for file in (path / "crops/image/c/3").rglob("*") if file.is_file()]


def test_a_run_on_a_part_of_the_data_forgets_nothing(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    store = preprocess(data, path)
    store.set_aside(CaseFailure(case_id=FOUR, stage="read", reason="no", peak_memory_mb=None))
    store.remove(THREE)  # as if its folder had been taken out of the store by hand
    part = ("run", data / ONE, "--store", path, "--manifest", data / "data_manifest.yaml")
    done = command(*part, "--set", "splits={kind: fractions, train: 1, val: 0, test: 0}")
    assert done.returncode == 1, done.stdout
    assert "3 of 5 case(s) are stored" in done.stderr
    assert f"4 stored case(s) are not in {data / ONE}" in done.stdout
    reopened = Store.open(path)
    assert reopened.expected == (ONE, TWO, THREE, FOUR, FIVE)
    assert list(reopened.contents().failures) == [FOUR]
    status = command("status", path)
    assert status.returncode == 1
    assert "3 done, 1 failed" in status.stdout
    assert "1: not tried yet" in status.stdout


@pytest.mark.parametrize(
    ("kind", "found"),
    [("a link to nothing", "No such file or directory"), ("a named pipe", "a named pipe")],
)
def test_a_stored_case_whose_file_cannot_be_read_stays_and_the_file_is_named(
    kind: str, found: str, cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    preprocess(data, path)
    t1 = file_of(data, TWO, "t1")
    t1.unlink()
    NO_FILES[kind](t1)
    rerun = command("run", data, "--store", path)
    assert rerun.returncode == 1, rerun.stderr
    assert "Traceback" not in rerun.stderr
    assert "0 case(s) to do, 5 done before" in rerun.stdout
    shown = f"{TWO}/{t1.name}: unreadable file ({found})"
    assert f"{TWO}  {shown}" in rerun.stdout
    assert TWO in Store.open(path).contents().records


def test_a_stored_case_whose_file_is_damaged_later_stays(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    before = preprocess(data, path).record(TWO)
    t1 = file_of(data, TWO, "t1")
    t1.write_bytes(t1.read_bytes()[:-100])
    rerun = command("run", data, "--store", path)
    assert rerun.returncode == 1, rerun.stderr
    assert f"{TWO}/{t1.name}: damaged" in rerun.stdout
    store = Store.open(path)
    assert store.record(TWO) == before
    store.verify(TWO)
    assert not list(path.glob("crops/image/c/5/**/0"))  # the row that was meant for it


def test_a_stored_label_whose_file_is_gone_is_said_and_dropped_when_asked(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    before = preprocess(data, path).record(TWO)
    label = file_of(data, TWO, "seg")
    label.unlink()
    file_of(data, TWO, "t1").touch()
    rerun = command("run", data, "--store", path)
    assert rerun.returncode == 1, rerun.stderr
    assert "0 case(s) to do, 5 done before" in rerun.stdout
    assert f"{TWO}  {label.name}: no label to use" in rerun.stdout
    assert Store.open(path).record(TWO) == before
    manifest = load_manifest(data / "data_manifest.yaml")
    dropping = plan(data, str(path), manifest, drop_absent=True)
    assert [case.case_id for case in dropping.todo] == [TWO]
    assert not dropping.findings


def test_one_damaged_record_hides_no_other_case(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    preprocess(data, path)
    (path / "cases" / TWO / "zarr.json").write_text("{")
    status = command("status", path)
    assert status.returncode == 1
    assert "4 done, 1 failed" in status.stdout
    assert len([line for line in status.stdout.splitlines() if line.startswith(f"✗ {TWO}")]) == 1
    report = command("report", path)
    assert report.returncode == 0, report.stderr
    assert TWO in (tmp_path / "s-quality.html").read_text()
    preprocess(data, path)
    assert not Store.open(path).contents().absence


def test_a_case_id_that_cannot_be_stored_is_no_case_of_the_store(
    cohort: Cohort, tmp_path: Path
) -> None:
    data, bad = cohort(5), "bad\x1b[2Jid"
    for name in NAMES:
        file_of(data, FOUR, name).rename(data / FOUR / f"{bad}_{name}.nii.gz")
    store = preprocess(data, tmp_path / "s.zarr")
    assert list(store.contents().records) == [ONE, TWO, THREE, FIVE]
    assert bad not in store.expected


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", "image", "image/c/0/0/0/0", "image/zarr.json"])
def test_a_link_or_damage_in_a_case_is_named_by_every_command_and_the_others_go_on(
    part: str, cohort: Cohort, tmp_path: Path, command: Command, run: Command
) -> None:
    data, path, outside = cohort(5), tmp_path / "s.zarr", tmp_path / "outside"
    preprocess(data, path)
    place = path / "cases" / TWO / part
    is_link = part != "image/zarr.json"
    if is_link:
        place.rename(outside)
        place.symlink_to(outside)
    else:
        place.write_bytes(place.read_bytes().replace(b"sharding_indexed", b"sharding_indexee"))
    there = sorted(tmp_path.rglob("outside/**/*"))
    for name in ("status", "verify"):
        told = command(name, path)
        assert told.returncode == 1
        assert f"case {TWO}: " in told.stdout + told.stderr
    assert command("report", path).returncode == 0
    assert TWO in (tmp_path / "s-quality.html").read_text()
    again = run(data, "--store", path)
    assert (again.returncode == 1) == is_link, again.stdout + again.stderr
    assert place.is_symlink() == is_link
    assert sorted(tmp_path.rglob("outside/**/*")) == there
    assert {ONE, THREE, FOUR, FIVE} <= Store.open(path).contents().records.keys()


def test_a_lock_without_content_keeps_nobody_from_reading(
    cohort: Cohort, tmp_path: Path, command: Command
) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    preprocess(data, path)
    (tmp_path / "s.zarr.lock").touch()
    for name in ("status", "verify"):
        assert command(name, path).returncode == 0
    repair = command("verify", "--repair", path)
    assert repair.returncode == 2
    assert "s.zarr.lock" in repair.stderr


def test_a_bad_case_moved_away_is_forgotten_when_asked(cohort: Cohort, tmp_path: Path) -> None:
    data, path = cohort(5), tmp_path / "s.zarr"
    file_of(data, FOUR, "t1").unlink()
    preprocess(data, path)
    (data / FOUR).rename(tmp_path / "aside")
    store = preprocess(data, path)
    assert (list(store.contents().failures), FOUR in store.expected) == ([FOUR], True)
    manifest = load_manifest(data / "data_manifest.yaml")
    store = begin(plan(data, str(path), manifest, drop_absent=True))
    assert (list(store.contents().failures), FOUR in store.expected) == ([], False)


def test_workers_are_given_the_path_that_was_named(cohort: Cohort, tmp_path: Path) -> None:
    data, mounted = cohort(5), tmp_path / "mounted"
    mounted.symlink_to(data)  # on another machine, to where the disk is there
    work = plan(mounted, str(tmp_path / "s.zarr"), load_manifest(data / "data_manifest.yaml"))
    assert work.todo[0].images["t1"] == file_of(mounted, ONE, "t1")
