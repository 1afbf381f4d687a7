"""Sums and order statistics in blocks are those of all numbers at once, to the bit."""

import math
import statistics

import numpy as np
import pytest

from lipcert.shards.exact import ExactSums, OrderStatistics, middle

RANDOM = np.random.default_rng(0)
VALUES = {
    "ordinary": RANDOM.exponential(size=1000),
    "many sizes": RANDOM.exponential(size=1000) * 10.0 ** RANDOM.integers(-300, 300, size=1000),
    "subnormal": np.array([5e-324, 1e-310, 0.0, 2.2250738585072014e-308]),
    "equal": np.full(257, 0.1),
    "infinite": np.array([1.0, math.inf, 0.5, math.inf, math.inf]),
    "neighbours": np.array([1.0, np.nextafter(1, 2), np.nextafter(1, 0), 1.0]),
    "one": np.array([0.3]),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_sums_are_rounded_once(values, block):
    groups = np.arange(len(values)) % 3
    sums = ExactSums()
    for begin in range(0, len(values), block):
        sums.add(groups[begin : begin + block], values[begin : begin + block])
    assert sums.total() == math.fsum(values)
    for group in range(3):
        assert sums.of(group) == math.fsum(values[groups == group])


def test_a_plain_sum_would_be_another():
    values = VALUES["equal"]
    assert float(values.cumsum()[-1]) != math.fsum(values)


def settled(values, groups, ranks, *, number, block=7):
    found = OrderStatistics(number, ranks)
    for _ in range(OrderStatistics.PASSES):
        for begin in range(0, len(values), block):
            found.add(groups[begin : begin + block], values[begin : begin + block])
        found.end_pass()
    return found


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_rank_is_that_of_the_sorted_numbers(values):
    groups = np.zeros(len(values), dtype=np.int64)
    found = settled(values, groups, lambda count: list(range(0, count, max(1, count // 50))), number=1)
    assert found.of(0) == tuple(sorted(values.tolist())[:: max(1, len(values) // 50)])


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_medians_by_group(values):
    groups = RANDOM.integers(4, size=len(values)) * 2  # the odd groups are empty
    found = settled(values, groups, middle, number=8)
    for group in range(8):
        chosen = values[groups == group].tolist()
        assert found.count(group) == len(chosen)
        assert found.median(group) == (statistics.median(chosen) if chosen else None)


def test_a_negative_zero_is_a_zero():
    found = settled(np.array([-0.0, 1.0, 0.0]), np.zeros(3, dtype=np.int64), lambda count: [0, 1, 2], number=1)
    assert found.of(0) == (0.0, 0.0, 1.0)
