"""Masks in folders against references: any tool's, by case id, whatever is wrong with some."""

import csv
import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from cli import invoke

from common import nifti
from common.errors import ConfigError, InputError
from common.geometry import Geometry
from common.metrics.scores import score_case
from common.task import GLIOMA
from train.cli import app
from train.predictions import PredictedCase, PredictionsFile
from train.score import Outcome, plan, score_pair

SHAPE = (16, 18, 20)
GRID = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, -17.0, 0.0))
THICK = Geometry(SHAPE, (3.0, 1.0, 1.0), (0.0, -17.0, 0.0))


def tumour(shift: int = 0) -> np.ndarray:
    """Canonical labels: enhancing around necrosis, in oedema."""
    z, y, x = np.indices(SHAPE)
    distance = (z - 8) ** 2 + (y - 9) ** 2 + (x - 9 - shift) ** 2
    return np.select([distance < 10, distance < 17, distance < 45], [1, 3, 2], 0).astype(np.uint8)


def write(path: Path, label: np.ndarray, convention: str = "brats2023", grid=GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, GLIOMA.from_canonical(label, convention), grid)
    return path


def folders(root: Path, count: int = 3, convention: str = "brats2023") -> tuple[Path, Path]:
    """References as `aN-seg`, predictions as nnU-Net names them, a voxel off."""
    for index in range(count):
        write(root / "ref" / f"a{index}-seg.nii.gz", tumour())
        write(root / "pred" / f"a{index}.nii.gz", tumour(1 + index), convention)
    return root / "ref", root / "pred"


def outcomes(reference: Path, prediction: Path, rules: str = "brats2023") -> list[Outcome]:
    found = plan(reference, prediction, rules)
    return [score_pair(found.shared, pair) for pair in found.pairs]


def dice(outcome: Outcome) -> dict[str, float]:
    assert outcome.result is not None, outcome.findings
    return {r: score.values["dice"] for r, score in outcome.result.scores.regions.items()}


def run(*arguments: object, columns: int = 200, workers: int = 1) -> CompletedProcess[str]:
    return invoke(app, "score", *arguments, "--workers", workers, columns=columns)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_scores_are_those_of_the_metrics_on_the_files_labels(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path, convention="brats2021")
    for index, outcome in enumerate(outcomes(reference, prediction)):
        expected = score_case(tumour(), tumour(1 + index), GRID.spacing_mm, GLIOMA)
        assert outcome.result is not None
        assert outcome.result.scores == expected
        assert outcome.result.reference_convention == "brats2023"
        assert outcome.result.prediction_convention == "brats2021"


def test_distances_are_in_mm(tmp_path: Path) -> None:
    voxel = np.zeros(SHAPE, np.uint8)
    voxel[4:6, 9, 9] = 3
    write(tmp_path / "ref" / "a.nii.gz", voxel, grid=THICK)
    write(tmp_path / "pred" / "a.nii.gz", np.roll(voxel, 2, axis=0), grid=THICK)
    (outcome,) = outcomes(tmp_path / "ref", tmp_path / "pred")
    assert outcome.result is not None
    assert outcome.result.scores.regions["wt"].values["hd95_mm"] == 6


def test_nnunets_label_order_is_taken_from_its_dataset_json(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path, convention="msd")
    labels = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    (prediction / "dataset.json").write_text(json.dumps({"labels": labels}))
    (first, *_) = outcomes(reference, prediction)
    assert first.findings == ()
    expected = score_case(tumour(), tumour(1), GRID.spacing_mm, GLIOMA)
    assert dice(first) == {r: s.values["dice"] for r, s in expected.regions.items()}


def test_labels_in_another_order_than_the_references_are_a_warning(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path, convention="msd")
    for outcome in outcomes(reference, prediction):
        (finding,) = (each for each in outcome.findings if "msd" in each.found)
        assert finding.file == str(prediction / f"{outcome.case_id}.nii.gz")
        assert "label_convention: msd" in finding.action
        assert str(prediction / "data_manifest.yaml") in finding.action
    (prediction / "data_manifest.yaml").write_text("label_convention: msd\n")  # as it says
    mended = outcomes(reference, prediction)
    assert all(outcome.findings == () for outcome in mended)
    assert dice(mended[0])["tc"] > 0.7


