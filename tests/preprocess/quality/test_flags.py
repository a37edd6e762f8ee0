"""Which flags the quality report raises, and that sound cases raise none."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.quality.rules import FLAGS, Cohort, outliers

EXPECTED = {
    "mirrored-mask": {"flip", "anatomy"},
    "reordered": {"anatomy"},
    "mirrored-t2": {"flip"},
    "empty": {"empty"},
    "tiny": {"tiny", "no-et"},
    "huge": {"huge", "no-et", "lost"},
    "quantised": {"intensity"},
    "negative": {"intensity"},
    "hot": {"intensity"},
    "slab": {"uncovered"},
    "cut": {"cut"},
    "stray": {"outside", "lost"},
    "beside": {"off-brain"},
    "BraTS-GLI-00000-000": {"convention"},
    "no-et": {"no-et"},
    "<img src=x onerror=alert(1)>": set(),
    "thick": {"resampled"},
    "turned": {"orientation"},
    "twin": {"leak"},
    "plain-00": {"leak"},
    "copy": {"duplicate"},
    "plain-01": {"duplicate"},
    "doubled": {"duplicate", "anatomy"},
    "damaged": {"damaged"},
    "unlabelled": set(),
}
"""Every flag of every case that is not as plain as the others."""


def flags_of(cohort: Cohort, case_id: str) -> set[str]:
    return {flag.key for flag in cohort.flags[case_id]}


def detail_of(cohort: Cohort, case_id: str, key: str) -> str:
    return "; ".join(flag.detail for flag in cohort.flags[case_id] if flag.key == key)


def test_each_fault_raises_its_own_flags_and_sound_cases_none(cohort: Cohort) -> None:
    raised = {case_id: flags_of(cohort, case_id) for case_id in cohort.flags}
    assert raised == {case_id: set() for case_id in raised} | EXPECTED
    assert set().union(*raised.values()) == set(FLAGS)


def test_what_a_flag_found_is_said(cohort: Cohort) -> None:
    assert detail_of(cohort, "mirrored-t2", "flip").startswith("T2, mirrored, fits")
    assert detail_of(cohort, "mirrored-mask", "flip").startswith("FLAIR is ")
    assert detail_of(cohort, "cut", "cut").startswith("inferior edge")
    assert detail_of(cohort, "slab", "uncovered").startswith("T2 covers ")
    assert detail_of(cohort, "hot", "intensity").startswith("FLAIR: up to ")
    assert detail_of(cohort, "negative", "intensity").startswith("T1: down to −")
    assert detail_of(cohort, "stray", "outside") == "0.064 ml"
    assert re.fullmatch(r"1\.\d% of the tumour's voxels", detail_of(cohort, "beside", "off-brain"))
    assert detail_of(cohort, "thick", "resampled") == "1 × 1 × 2 mm"
    assert detail_of(cohort, "turned", "orientation") == "RAS; most cases are LPS"
    assert (
        detail_of(cohort, "BraTS-GLI-00000-000", "convention")
        == "brats2023; most cases are brats2021"
    )


def test_the_same_image_twice_is_found_and_is_worst_across_splits(cohort: Cohort) -> None:
    assert "FLAIR is FLAIR of plain-00, in train" in detail_of(cohort, "twin", "leak")
    assert (
        detail_of(cohort, "doubled", "duplicate") == "T1 is T1CE of doubled; T1CE is T1 of doubled"
    )


def test_a_case_that_cannot_be_read_is_said_to_be(cohort: Cohort) -> None:
    assert "case damaged" in detail_of(cohort, "damaged", "damaged")
    assert "damaged" in cohort.to_check
    assert "no-et" not in cohort.to_check


@given(
    st.lists(st.integers(-100, 100), min_size=1, max_size=40),
    st.integers(-1000, 1000),
    st.sampled_from([0.125, 0.5, 2.0, 16.0]),
)
def test_units_do_not_decide_who_stands_out(values: list[int], shift: int, scale: float) -> None:
    named = {str(index): float(value) for index, value in enumerate(values)}
    moved = {key: value * scale + shift for key, value in named.items()}
    assert outliers(moved) == pytest.approx(outliers(named))


def test_it_takes_ten_cases_to_stand_out() -> None:
    nine = {str(index): 1 + index / 100 for index in range(8)} | {"far": 100.0}
    assert outliers(nine) == {}
    assert set(outliers(nine | {"tenth": 1.09})) == {"far"}
    assert outliers(dict.fromkeys("abcdefghij", 1.0) | {"far": 100.0}) == {}
