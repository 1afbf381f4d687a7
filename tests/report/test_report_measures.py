"""Numbers of the rows against slow, obvious loops."""

from itertools import pairwise

import numpy as np
import pytest
from report_cases import realistic_result

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


def test_class_means_average_to_the_average_radius(rows):
    classes = measures.radii_by_class(rows)
    total = sum(found.mean * found.samples for found in classes)
    assert sum(found.samples for found in classes) == len(rows)
    assert total / len(rows) == pytest.approx(measures.average_certified_radius(rows), abs=1e-9)


def test_class_quantiles_are_lower_quantiles_with_zeros_for_wrong_samples(rows):
    for found in measures.radii_by_class(rows):
        radii = [row.radius * (row.prediction == row.label) for row in rows if row.label == found.label]
        assert found.quantiles == tuple(np.quantile(radii, measures.QUANTILES, method="lower"))


def test_no_rows_give_no_numbers():
    assert measures.clean_accuracy([]) is None
    assert measures.average_certified_radius([]) is None
    assert measures.radii_by_class([]) == ()
