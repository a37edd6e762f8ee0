"""Our scores beside those of other implementations, on the same seeded cases.

`python -m benchmarks reference-scores` made the file of values; what differs, and why, says
`docs/decisions/0016-scores-of-others.md`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.mask_cases import mask_cases
from benchmarks.reference_scores import checksum
from common.metrics import (
    CaseScores,
    LesionScores,
    MaskPair,
    RegionScore,
    score_case,
)
from common.task import MENINGIOMA_RT, PEDIATRIC, POST_TREATMENT, Task

OTHERS = json.loads(Path(__file__).with_name("reference_scores.json").read_text())
CASES = {case.name: case for case in mask_cases()}
CLOSE = 2e-6
"""MONAI computes in single precision."""


def others(name: str, way: str) -> dict[str, Any]:
    """By region."""
    found: dict[str, Any] = OTHERS["values"][name][way]
    return found


@cache
def ours(name: str, rules: str) -> CaseScores:
    case = CASES[name]
    return score_case(case.reference, case.prediction, case.spacing_mm, POST_TREATMENT, rules=rules)


def both_there(name: str, way: str) -> list[tuple[RegionScore, Any]]:
    """Scores of ours and theirs of the regions of which neither mask is empty."""
    regions = ours(name, "brats2023").regions
    pairs = [(regions[region], values) for region, values in others(name, way).items()]
    return [pair for pair in pairs if pair[0].reference and pair[0].prediction]


def lesions(found: RegionScore) -> LesionScores:
    assert found.lesions is not None
    return found.lesions


def counts(found: LesionScores) -> list[int]:
    return [found.count(status) for status in ("tp", "fp", "fn")]


def test_the_cases_are_those_that_the_others_scored() -> None:
    assert {case.name: checksum(case) for case in CASES.values()} == OTHERS["checksums"]
    masks = [found for name in CASES for found in ours(name, "brats2023").regions.values()]
    assert len(masks) == 360
    assert sum(not each.reference and not each.prediction for each in masks) >= 10
    assert sum(bool(each.reference) != bool(each.prediction) for each in masks) >= 50


@pytest.mark.parametrize("name", CASES)
def test_whole_regions(name: str) -> None:
    for found, values in both_there(name, "surface_distance"):
        assert found.values["hd95_mm"] == pytest.approx(values["hd95"], rel=CLOSE)
        assert nsd_of(found) == pytest.approx(values["nsd"], abs=CLOSE)
    for found, values in both_there(name, "monai"):
        assert found.values["dice"] == pytest.approx(values["dice"], abs=CLOSE)
        assert nsd_of(found) == pytest.approx(values["nsd"], abs=CLOSE)
    for found, values in both_there(name, "simpleitk"):
        assert found.values["dice"] == pytest.approx(values["dice"], abs=CLOSE)
        assert found.values["sensitivity"] == pytest.approx(1 - values["missed"], abs=CLOSE)


def nsd_of(found: RegionScore) -> list[float]:
    return [found.values[f"nsd_{mm}mm"] for mm in ("0.5", "1", "2")]


@pytest.mark.parametrize("name", CASES)
def test_distances_of_border_voxels(name: str) -> None:
    """MONAI takes the larger of both directions' percentiles."""
    case = CASES[name]
    for region, values in others(name, "monai").items():
        members = POST_TREATMENT.regions[region]
        masks = (np.isin(labels, members) for labels in (case.reference, case.prediction))
        pair = MaskPair(*masks, case.spacing_mm, case.reference.shape)
        if pair.reference_voxels and pair.prediction_voxels:
            directions = pair.borders.from_reference, pair.borders.from_prediction
            hd95 = max(float(np.percentile(each.mm, 95)) for each in directions)
            assert hd95 == pytest.approx(values["border_hd95"], rel=CLOSE)


