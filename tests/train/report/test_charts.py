"""Axes of a report's charts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.report.charts import MOST_TICKS, nice


@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e4))
def test_an_axis_has_few_round_numbers_that_span_the_values(low: float, span: float) -> None:
    marks = nice(low, low + span)
    assert 2 <= len(marks) <= MOST_TICKS + 1
    slack = 1e-6 * (abs(low) + span)
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack
    steps = [after - before for before, after in pairwise(marks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