def test_masks_without_tumour_have_no_convention(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path)
    for folder in (reference, prediction):
        write(folder / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    done = run(reference, prediction, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "brats2021" not in done.stdout
    told = read_summary(tmp_path / "out")["conventions"]["references"]
    assert sorted(told.values()) == [1, 3]


def test_a_doubt_that_masks_of_several_cases_share_is_one_line(tmp_path: Path) -> None:
    """As of two folders in the order of the Decathlon, whose tumours are too small to be judged."""
    label = np.zeros(SHAPE, np.uint8)
    label[4:7, 5, 5:8] = [1, 2, 3]
    for index in range(6):
        write(tmp_path / "ref" / f"c{index}.nii.gz", label)
        write(tmp_path / "pred" / f"c{index}.nii.gz", label)
    done = run(tmp_path / "ref", tmp_path / "pred", "--out", tmp_path / "out")
    (line,) = [line for line in done.stderr.splitlines() if "msd" in line]
    assert "12 files of 6 cases: c0, c1, c2, c3, c4, c5" in line
    warnings = read_summary(tmp_path / "out")["warnings"]
    assert len([text for text in warnings if "msd" in text]) == 12


def test_masks_of_predict_have_the_convention_that_it_noted(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path, count=2, convention="msd")
    of_file = {"convention": "msd", "convention_from": "layout", "warnings": ()}
    noted = {
        f"a{index}": PredictedCase(input="", settings="", files={f"a{index}.nii.gz": ""}, **of_file)
        for index in range(2)
    }
    PredictionsFile(cases=noted).write(prediction)
    for outcome in outcomes(reference, prediction):
        assert outcome.findings == ()
        assert outcome.result is not None
        assert outcome.result.prediction_convention == "msd"


def test_a_mask_with_other_axes_in_the_same_place_is_turned(tmp_path: Path) -> None:
    write(tmp_path / "ref" / "a.nii.gz", tumour(2))
    turned = Geometry(SHAPE, (1.0, 1.0, 1.0), (19.0, 0.0, 0.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    write(tmp_path / "pred" / "a.nii.gz", tumour(2)[:, ::-1, ::-1], grid=turned)
    (outcome,) = outcomes(tmp_path / "ref", tmp_path / "pred")
    assert dice(outcome) == {"wt": 1, "tc": 1, "et": 1}


OTHER_GRIDS = {
    "shape": (tumour()[:-1], Geometry((15, 18, 20), (1.0, 1.0, 1.0), (0.0, -17.0, 0.0))),
    "spacing": (tumour(), THICK),
    "origin": (tumour(), Geometry(SHAPE, (1.0, 1.0, 1.0), (5.0, -17.0, 0.0))),
}


@pytest.mark.parametrize("what", OTHER_GRIDS)
def test_a_mask_on_another_grid_fails_alone(what: str, tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path)
    label, grid = OTHER_GRIDS[what]
    path = write(prediction / "a1.nii.gz", label, grid=grid)
    done = run(reference, prediction, "--out", tmp_path / "out", workers=1 + (what == "shape"))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("✗")]
    assert line.startswith(f"✗ a1: {path}: a grid of")
    assert {row["case_id"] for row in rows(tmp_path / "out" / "scores.csv")} == {"a0", "a2"}
    assert list(json.loads((tmp_path / "out" / "scores.json").read_text())["failed"]) == ["a1"]


def test_a_damaged_mask_fails_alone(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path)
    (prediction / "a0.nii.gz").write_bytes(b"no NIfTI")
    (reference / "a1-seg.nii.gz").write_bytes(b"")
    failed = {o.case_id for o in outcomes(reference, prediction) if o.result is None}
    assert failed == {"a0", "a1"}


def test_a_missing_prediction_counts_as_an_empty_mask(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path)
    (prediction / "a1.nii.gz").unlink()
    write(prediction / "b.nii.gz", tumour())
    done = run(reference, prediction, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert [line.count("a1") for line in done.stderr.splitlines() if "no prediction" in line] == [1]
    assert any("no reference" in line and "b" in line for line in done.stderr.splitlines())
    missing = [row for row in rows(tmp_path / "out" / "scores.csv") if row["case_id"] == "a1"]
    assert {(row["prediction"], row["dice"], row["hd95_mm"]) for row in missing} == {
        ("missing", "0.0", "374.0")
    }
    summary = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (summary["missing"], summary["extra"]) == (["a1"], ["b"])
    assert summary["regions"]["wt"]["misses"] == 1


def read_summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return summary


def test_files_have_every_case_region_metric_and_lesion(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path)
    done = run(reference, prediction, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(tmp_path / "out" / "scores.csv")
    assert [(r["case_id"], r["region"]) for r in found] == [
        (f"a{index}", region) for index in range(3) for region in ("wt", "tc", "et")
    ]
    expected = score_case(tumour(), tumour(1), GRID.spacing_mm, GLIOMA).regions["wt"]
    assert expected.lesions is not None
    for name, value in expected.values.items():
        assert float(found[0][name]) == value
    for name, value in expected.lesions.values.items():
        assert float(found[0][f"lesion_{name}"]) == value
    assert float(found[0]["lesion_f1"]) == expected.lesions.f1
    lesions = rows(tmp_path / "out" / "lesions.csv")
    assert {(r["case_id"], r["region"], r["lesion"], r["status"]) for r in lesions} >= {
        ("a0", "wt", "1", "tp")
    }
    summary = read_summary(tmp_path / "out")
    mean = np.mean([float(row["dice"]) for row in found if row["region"] == "wt"])
    spread = summary["regions"]["wt"]["spreads"]["dice"]
    assert spread["mean"] == pytest.approx(mean)
    assert spread["low"] <= spread["mean"] <= spread["high"]
    assert summary["rules"] == "brats2023-gli"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(columns: int, tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path)
    done = run(reference, prediction, "--out", tmp_path / "out", columns=columns)
    table, _, after = done.stdout[done.stdout.index("Scores of") :].partition("\nscores:")
    assert f"compare {tmp_path / 'out'}" in after
    lines = table.splitlines()
    assert max(map(len, lines)) <= columns
    (row,) = [line for line in lines if line.strip().startswith("Dice")][:1]
    mean = read_summary(tmp_path / "out")["regions"]["wt"]["spreads"]["dice"]["mean"]
    assert row.split()[1] == f"{mean:.3f}"
    assert row.split()[-2:] == ["0", "0"]


def test_scores_of_other_settings_are_never_replaced(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path, count=1)
    out = tmp_path / "out"
    assert run(reference, prediction, "--out", out).returncode == 0
    before = (out / "scores.csv").read_bytes()
    refused = run(reference, prediction, "--out", out, "--rules", "brats2026")
    assert refused.returncode == 2
    assert "rules" in refused.stderr
    assert (out / "scores.csv").read_bytes() == before
    assert run(reference, prediction, "--out", out).returncode == 0  # the same again


def test_two_files_are_compared_whatever_their_names(tmp_path: Path) -> None:
    one = write(tmp_path / "one.nii.gz", tumour())
    other = write(tmp_path / "other.nii.gz", tumour(1))
    (outcome,) = outcomes(one, other)
    assert (
        dice(outcome)["wt"]
        == score_case(tumour(), tumour(1), (1, 1, 1)).regions["wt"].values["dice"]
    )


def test_what_cannot_be_matched_is_one_line(tmp_path: Path) -> None:
    reference, _ = folders(tmp_path, count=1)
    write(tmp_path / "others" / "b.nii.gz", tumour())
    with pytest.raises(InputError, match="such as b") as error:
        plan(reference, tmp_path / "others", "brats2023")
    assert "a0" in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no mask"):
        plan(reference, tmp_path / "empty", "brats2023")
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(InputError, match=r"link: .*symbolic links"):
        plan(link, reference, "brats2023")


def test_rules_and_tasks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path, count=1)
    with pytest.raises(ConfigError, match="brats1999"):
        plan(reference, prediction, "brats1999")
    (prediction / "data_manifest.yaml").write_text("task: pediatric\n")
    with pytest.raises(ConfigError, match="pediatric"):
        plan(reference, prediction, "brats2023")


def test_scores_never_lie_among_the_masks(tmp_path: Path) -> None:
    reference, prediction = folders(tmp_path, count=1)
    for folder in (reference, prediction):
        assert run(reference, prediction, "--out", folder / "scores").returncode == 2


def test_the_task_decides_regions_and_rules(tmp_path: Path) -> None:
    for folder in ("ref", "pred"):
        path = tmp_path / folder / "BraTS-MEN-RT-0001-1_gtv.nii.gz"
        write(path, (tumour() > 0).astype(np.uint8))
    done = run(
        tmp_path / "ref", tmp_path / "pred", "--task", "meningioma-rt", "--out", tmp_path / "o"
    )
    assert done.returncode == 0
    (row,) = rows(tmp_path / "o" / "scores.csv")
    assert (row["region"], row["rules"], row["dice"]) == ("gtv", "brats2023-men-rt", "1.0")
