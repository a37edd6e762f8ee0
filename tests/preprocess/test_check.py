"""`fmnet-preprocess check`: every problem of every case, and nothing written."""

import json
import multiprocessing
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from common import nifti
from common.manifest import load_manifest
from common.task import GLIOMA
from preprocess.check import check as check_folder
from preprocess.cohort_labels import LabelledCase, label_findings

Cohort = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check(command: Command) -> Command:
    return partial(command, "check", "--workers", 1)


def test_a_clean_cohort(cohort: Cohort, check: Command) -> None:
    done = check(cohort(3))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 usable case(s), 0 error(s)" in done.stdout


def test_as_many_processes_as_asked_for(cohort: Cohort) -> None:
    data = cohort(3)
    manifest = load_manifest(data / "data_manifest.yaml")
    _, cases = check_folder(data, manifest, 2)
    assert next(cases).is_usable
    assert len(multiprocessing.active_children()) == 2
    assert all(case.is_usable for case in cases)


def test_all_problems_of_a_case_at_once_as_json(cohort: Cohort, check: Command) -> None:
    data = cohort(3)
    before = sorted(path for path in data.rglob("*"))
    case = data / "BraTS2021_00001"
    flair, t1 = (case / f"BraTS2021_00001_{name}.nii.gz" for name in ("flair", "t1"))
    voxels, geometry, *_ = nifti.read(flair)
    nifti.write(flair, np.where(voxels > 600, np.nan, voxels).astype(np.float32), geometry)
    t1.write_bytes(t1.read_bytes()[:-100])
    label, geometry, *_ = nifti.read(case / "BraTS2021_00001_seg.nii.gz")
    nifti.write(case / "BraTS2021_00001_seg.nii.gz", label * 2, geometry)
    done = check(data, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["usable"] == 2
    found = {finding["file"]: finding["found"] for finding in answer["findings"]}
    assert found["BraTS2021_00001/BraTS2021_00001_flair.nii.gz"].endswith("NaN or infinite")
    assert found["BraTS2021_00001/BraTS2021_00001_t1.nii.gz"].startswith("damaged")
    assert "[0, 2, 4, 8]" in found["BraTS2021_00001/BraTS2021_00001_seg.nii.gz"]
    assert all(finding["case"] == "BraTS2021_00001" for finding in answer["findings"])
    assert sorted(path for path in data.rglob("*")) == before


def test_a_name_with_a_line_end_is_on_one_line(cohort: Cohort, check: Command) -> None:
    data = cohort(1)
    (data / "BraTS2021_00000").rename(data / "BraTS2021\n✗ \x1b[31m_00000")
    (data / "sc\nan.mha").write_bytes(b"ObjectType = Image\n")
    done = check(data)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert any(r"sc\nan.mha" in line for line in lines)
    assert not any(line.startswith("an.mha") for line in lines)


def test_files_that_make_no_case_are_listed(cohort: Cohort, check: Command) -> None:
    data = cohort(3)
    (data / "survival.csv").write_text("id,days\n")
    (data / "scan.mha").write_bytes(b"ObjectType = Image\n")
    stray = data / "BraTS2021_00000" / "BraTS2021_00000_pd.nii.gz"
    source = data / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz"
    stray.write_bytes(source.read_bytes()[:1500])
    label = data / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz"
    label.unlink()
    label.mkdir()
    answer = json.loads(check(data, "--json").stdout)
    severity = {finding["file"]: finding["severity"] for finding in answer["findings"]}
    assert severity == {
        "scan.mha": "error",
        "BraTS2021_00000/BraTS2021_00000_pd.nii.gz": "error",
        "BraTS2021_00001/BraTS2021_00001_seg.nii.gz": "error",
    }
    texts = [finding["found"] for finding in answer["findings"]]
    assert any("truncated" in text and "'pd'" in text for text in texts)
    assert answer["usable"] == 3


def test_notes_keep_nothing_out(cohort: Cohort, check: Command) -> None:
    data = cohort(3)
    label = data / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz"
    voxels, geometry, *_ = nifti.read(label)
    nifti.write(label, np.zeros_like(voxels), geometry)
    done = check(data)
    assert done.returncode == 0, done.stdout
    assert "no tumour" in done.stdout
    assert "3 usable case(s), 0 error(s)" in done.stdout


def test_images_under_two_ids_are_named_with_both(cohort: Cohort, check: Command) -> None:
    data = cohort(3)  # each in a split of its own
    for ending in ("flair", "t1"):
        source = data / "BraTS2021_00000" / f"BraTS2021_00000_{ending}.nii.gz"
        target = data / "BraTS2021_00002" / f"BraTS2021_00002_{ending}.nii.gz"
        target.write_bytes(source.read_bytes())
    done = check(data, "--json")
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["case"] == "BraTS2021_00002"
    assert finding["found"] == "flair, t1 have the same voxels as those of BraTS2021_00000"
    assert finding["action"] == (
        "move one away: BraTS2021_00000 is in val and BraTS2021_00002 in test"
    )


def rewrite_label(data: Path, case_id: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = data / case_id / f"{case_id}_seg.nii.gz"
    voxels, geometry, *_ = nifti.read(path)
    nifti.write(path, change(voxels).astype(np.uint8), geometry)


def test_the_end_says_what_was_understood(cohort: Cohort, check: Command) -> None:
    data = cohort(3)
    (data / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz").unlink()
    mask = data / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz"
    (mask.parent / "BraTS2021_00001_mask.nii.gz").write_bytes(mask.read_bytes())
    rewrite_label(data, "BraTS2021_00002", lambda label: np.where(label == 4, 1, label))
    counts = {
        case: np.bincount(
            nifti.read(data / case / f"{case}_seg.nii.gz").voxels.ravel(), minlength=5
        )
        for case in ("BraTS2021_00001", "BraTS2021_00002")
    }
    voxels = sum(counts.values())
    said = check(data).stdout
    assert "3 case(s) of 3 patient(s); layout: brats2021 (3)" in said
    assert "labels in 2 of 3 cases" in said
    assert f"4 enhancing tumour in 1 ({voxels[4] / 1000:,.1f} ml)" in said
    assert "1 × *_mask.nii.gz" in said
    summary = json.loads(check(data, "--json").stdout)["summary"]
    assert (summary["cases"], summary["patients"], summary["labelled"]) == (3, 3, 2)
    assert summary["unused"] == {"*_mask.nii.gz": 1}
    (convention,) = summary["conventions"]
    found = {label["label"]: (label["cases"], label["ml"]) for label in convention["labels"]}
    ml = [pytest.approx(count / 1000) for count in voxels]
    assert found == {"ncr": (2, ml[1]), "ed": (2, ml[2]), "et": (1, ml[4])}


def test_a_cohort_without_labels_is_said_to_have_none(cohort: Cohort, check: Command) -> None:
    data = cohort(3)
    for label in data.rglob("*_seg.nii.gz"):
        label.rename(label.with_name(label.name.replace("_seg", "_mask")))
    said = check(data).stdout
    assert "labels in 0 of 3 cases" in said
    assert "3 × *_mask.nii.gz" in said


@pytest.mark.parametrize("command_name", ["check", "run"])
def test_a_4_is_doubted_where_other_cases_have_3_and_4(
    command_name: str, cohort: Cohort, command: Command, tmp_path: Path
) -> None:
    data = cohort(3)
    rewrite_label(data, "BraTS2021_00000", lambda label: np.where(label == 1, 3, label))
    options = ("--store", tmp_path / "s.zarr") if command_name == "run" else ()
    done = command(command_name, data, "--workers", 1, *options)
    assert done.returncode == 1
    (doubt,) = [line for line in done.stdout.splitlines() if "(the cohort): 2 case(s)" in line]
    assert "task: post-treatment" in doubt
    assert "BraTS2021_00001" in doubt
    assert "4 enhancing tumour in 2" in done.stdout


def test_ids_of_other_tasks_and_labels_against_anatomy_are_counted(
    cohort: Cohort, check: Command
) -> None:
    data = cohort(3)
    for number, case_id in enumerate(["BraTS-MET-00001-000", "BraTS-GLI-00001-101"]):
        folder = data / f"BraTS2021_{number:05d}"
        for path in folder.iterdir():
            path.rename(path.with_name(path.name.replace(folder.name, case_id)))
        folder.rename(data / case_id)
        rewrite_label(data, case_id, lambda label: np.where(label == 4, 3, label))

    def inside_out(label: np.ndarray) -> np.ndarray:
        swapped = np.zeros_like(label)
        for value, margin in ((1, 4), (4, 6), (2, 7)):
            swapped[margin:-margin, margin:-margin, margin:-margin] = value
        return swapped

    rewrite_label(data, "BraTS2021_00002", inside_out)
    answer = json.loads(check(data, "--json").stdout)
    cohort_wide = [f["found"] for f in answer["findings"] if f["file"] == "(the cohort)"]
    for words in ("1 case(s) with ids of metastases", "1 case(s) with ids of post-treatment"):
        assert words in cohort_wide
    assert "labels of 1 of 3 labelled case(s) contradict anatomy" in cohort_wide


@pytest.mark.parametrize(("values", "warns"), [("[0, 3, 4]", True), ("[0, 3, 40]", False)])
def test_40_is_no_4(values: str, *, warns: bool) -> None:
    case = LabelledCase("a", "brats2021", "values", {"ncr": 1, "ed": 1, "et": 1}, ())
    found = label_findings(GLIOMA, [case], [f"label values {values}"])
    assert bool(found) == warns


def test_a_warning_of_many_cases_is_one_line_and_each_ones_own_in_json(
    cohort: Cohort, check: Command, run: Command, tmp_path: Path
) -> None:
    data = cohort(10)
    for number, case in enumerate(sorted(data.glob("BraTS*"))):
        flair, t1, t2 = (case / f"{case.name}_{name}.nii.gz" for name in ("flair", "t1", "t2"))
        t2.write_bytes(t1.read_bytes())
        voxels, geometry, *_ = nifti.read(flair)
        nifti.write(flair, voxels.clip(0, 700 + 10 * number), geometry)  # clipped, in other shares
    plain = check(data)
    assert plain.returncode == 0, plain.stdout
    for lines in (plain.stdout, run(data, "--store", tmp_path / "s.zarr").stdout):
        for what in ("the same voxels", "clipped: "):
            (line,) = [line for line in lines.splitlines() if what in line]
            assert "10 cases: BraTS2021_00000, BraTS2021_00001, BraTS2021_00002" in line
    findings = json.loads(check(data, "--json").stdout)["findings"]
    assert sum("the same voxels" in finding["found"] for finding in findings) == 10


def test_the_store_that_is_advised_is_one_that_run_would_write(
    cohort: Cohort, check: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cohort(3)
    monkeypatch.chdir(data)
    assert f"--store {tmp_path / 'brats.zarr'}" in check(".").stdout
    assert "--store s3://bucket/b.zarr" in check(".", "--set", "store=s3://bucket/b.zarr").stdout
