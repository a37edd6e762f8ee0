"""Methods compared on the same cases: differences, tests, ranks, and what does not compare."""

import csv
import json
import os
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from cli import invoke
from scipy import stats

from common.errors import ConfigError, InputError
from common.metrics.scores import score_case
from common.statistics import holm
from train.cli import app
from train.compare import Compared, Comparison, compare, open_methods, p_value
from train.results import CaseResult, fingerprint, rows_of, write_csv

SHAPE = (8, 10, 24)
CASES = 6


def tumour(shift: int = 0) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:7, 2:8, 3 + shift : 15 + shift] = 2
    label[3:6, 3:7, 5 + shift : 12 + shift] = 1
    label[4:5, 4:6, 6 + shift : 10 + shift] = 3
    return label


def scores(folder: Path, shifts: list[int], *, spacing=(1.0, 1.0, 1.0), **changes: Any) -> Path:
    """What `score` writes of predictions that are so many voxels off."""
    reference = changes.pop("reference", tumour())
    results = []
    for index, shift in enumerate(shifts):
        found = score_case(reference, tumour(shift), spacing, **changes)
        mark, name = fingerprint(reference), f"case{index}"
        results.append(CaseResult(name, name, found, spacing, mark, "brats2023", "brats2023"))
    folder.mkdir(parents=True)
    write_csv(folder / "scores.csv", rows_of(results))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A method that is off, one that is worse in all cases, one that is better in all but one."""
    return [
        scores(tmp_path / "first", [2, 3, 4, 2, 3, 4]),
        scores(tmp_path / "worse", [3, 4, 5, 4, 5, 6]),
        scores(tmp_path / "better", [1, 1, 2, 1, 2, 5]),
    ]


def compared(*folders: Path) -> Comparison:
    return compare(open_methods(folders))


def row(comparison: Comparison, region: str, metric: str, method: str) -> Compared:
    (found,) = (
        each
        for each in comparison.rows
        if (each.region, each.metric.name, each.method) == (region, metric, method)
    )
    return found


def dice(folder: Path, region: str = "wt") -> np.ndarray:
    rows = csv.DictReader((folder / "scores.csv").read_text().splitlines())
    return np.array([float(each["dice"]) for each in rows if each["region"] == region])


def test_a_difference_is_of_the_same_case_in_pairs(folders: list[Path]) -> None:
    first, worse, better = (dice(folder) for folder in folders)
    found = compared(*folders)
    for name, values in {"worse": worse, "better": better}.items():
        apart = row(found, "wt", "dice", name).apart
        assert apart is not None
        assert apart.mean == pytest.approx((values - first).mean())
        rounded = np.round(values - first, 9)  # equal differences are ties
        assert apart.p == pytest.approx(stats.wilcoxon(rounded).pvalue)
        assert apart.low <= apart.mean <= apart.high
    assert row(found, "wt", "dice", "first").apart is None


def test_p_values_are_corrected_for_every_test_that_was_made(folders: list[Path]) -> None:
    found = compared(*folders)
    tested = [each for each in found.rows if each.apart]
    assert found.tests == len(tested) == 3 * 8 * 2  # regions, metrics on screen, methods
    assert [each.p_holm for each in tested] == holm([each.apart.p for each in tested if each.apart])


def test_ranks_are_of_each_case_and_whatever_is_better_is_first(folders: list[Path]) -> None:
    found = compared(*folders)
    for metric in ("dice", "hd95_mm"):  # higher is better, and lower is
        mean_ranks = [
            row(found, "wt", metric, name).mean_rank for name in ("better", "first", "worse")
        ]
        assert mean_ranks == [(5 * 1 + 2) / 6, (5 * 2 + 1) / 6, 3]
    assert [metric.name for metric in found.ranked_by] == ["lesion_dice", "lesion_hd95_mm"]
    assert found.rank["better"] < found.rank["first"] < found.rank["worse"]
    assert sum(found.rank.values()) == pytest.approx(6)


def test_methods_that_are_equal_share_their_ranks(tmp_path: Path) -> None:
    one, other = (scores(tmp_path / name, [1, 2]) for name in ("one", "other"))
    found = compared(one, other)
    assert found.rank == {"one": 1.5, "other": 1.5}
    assert {each.apart.p for each in found.rows if each.apart} == {1}


def test_cases_that_not_all_have_are_named_and_left_out(folders: list[Path]) -> None:
    fewer = scores(folders[0].parent / "fewer", [1, 1])
    found = compared(folders[0], fewer)
    assert found.cases == ("case0", "case1")
    assert found.left_out == {"first": ["case2", "case3", "case4", "case5"]}
    assert row(found, "wt", "dice", "first").mean == pytest.approx(dice(folders[0])[:2].mean())


OTHERS: dict[str, dict[str, Any]] = {
    "rules": {"rules": "brats2026"},
    "spacing": {"spacing": (2.0, 1.0, 1.0)},
    "reference": {"reference": tumour()[::-1].copy()},  # as many voxels, elsewhere
}


@pytest.mark.parametrize("what", OTHERS)
def test_scores_that_do_not_compare_are_refused(what: str, tmp_path: Path) -> None:
    one = scores(tmp_path / "one", [1, 2])
    other = scores(tmp_path / "other", [1, 2], **OTHERS[what])
    with pytest.raises(ConfigError, match=what) as error:
        compared(one, other)
    assert "case0" in str(error.value)


def test_scores_without_a_common_case_are_refused(tmp_path: Path) -> None:
    one, other = (scores(tmp_path / name, [1]) for name in ("one", "other"))
    text = (other / "scores.csv").read_text().replace("case0", "caseX")
    (other / "scores.csv").write_text(text)
    with pytest.raises(ConfigError, match="caseX"):
        compared(one, other)


def run(*arguments: object) -> CompletedProcess[str]:
    return invoke(app, "compare", *arguments, columns=80)


def test_the_command_writes_a_table_and_a_figure(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(*folders, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    table, _, _ = done.stdout.partition("written:")
    assert max(map(len, table.splitlines())) <= 80
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert len(rows) == 3 * 8 * 3
    found = compared(*folders)
    assert [float(each["mean"]) for each in rows] == [each.mean for each in found.rows]
    summary = json.loads((out / "compare.json").read_text())
    assert summary["rank"] == found.rank
    assert len(summary["cases"]) == CASES
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "compare.pdf").read_bytes().startswith(b"%PDF")
    again = run(folders[0], folders[2], "--out", out)
    assert again.returncode == 2
    assert json.loads((out / "compare.json").read_text()) == summary


def test_runs_and_files_name_scores_too(folders: list[Path], tmp_path: Path) -> None:
    runs = [tmp_path / "runs" / name for name in ("a", "b")]
    for folder, run_dir in zip(folders, runs, strict=False):
        run_dir.mkdir(parents=True)
        for split in ("test", "val"):
            text = (folder / "scores.csv").read_text()
            (run_dir / f"evaluation-{split}.csv").write_text(text)
        (run_dir / "evaluation-test-lesions.csv").write_text("case_id\n")
    by_run = compared(*runs)
    assert [method.name for method in by_run.methods] == ["a", "b"]
    by_file = compared(runs[0] / "evaluation-val.json", runs[1] / "evaluation-val.csv")
    expected = [each.mean for each in compared(*folders[:2]).rows]
    assert [each.mean for each in by_run.rows] == [each.mean for each in by_file.rows] == expected
    (runs[0] / "evaluation-test.csv").rename(runs[0] / "evaluation-test-last.csv")
    with pytest.raises(ConfigError, match=r"evaluation-test-last\.csv, evaluation-val\.csv"):
        open_methods(runs)


def test_methods_of_one_name_are_named_by_the_folders_that_differ(
    folders: list[Path], tmp_path: Path
) -> None:
    named = [tmp_path / "runs" / name / "seed-0" for name in ("a", "b")]
    for folder, to in zip(folders, named, strict=False):
        shutil.copytree(folder, to)
    assert [method.name for method in open_methods(named)] == ["a/seed-0", "b/seed-0"]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_methods_are_refused(count: int, folders: list[Path]) -> None:
    with pytest.raises(ConfigError, match="two"):
        open_methods(folders[:count])
    with pytest.raises(ConfigError, match="once"):
        open_methods([folders[0], folders[0]])


def test_a_folder_without_scores_is_refused(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        open_methods([folders[0], tmp_path / "empty"])


def test_what_is_in_the_place_of_scores_is_said(folders: list[Path], tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    pipe.mkdir()
    os.mkfifo(pipe / "scores.csv")
    link.symlink_to(link)
    for path, found in ((pipe, r"scores\.csv: a named pipe"), (link, "link: .*symbolic links")):
        with pytest.raises(InputError, match=found):
            open_methods([folders[0], path])


def test_a_small_p_value_is_a_bound_and_a_nan_stays_visible() -> None:
    assert [p_value(p) for p in (0.0321, 0.0004, float("nan"))] == ["0.032", "< 0.001", "nan"]
