"""Numbers of the rows against slow, obvious loops."""

from itertools import pairwise

import numpy as np
import pytest
from report_cases import realistic_result

from lipcert.harness.result import SampleRow
from lipcert.report import measures


@pytest.fixture(scope="module")
def rows():
    return realistic_result(np.zeros((40, 1, 2, 2), np.float32), np.arange(300) % 10, attacked=40).rows


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0, 3.0, 100.0])
def test_accuracies_count_rows(rows, epsilon):
    certified = [row for row in rows if row.label == row.prediction and row.radius >= epsilon]
    assert measures.certified_accuracy(rows, epsilon) == len(certified) / len(rows)
    attacked = [row for row in rows if row.attacked]
    robust = [row for row in attacked if row.label == row.prediction and row.distance > epsilon]
    assert measures.empirical_accuracy(rows, epsilon) == len(robust) / len(attacked)


def test_a_radius_or_distance_of_exactly_epsilon_is_certified_and_broken(rows):
    row = next(row for row in rows if row.attacked and row.correct)
    assert measures.certified_accuracy([row], row.radius) == 1
    assert measures.certified_accuracy([row], np.nextafter(row.radius, np.inf)) == 0
    assert measures.empirical_accuracy([row], row.distance) == 0
    assert measures.empirical_accuracy([row], np.nextafter(row.distance, 0)) == 1


def test_the_average_radius_is_the_area_under_certified_accuracy(rows):
    radii = sorted({0.0, *(row.radius for row in rows)})
    steps = pairwise(radii)
    area = sum((right - left) * measures.certified_accuracy(rows, right) for left, right in steps)
    # both are sums of a few hundred terms below 10: rounding stays far under 1e-9
    assert measures.average_certified_radius(rows) == pytest.approx(area, abs=1e-9)


def test_curves_are_the_accuracies_at_every_budget(rows):
    attacked = measures.attacked_rows(rows)
    exact = [row.radius for row in rows[:9]] + [row.distance for row in attacked[:9] if row.distance is not None]
    budgets = np.array([0.0, 0.3, 1.0, 50.0, *exact])
    for budget, certified, empirical in zip(
        budgets, measures.certified_curve(rows, budgets), measures.empirical_curve(attacked, budgets), strict=True
    ):
        # one minus a quotient against the quotient of the rest: equal up to the rounding of one subtraction
        assert certified == pytest.approx(measures.certified_accuracy(rows, budget), abs=1e-15)
        assert empirical == pytest.approx(measures.empirical_accuracy(rows, budget), abs=1e-15)


def test_curves_end_past_every_radius_and_epsilon_but_not_at_the_farthest_distance():
    rows = [SampleRow(i, 0, 0, 0.5, distance=1 + i / 1000, attacked=True) for i in range(200)]
    far = [*rows, SampleRow(200, 0, 0, 0.5, distance=1e6, attacked=True)]
    assert 1 < measures.longest_budget(far, (0.25,)) < 1.2
    assert measures.longest_budget(far, (3.0,)) == 3
    assert measures.longest_budget([*far, SampleRow(201, 0, 0, 7.0)], ()) == 7
    assert measures.longest_budget([SampleRow(0, 0, 0, float("inf"))], ()) == 1


def test_no_rows_give_no_numbers():
    assert measures.clean_accuracy([]) is None
    assert measures.average_certified_radius([]) is None
