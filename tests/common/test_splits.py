"""Which case is in which split."""

from collections.abc import Mapping

import pytest
import yaml
from hypothesis import assume, given
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
    resolve,
    uniform,
    with_fold,
)

fractions = st.builds(
    lambda train, val, seed: FractionSplits(
        train=train, val=val, test=max(0, 1 - train - val), seed=seed
    ),
    st.sampled_from([0.5, 0.8]),
    st.sampled_from([0.0, 0.1, 0.2]),
    st.integers(0, 99),
)
folds = st.builds(
    FoldSplits,
    kind=st.just("folds"),
    folds=st.integers(2, 5),
    fold=st.integers(0, 1),
    test=st.sampled_from([0.0, 0.2, 0.9]),
    seed=st.integers(0, 99),
)
cohorts = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=6), st.sampled_from([f"p{n}" for n in range(12)])
)
"""Case id to patient: some patients with several cases."""


def where(placed: Mapping[str, list[str]]) -> dict[str, str]:
    return {case: name for name, cases in placed.items() for case in cases}


@given(fractions | folds, cohorts)
def test_every_patient_is_in_exactly_one_split(
    rule: FractionSplits | FoldSplits, patients: dict[str, str]
) -> None:
    placed = assign(rule, patients)
    assert list(placed) == list(SPLITS)
    assert sorted(case for cases in placed.values() for case in cases) == sorted(patients)
    homes = where(placed)
    for patient in patients.values():
        assert len({homes[case] for case in patients if patients[case] == patient}) == 1


@given(fractions | folds, cohorts)
def test_no_requested_split_is_empty_unless_there_are_too_few_patients(
    rule: FractionSplits | FoldSplits, patients: dict[str, str]
) -> None:
    count = len(set(patients.values()))
    least = len(rule.requested)
    if isinstance(rule, FoldSplits):
        least = rule.folds + (rule.test > 0)
    if count < least:
        with pytest.raises(ConfigError, match=f"there are {count}"):
            resolve(rule, patients)
    else:
        found = resolve(rule, patients)
        assert all(found.cases[name] for name in rule.requested)
        assert found == resolve(rule, dict(reversed(patients.items())))


@pytest.mark.parametrize("count", [3, 4, 8, 20])
def test_small_cohorts_are_divided_and_what_was_filled_is_reported(count: int) -> None:
    filled = 0
    for seed in range(50):
        patients = {f"case{n}": f"p{n}" for n in range(count)}
        found = resolve(FractionSplits(seed=seed), patients)
        assert all(found.cases.values())
        by_hash = {case: FractionSplits(seed=seed).place(p) for case, p in patients.items()}
        moved = [case for case, name in where(found.cases).items() if name != by_hash[case]]
        assert len(moved) == len(found.messages)
        assert all(patients[case] in " ".join(found.messages) for case in moved)
        filled += bool(moved)
    assert filled


@given(fractions, cohorts, cohorts)
def test_adding_patients_moves_nobody_by_hash(
    rule: FractionSplits, patients: dict[str, str], more: dict[str, str]
) -> None:
    before, after = resolve_all(rule, patients), resolve_all(rule, more | patients)
    assume(before is not None and after is not None)
    assert before is not None
    assert after is not None
    filled = " ".join((*before.messages, *after.messages)).split()
    for case, name in where(before.cases).items():
        if patients[case] not in filled:
            assert where(after.cases)[case] == name


def resolve_all(rule: FractionSplits, patients: dict[str, str]):
    return resolve(rule, patients) if len(set(patients.values())) >= 3 else None


def fold_of_each(rule: FoldSplits, patients: dict[str, str]) -> dict[str, int]:
    return {
        case: k
        for k in range(rule.folds)
        for case in resolve(rule.model_copy(update={"fold": k}), patients).cases["val"]
    }