@pytest.mark.parametrize("challenge", ["gli", "met"])
@pytest.mark.parametrize("name", CASES)
def test_the_published_code_of_2023(name: str, challenge: str) -> None:
    rules = f"brats2023-{challenge}"
    for region, row in others(name, rules).items():
        tp, fp, fn, sensitivity, specificity, dice, hd95, volume, lesion_dice, lesion_hd95 = row
        found = ours(name, rules).regions[region]
        whole = ("sensitivity", "specificity", "dice", "hd95_mm")
        assert [found.values[each] for each in whole] == pytest.approx(
            [sensitivity, specificity, dice, hd95], rel=CLOSE
        )
        assert found.reference_ml * 1000 == pytest.approx(volume)
        assert counts(lesions(found)) == [tp, fp, fn]
        means = lesions(found).values
        assert means["dice"] == pytest.approx(lesion_dice, rel=CLOSE)
        assert means["hd95_mm"] == pytest.approx(lesion_hd95, rel=CLOSE)


def of_2024() -> list[tuple[str, str]]:
    """Cases and rule sets: voxels of 1 mm³ alone, where thresholds count voxels in that code."""
    return [
        (name, rules)
        for name, ways in OTHERS["values"].items()
        for rules in ways
        if rules.startswith("brats2024")
        and (CASES[name].spacing_mm == (1, 1, 1) or rules.endswith(("men", "men-rt")))
    ]


@pytest.mark.parametrize(("name", "rules"), of_2024())
def test_the_published_code_of_2024(name: str, rules: str) -> None:
    case = CASES[name]
    tasks: dict[str, Task] = {"ped": PEDIATRIC, "men-rt": MENINGIOMA_RT}
    task = tasks.get(rules.removeprefix("brats2024-"), POST_TREATMENT)
    labels = [
        np.where(np.isin(each, list(task.labels.values())), each, 0)
        for each in (case.reference, case.prediction)
    ]
    scores = score_case(labels[0], labels[1], case.spacing_mm, task, rules=rules)
    for region, row in others(name, rules).items():
        found = lesions(scores.regions[region])
        assert counts(found) == row[:3]
        assert list(found.values.values()) == pytest.approx(row[10:], rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_panoptica_as_brats_evaluation_runs_it(name: str) -> None:
    """It takes the spacing of a NIfTI file in the other order than the axes: see the record."""
    case = CASES[name]
    z, y, x = case.spacing_mm
    scores = score_case(
        case.reference, case.prediction, (x, y, z), POST_TREATMENT, rules="brats2026"
    )
    for region, (tp, fp, fn, *values) in others(name, "brats2026").items():
        found = lesions(scores.regions[region])
        assert counts(found) == [tp, fp, fn]
        means = (
            found.values["dice"],
            found.values["border_hd95_mm"],
            found.values["border_nsd_voxel"],
        )
        if tp:
            assert means == pytest.approx(tuple(values), rel=CLOSE)
        else:  # theirs are NaN without lesions, and infinite
            assert means == ((0.0, 373.0, 0.0) if fp or fn else (1.0, 0.0, 1.0))


@pytest.mark.parametrize("name", CASES)
def test_as_many_lesions_as_scikit_image_counts(name: str) -> None:
    for region, values in others(name, "skimage").items():
        tp, fp, fn = counts(lesions(ours(name, "brats2026").regions[region]))
        assert [tp + fn, tp + fp] == values["components"]


def test_a_missed_region_has_the_penalty_of_the_rules() -> None:
    reference = np.zeros((3, 4, 12), np.uint8)
    reference[1, 1, 1:11] = 1
    nothing = np.zeros_like(reference)

    def hd95(task: Task, rules: str) -> list[float]:
        found = score_case(reference, nothing, (5.0, 5.0, 5.0), task, rules=rules)
        region = next(iter(found.regions.values()))
        name = next(each for each in lesions(region).values if each.endswith("hd95_mm"))
        return [region.values["hd95_mm"], lesions(region).values[name]]

    assert hd95(POST_TREATMENT, "brats2023") == [374, 374]
    assert hd95(POST_TREATMENT, "brats2024") == [337, 337]
    assert hd95(MENINGIOMA_RT, "brats2024") == [13, 13]
    assert hd95(POST_TREATMENT, "brats2026") == [373, 373]


def test_an_unknown_rule_set_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"brats2022.*brats2023.*brats2024-ssa"):
        score_case(
            np.zeros((2, 2, 2), np.uint8),
            np.zeros((2, 2, 2), np.uint8),
            (1.0, 1.0, 1.0),
            rules="brats2022",
        )
