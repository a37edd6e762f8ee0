"""`make demo`, as a newcomer runs it, and what make says where something is missing."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from common import nifti

ROOT = Path(__file__).parents[1]
BARS = {"wt": 0.85, "tc": 0.80, "et": 0.75}


def make(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    # The tests may run under make themselves; a newcomer's make does not know of that one.
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"}
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=environment | {"COLUMNS": "120"},
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_reaches_its_scores_on_cases_it_never_saw(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = make("demo", f"DEMO={folder}", timeout=1400)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads((folder / "run" / "run.json").read_text())
    scores = json.loads((folder / "run" / "evaluation-test.json").read_text())
    tested = {case["case_id"] for case in scores["cases"]}
    assert len(tested) >= 4
    assert tested.isdisjoint(run["cases"]["train"] + run["cases"]["val"])
    assert not scores["warnings"]
    for region, bar in BARS.items():
        assert scores["mean"]["dice"][region] >= bar, scores["mean"]
    (mask,) = (folder / "predictions").glob("*.nii.gz")
    case_id = mask.name.removesuffix(".nii.gz")
    predicted = nifti.read(mask)
    reference = nifti.read(folder / "phantoms" / case_id / f"{case_id}-seg.nii.gz")
    assert predicted.geometry.matches(reference.geometry)
    found, true = predicted.voxels > 0, reference.voxels > 0
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.8
    (picture,) = re.findall(r"^picture: (.*)$", done.stdout, re.MULTILINE)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_make_explains_what_is_missing(tmp_path: Path) -> None:
    assert "make preprocess DATA=/path/to/brats" in make("preprocess").stderr
    assert "make predict INPUT=/path/to/case" in make("predict").stderr
    (tmp_path / "empty").mkdir()
    empty = make("preprocess", f"DATA={tmp_path / 'empty'}", f"STORE={tmp_path / 's.zarr'}")
    assert empty.returncode != 0
    assert "no usable case" in empty.stderr
    nothing = make("train", f"STORE={tmp_path / 'none.zarr'}", f"RUN={tmp_path / 'run'}")
    assert nothing.returncode != 0
    assert f"make preprocess DATA=/path/to/brats STORE={tmp_path / 'none.zarr'}" in nothing.stderr


def test_make_refuses_a_variable_that_its_target_does_not_take() -> None:
    refused = make("-n", "train", "EPOCHS=3")
    assert refused.returncode != 0
    assert "PRESET" in refused.stderr
    assert "SET='epochs=3'" in refused.stderr
    assert make("-n", "status", "RUN=x").returncode != 0
    assert make("-n", "status", "STORE=x").returncode == 0


def test_make_passes_several_settings() -> None:
    done = make("-n", "train", "SET=crop=[64, 64, 64] splits={train: 1, val: 0} epochs=3")
    words = shlex.split(done.stdout)
    settings = [words[index + 1].strip() for index, word in enumerate(words) if word == "--set"]
    assert settings == ["crop=[64, 64, 64]", "splits={train: 1, val: 0}", "epochs=3"]


def test_help_lists_every_target_and_variable() -> None:
    makefile = (ROOT / "Makefile").read_text()
    shown = make("help").stdout
    targets = set(re.findall(r"^([a-z][a-z-]*):.*##", makefile, re.MULTILINE))
    taken = set(" ".join(re.findall(r"^takes-.*:=(.*)", makefile, re.MULTILINE)).split())
    assert targets == set(re.findall(r"^  ([a-z][a-z-]*) ", shown, re.MULTILINE))
    assert taken <= set(re.findall(r"^  ([A-Z_]+)=", shown, re.MULTILINE))
    assert max(map(len, shown.splitlines())) <= 80
