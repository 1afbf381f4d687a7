"""How an audit's strength is graded."""

import pytest

from lipcert.harness.result import SampleRow
from lipcert.report.strength import RULES, strength, strength_reason

CASES = [
    pytest.param([1.4] * 10, "weak", id="nothing at 1.3"),
    pytest.param([1.3] * 10, "weak", id="a ratio of 1.3 is not below it"),
    pytest.param([1.2] + [None] * 9, "moderate", id="one noticed"),
    pytest.param([1.2] * 4 + [1.6] * 6, "moderate", id="two fifths"),
    pytest.param([1.2] * 5 + [1.6] * 5, "strong", id="half"),
    pytest.param([None] * 3, "weak", id="nothing found"),
    pytest.param([], None, id="nothing attacked"),
]


def rows_of(ratios):
    distances = [None if ratio is None else 0.5 * ratio for ratio in ratios]
    attacked = [SampleRow(index, 0, 0, 0.5, distance=found, attacked=True) for index, found in enumerate(distances)]
    # neither of these is an attacked certificate
    return [*attacked, SampleRow(98, 0, 0, 0.0, distance=0.1, attacked=True), SampleRow(99, 0, 0, 0.5)]


@pytest.mark.parametrize(("ratios", "grade"), CASES)
def test_the_grade_follows_from_what_inflated_radii_would_have_met(ratios, grade):
    assert strength(rows_of(ratios)) == grade


def test_the_reason_names_the_share_or_what_would_have_passed():
    assert "50.0\N{NO-BREAK SPACE}%" in strength_reason(0.5, 0.5)
    assert strength_reason(0.0, 1.0) == "Radii 1.3 times as large would have passed unnoticed."
    assert set(RULES) == {"strong", "moderate", "weak"}
