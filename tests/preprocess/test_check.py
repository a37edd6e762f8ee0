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
from preprocess.check import check as check_folder

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


def test_files_that_make_no_case_are_listed(cohort: Cohort, check: Command) -> None:
    data = cohort(3)
    (data / "survival.csv").write_text("id,days\n")
    (data / "scan.mha").write_bytes(b"ObjectType = Image\n")
    stray = data / "BraTS2021_00000" / "BraTS2021_00000_pd.nii.gz"
    source = data / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz"
    stray.write_bytes(source.read_bytes()[:1500])
    answer = json.loads(check(data, "--json").stdout)
    severity = {finding["file"]: finding["severity"] for finding in answer["findings"]}
    assert severity == {
        "scan.mha": "error",
        "BraTS2021_00000/BraTS2021_00000_pd.nii.gz": "error",
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
