"""Who is in which split."""

import re
from collections.abc import Mapping

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import ConfigError
from common.manifest import load_manifest
from common.splits import (
    SPLITS,
    FoldSplits,
    FractionSplits,
    ListSplits,
    assign,
    require,
    shared,
    uniform,
)

rules = st.builds(FractionSplits, seed=st.integers(0, 99)) | st.builds(
    FoldSplits, kind=st.just("folds"), fold=st.integers(0, 4), test=st.sampled_from([0.0, 0.2])
)
cohorts = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=6), st.sampled_from([f"p{n}" for n in range(9)])
)
"""Case id to patient: some patients with several cases."""


def where(placed: Mapping[str, list[str]]) -> dict[str, str]:
    return {case: name for name, cases in placed.items() for case in cases}


@given(rules, cohorts)
def test_each_case_is_in_one_split_and_patients_stay_together(
    rule: FractionSplits | FoldSplits, patients: dict[str, str]
) -> None:
    placed = assign(rule, patients)
    assert list(placed) == list(SPLITS)
    assert sorted(case for cases in placed.values() for case in cases) == sorted(patients)
    homes = where(placed)
    for patient in patients.values():
        assert len({homes[case] for case in patients if patients[case] == patient}) == 1


@given(rules, cohorts, cohorts)
def test_adding_cases_moves_nobody(
    rule: FractionSplits | FoldSplits, patients: dict[str, str], more: dict[str, str]
) -> None:
    before = where(assign(rule, patients))
    after = where(assign(rule, more | patients))
    assert {case: after[case] for case in before} == before


def test_shares_are_about_what_was_asked_for() -> None:
    patients = {f"case{n}": f"patient{n}" for n in range(4000)}
    placed = assign(FractionSplits(train=0.7, val=0.1, test=0.2), patients)
    assert [round(len(placed[name]) / 4000, 1) for name in SPLITS] == [0.7, 0.1, 0.2]
    other = assign(FractionSplits(train=0.7, val=0.1, test=0.2, seed=1), patients)
    assert where(other) != where(placed)


def test_a_place_never_changes_with_a_release() -> None:
    # Stored models were trained on these splits: the values may not move.
    assert uniform(0, "BraTS-GLI-00000") == pytest.approx(0.6690214384950025, abs=0)
    assert FractionSplits().place("BraTS-GLI-00000") == "train"


def test_every_patient_is_in_val_in_exactly_one_fold() -> None:
    patients = {f"case{n}": f"patient{n}" for n in range(200)}
    folds = [
        assign(FoldSplits(kind="folds", folds=5, fold=k, test=0.2), patients) for k in range(5)
    ]
    assert len({tuple(placed["test"]) for placed in folds}) == 1
    held = [case for placed in folds for case in placed["val"]]
    assert sorted(held + folds[0]["test"]) == sorted(patients)


def test_lists_take_the_cases_that_there_are() -> None:
    rule = ListSplits(kind="lists", train=("b", "a", "gone"), val=("c",))
    patients = {case: case for case in "abcd"}
    assert assign(rule, patients) == {"train": ["a", "b"], "val": ["c"], "test": []}


def test_lists_that_divide_a_patient_are_refused() -> None:
    rule = ListSplits(kind="lists", train=("a",), val=("b",))
    with pytest.raises(ConfigError, match="patient p is in train and in val"):
        assign(rule, {"a": "p", "b": "p"})


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "fractions", "train": 0.8, "val": 0.1, "test": 0.2},
        {"kind": "fractions", "train": 1.2, "val": -0.2, "test": 0.0},
        {"kind": "folds", "folds": 5, "fold": 5},
        {"kind": "lists", "train": ["a"], "val": ["a"]},
    ],
)
def test_rules_without_sense_are_refused(settings: dict[str, object]) -> None:
    kinds = {"fractions": FractionSplits, "folds": FoldSplits, "lists": ListSplits}
    with pytest.raises(ValidationError):
        kinds[str(settings["kind"])].model_validate(settings)


@given(st.integers(3, 40), st.integers(1, 3))
def test_an_empty_split_is_refused_with_lists_that_then_work(patients: int, visits: int) -> None:
    cohort = {f"p{n:02d}-{v}": f"p{n:02d}" for n in range(patients) for v in range(visits)}
    rule = FractionSplits(train=1.0, val=0.0, test=0.0)
    with pytest.raises(ConfigError) as caught:
        require("test", assign(rule, cohort), cohort)
    text = str(caught.value)
    assert f"split 'test' is empty: {len(cohort)} labelled case(s)" in text
    pasted = yaml.safe_load(text[text.index("splits:") :])["splits"]
    placed = assign(ListSplits.model_validate(pasted), cohort)
    assert sorted(where(placed)) == sorted(cohort)
    for name in SPLITS:
        assert require(name, placed, cohort)


def test_the_lists_can_be_given_to_set() -> None:
    cohort = {f"p{n}": f"p{n}" for n in range(4)}
    with pytest.raises(ConfigError) as caught:
        require("val", assign(FractionSplits(train=1, val=0, test=0), cohort), cohort)
    pasted = yaml.safe_load(str(caught.value).partition("manifest:\n")[2])
    manifest = load_manifest(None, [f"splits={pasted['splits']}"])
    assert isinstance(manifest.splits, ListSplits)


def test_fewer_than_three_patients_cannot_be_divided() -> None:
    cohort = {"a-0": "a", "a-1": "a", "b": "b"}
    with pytest.raises(ConfigError, match=r"There are 2 labelled patient\(s\)"):
        require("val", assign(ListSplits(kind="lists", train=("a-0", "a-1")), cohort), cohort)


def test_no_such_split() -> None:
    with pytest.raises(ConfigError, match="no split is called 'dev'; there are train, val, test"):
        require("dev", {}, {})


def test_images_in_two_splits_are_found() -> None:
    placed = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    images = {"a": ["1", "2"], "b": ["1", "3"], "c": ["2", "4"], "d": ["5"]}
    assert shared(placed, images) == [("a (train)", "c (val)")]
    assert shared(placed, images | {"c": ["4"]}) == []


def test_what_is_asked_for() -> None:
    assert FractionSplits(train=0.9, val=0.1, test=0).requested == ("train", "val")
    assert FoldSplits(kind="folds").requested == ("train", "val")
    assert FoldSplits(kind="folds", test=0.1).requested == SPLITS
    assert ListSplits(kind="lists", train=("a",)).requested == ("train",)
    assert re.fullmatch(r"[0-9.]+", str(uniform(3, "x")))
