"""Scores as rows, summaries and a table."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.errors import InputError
from common.metrics.scores import score_case
from common.task import GLIOMA
from train.results import (
    MISSING,
    CaseResult,
    fingerprint,
    read_csv,
    rows_of,
    summarise,
    write_csv,
)
from train.score_table import score_table

MM = (1.0, 1.0, 1.0)


def labels(*values: int) -> np.ndarray:
    """A block of 100 voxels of each value, apart from each other."""
    label = np.zeros((8, 8, 40), np.uint8)
    for index, value in enumerate(values):
        label[1:6, 1:6, 10 * index + 1 : 10 * index + 5] = value
    return label


def result(index: int, reference: np.ndarray, prediction: np.ndarray, **changes) -> CaseResult:
    scores = score_case(reference, prediction, MM)
    name = f"case{index}"
    return CaseResult(
        name, name, scores, MM, fingerprint(reference), "brats2023", "brats2023", **changes
    )


# WT is found in all; TC missed twice; ET is in no reference, and predicted in one case.
CASES = [
    result(0, labels(2, 1), labels(2, 0)),
    result(1, labels(2, 1), labels(2, 0, 3)),
    result(2, labels(2), labels(2), is_missing=True),
]


def test_misses_and_false_alarms_are_counted_beside_the_means() -> None:
    regions = {each.region: each for each in summarise(rows_of(CASES))}
    counts = {name: (r.both_empty, r.misses, r.false_alarms) for name, r in regions.items()}
    assert counts == {"wt": (0, 0, 0), "tc": (1, 2, 0), "et": (2, 0, 1)}
    assert regions["tc"].missed_lesions == 2
    assert regions["et"].false_lesions == 1
    tc, et = regions["tc"].spreads, regions["et"].spreads
    assert tc["dice"].mean == pytest.approx(1 / 3)
    assert et["dice"].mean == pytest.approx(2 / 3)
    assert et["hd95_mm"].mean == pytest.approx(374 / 3)
    assert (et["hd95_mm"].low, et["hd95_mm"].high) == (0, 374)


def test_the_table_has_them(tmp_path: Path) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    rows = rows_of(CASES)
    console.print(score_table("3 cases", summarise(rows), "brats2023-gli", GLIOMA))
    lines = console.export_text().splitlines()
    dice = [line.split() for line in lines if line.strip().startswith("Dice ")]
    assert [(line[1], *line[-2:]) for line in dice] == [
        (f"{np.mean([r['dice'] for r in rows if r['region'] == 'wt']):.3f}", "0", "0"),
        ("0.333", "2", "0"),
        ("0.667", "0", "1"),
    ]
    assert any("1 of tc" in line and "2 of et" in line for line in lines)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = rows_of(CASES)
    write_csv(tmp_path / "scores.csv", rows)
    assert read_csv(tmp_path / "scores.csv") == rows
    assert [row["prediction"] for row in rows[-3:]] == [MISSING] * 3


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "case_id,rules\na,brats1999\n", "\0", "case_id,rules\na,brats2026\n"]
)
def test_a_csv_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"a\.csv"):
        read_csv(tmp_path / "a.csv")


def test_references_differ_by_shape_and_voxels() -> None:
    label = labels(1, 2)
    assert fingerprint(label) == fingerprint(label.copy())
    assert fingerprint(label) != fingerprint(label[:, ::-1].copy())
    assert fingerprint(label) != fingerprint(label.reshape(8, 40, 8))
