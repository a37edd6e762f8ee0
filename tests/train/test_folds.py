"""Cross-validation: each case scored once, by the run that was not trained on it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cli import invoke
from runs import TINY, assert_equal_runs, begun, command, validated

from common.errors import ConfigError
from common.splits import FractionSplits
from common.store import Store
from train.cli import app
from train.folds import check_folds
from train.results import read_csv
from train.run import begin, execute
from train.trainer import End

ROOT = Path(__file__).parents[2]
SHAREABLE = FractionSplits(train=0.8, val=0.2, test=0)


@pytest.fixture(scope="session")
def whole(make_store: Callable[..., Store]) -> Store:
    """Six cases, of which none is kept for testing."""
    return make_store(splits=SHAREABLE)


def run_of(store: Store, run_dir: Path, fold: int, *overrides: str) -> Path:
    chosen = ("folds=3", f"fold={fold}", f"seed={fold}", *overrides)
    return validated(store, run_dir, *chosen).run_dir


def test_every_case_is_scored_once_by_the_run_that_did_not_see_it(
    whole: Store, tmp_path: Path
) -> None:
    runs = [run_of(whole, tmp_path / f"fold-{fold}", fold) for fold in range(3)]
    done = invoke(app, "folds", *runs, columns=80)
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    rows = read_csv(tmp_path / "folds" / "scores.csv")
    assert sorted({row["case_id"] for row in rows}) == sorted(whole.contents().patients)
    for path in runs:
        own = read_csv(path / "evaluation-val.csv")
        validated = json.loads((path / "run.json").read_text())["cases"]["val"]
        assert {row["case_id"] for row in own} == set(validated)
        assert [row for row in rows if row["case_id"] in validated] == own
    assert ",".join(map(str, runs)) in done.stdout  # the ensemble, for predict
    summary = json.loads((tmp_path / "folds" / "scores.json").read_text())
    assert [each["cases"] for each in summary["folds"]] == [2, 2, 2]
    for path, warning in zip(runs, summary["warnings"], strict=True):
        assert path.name in warning
        assert "chosen on 2 of 2" in warning
        assert warning.partition(": ")[2] in shown
    assert summary["regions"]["wt"]["cases"] == 6
    refused = invoke(app, "folds", *runs, "--checkpoint", "last")
    assert refused.returncode == 2  # other scores are there
    assert "checkpoint" in refused.stderr


def test_what_is_no_cross_validation_is_refused(
    whole: Store, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    first, second, third = (run_of(whole, tmp_path / str(fold), fold) for fold in range(3))
    check_folds([third, first, second])
    twice = run_of(whole, tmp_path / "twice", 1)
    larger = run_of(whole, tmp_path / "larger", 2, "model.widths=[4,16]")
    elsewhere = run_of(make_store(splits=SHAREABLE, margin=4), tmp_path / "elsewhere", 2)
    for runs, said in {
        (first,): "at least two",
        (first, first, second): "once",
        (first, second): "in the fold of no run",
        (first, second, twice): "both validate",
        (first, second, larger): "differ in model",
        (first, second, elsewhere): "different stores",
    }.items():
        with pytest.raises(ConfigError, match=said):
            check_folds(runs)


def test_the_number_of_folds_needs_a_fold(whole: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fold=0 to 2"):
        begin("unet", (*TINY, "folds=3"), whole, tmp_path / "run")
    with pytest.raises(ConfigError, match="out of range"):
        begin("unet", (*TINY, "folds=3", "fold=3"), whole, tmp_path / "run")


@pytest.mark.slow
def test_runs_at_the_same_time_on_one_store_are_as_alone(whole: Store, tmp_path: Path) -> None:
    chosen = [("folds=2", f"fold={fold}", "epochs=1") for fold in range(2)]
    for fold, overrides in enumerate(chosen):
        assert execute(begun(whole, tmp_path / f"alone-{fold}", *overrides)) is End.EPOCHS
    together = [
        subprocess.Popen(
            command(
                "run",
                tmp_path / f"alone-{fold}" / "config.yaml",
                *("--store", whole.path, "--out", tmp_path / f"together-{fold}"),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # as here: sums have one order
        )
        for fold in range(2)
    ]
    for process in together:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()
    for fold in range(2):
        assert_equal_runs(tmp_path / f"alone-{fold}", tmp_path / f"together-{fold}")


@pytest.mark.slow
def test_make_trains_and_scores_all_folds(whole: Store, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs"
    chosen = " ".join([*TINY, "epochs=1", "loader=torch"])
    wanted = [f"RUN={run_dir}", f"STORE={whole.path}", "PRESET=unet", f"SET={chosen}", "FOLDS=2"]

    def make(*more: str) -> str:
        done = subprocess.run(
            ["make", "train", *wanted, *more], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert f"RUN={run_dir}/fold-0,{run_dir}/fold-1" in make()
    rows = read_csv(run_dir / "folds" / "scores.csv")
    assert len({row["case_id"] for row in rows}) == 6
    make("RESUME=1")  # nothing is left to train, and the same scores come again
    assert read_csv(run_dir / "folds" / "scores.csv") == rows
