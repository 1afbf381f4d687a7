"""The classes one by one against slow, obvious loops; what they turn into against counts by hand."""

from dataclasses import replace

import numpy as np
import pytest
from report_cases import realistic_result

from lipcert.harness.result import SampleRow
from lipcert.report import measures
from lipcert.report.classes import QUANTILES, class_rows, most_fragile
from lipcert.report.figures_classes import class_figure, turns_figure, turns_text

NAMES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def rows():
    return realistic_result(np.zeros((40, 1, 2, 2), np.float32), np.arange(300) % 10, attacked=40).rows


def attacked(index, label, became, distance=1.0, **changes):
    row = SampleRow(index, label, label, 0.5, distance, "walk", attacked=True, adversarial_prediction=became)
    return replace(row, **changes)


def test_class_means_average_to_the_average_radius(rows):
    classes = class_rows(rows)
    total = sum(found.mean * found.samples for found in classes)
    assert sum(found.samples for found in classes) == len(rows)
    # sums of a few hundred terms below 10: rounding stays far under 1e-9
    assert total / len(rows) == pytest.approx(measures.average_certified_radius(rows), abs=1e-9)


def test_class_quantiles_are_lower_quantiles_with_zeros_for_wrong_samples(rows):
    for found in class_rows(rows):
        radii = [row.radius * (row.prediction == row.label) for row in rows if row.label == found.label]
        assert found.radii == tuple(np.quantile(radii, QUANTILES, method="lower"))


def test_what_attacks_found_is_counted_over_the_right_and_attacked_samples(rows):
    for found in class_rows(rows):
        mine = [row for row in rows if row.label == found.label == row.prediction and row.attacked]
        assert found.attacked == len(mine)
        assert found.median_distance == (np.median([row.distance for row in mine]) if mine else None)
        assert sum(count for _, count in found.turns_into) == len(mine)
        assert found.distances == (
            tuple(np.quantile([row.distance for row in mine], QUANTILES, method="lower")) if mine else ()
        )


def test_what_a_class_turns_into_is_counted_from_its_right_samples():
    rows = [
        *(attacked(index, 0, became=1) for index in range(3)),
        attacked(3, 0, became=2),
        attacked(4, 0, became=0, prediction=2),  # was wrong already: it says nothing about how fragile the class is
        SampleRow(5, 0, 0, 0.5, attacked=True),
        attacked(6, 1, became=2, distance=0.25),
    ]
    cat, dog = class_rows(rows)
    assert cat.turns_into == ((1, 3), (2, 1))
    assert (cat.samples, cat.attacked) == (6, 5)
    assert dog.turns_into == ((2, 1),)
    assert turns_text(cat, NAMES) == "dog 75\N{NO-BREAK SPACE}%, emu 25\N{NO-BREAK SPACE}%"
    figure = turns_figure([cat, dog], NAMES)
    assert "cat into dog 75" in figure
    assert ">75<" in figure
    assert ">100<" in figure


def test_the_most_fragile_class_has_the_smallest_average_radius_or_the_smallest_distance():
    rows = [
        attacked(0, 0, 1, radius=0.5, distance=0.6),
        attacked(1, 1, 2, radius=0.1, distance=0.9),
        SampleRow(2, 2, 2, 0.2),
    ]
    classes = class_rows(rows)
    assert [found.label for found in most_fragile(classes, certified=True)] == [1, 2, 0]
    assert [found.label for found in most_fragile(classes, certified=False)] == [0, 1]


def test_of_many_classes_the_most_fragile_are_drawn_and_no_crossing():
    rows = [attacked(index, index, (index + 1) % 40, radius=(index + 1) / 10) for index in range(40)]
    classes = class_rows(rows)
    figure = class_figure(classes, ())
    assert "class 29 " in figure
    assert "class 30 " not in figure
    assert turns_figure(classes, ()) is None


def test_nothing_known_gives_nothing():
    assert class_rows([]) == ()
    assert turns_figure(class_rows([SampleRow(0, 0, 0, 0.5)]), NAMES) is None