@given(folds, st.integers(8, 40))
def test_folds_are_balanced_and_hold_everybody_once(rule: FoldSplits, count: int) -> None:
    patients = {f"case{n}": f"p{n}" for n in range(count)}
    each = [resolve(rule.model_copy(update={"fold": k}), patients).cases for k in range(rule.folds)]
    sizes = [len(cases["val"]) for cases in each]
    assert max(sizes) - min(sizes) <= 1
    held = [case for cases in each for case in cases["val"]]
    assert sorted(held + each[0]["test"]) == sorted(patients)
    for cases in each:
        assert cases["test"] == each[0]["test"]


@given(st.integers(2, 5), st.integers(0, 99), st.integers(8, 40))
def test_one_patient_more_moves_others_to_the_neighbouring_fold_at_most(
    k: int, seed: int, count: int
) -> None:
    rule = FoldSplits(kind="folds", folds=k, seed=seed)
    patients = {f"case{n}": f"p{n}" for n in range(count)}
    before, after = (fold_of_each(rule, some) for some in (patients, patients | {"new": "new"}))
    assert all(abs(after[case] - fold) <= 1 for case, fold in before.items())


def test_folds_of_fractions_hold_out_the_same_test_patients() -> None:
    patients = {f"c{index}": f"p{index}" for index in range(60)}
    rule = FractionSplits(seed=4)
    test = resolve(rule, patients).cases["test"]
    for fold in range(5):
        assert resolve(with_fold(rule, fold), patients).cases["test"] == test


def test_a_fold_of_a_rule() -> None:
    assert with_fold(FractionSplits(seed=3), 2) == FoldSplits(
        kind="folds", folds=5, fold=2, test=0.1, seed=3
    )
    three = FoldSplits(kind="folds", folds=3, test=0.2)
    assert with_fold(three, 1) == three.model_copy(update={"fold": 1})
    with pytest.raises(ConfigError, match="fold: 3 is out of range; folds are 0 to 2"):
        with_fold(three, 3)
    four = with_fold(FractionSplits(seed=3), 3, 4)
    assert (four.folds, four.fold, four.test) == (4, 3, 0.1)
    assert with_fold(three.model_copy(update={"fold": 2}), 1, 2).folds == 2
    with pytest.raises(ConfigError, match="lists of cases"):
        with_fold(ListSplits(kind="lists", train=("a",)), 0)


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


def test_lists_take_the_cases_that_there_are() -> None:
    rule = ListSplits(kind="lists", train=("b", "a", "gone"), val=("c",))
    patients = {case: case for case in "abcd"}
    assert resolve(rule, patients).cases == {"train": ["a", "b"], "val": ["c"], "test": []}
    with pytest.raises(ConfigError, match=r"split 'val' is empty: 2 labelled case\(s\)"):
        resolve(rule, {case: case for case in "ab"})


def test_lists_that_divide_a_patient_are_refused() -> None:
    rule = ListSplits(kind="lists", train=("a",), val=("b",))
    with pytest.raises(ConfigError, match="patient p is in train and in val"):
        resolve(rule, {"a": "p", "b": "p"})
    assert assign(rule, {"a": "p", "b": "p"})["val"] == ["b"]


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


def test_what_to_write_for_two_patients_works() -> None:
    cohort = {"a-0": "a", "a-1": "a", "b": "b"}
    with pytest.raises(ConfigError, match="there are 2") as caught:
        resolve(FractionSplits(), cohort)
    written = yaml.safe_load(str(caught.value).partition("set splits to ")[2])
    rule = load_manifest(None, [f"splits={written}"]).splits
    assert sorted(map(len, resolve(rule, cohort).cases.values())) == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"set splits\.folds to 3"):
        resolve(FoldSplits(kind="folds", test=0.1), {f"c{n}": f"c{n}" for n in range(4)})


def test_no_such_split() -> None:
    with pytest.raises(ConfigError, match="no split is called 'dev'; there are train, val, test"):
        require("dev", {}, {})
