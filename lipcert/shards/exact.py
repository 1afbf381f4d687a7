"""Sums and order statistics of numbers that are seen block by block, in memory that does not grow with them.

Both are exact: what they return is what :func:`math.fsum` and a sort of all numbers at once would give.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64]
Values = NDArray[np.float64]

_MANTISSA, _HALF = 53, 27  # bits of a float64, and of what 2**26 numbers can be summed of without rounding
_DIGIT = 8  # bits that a pass settles
_DIGITS = 1 << _DIGIT


class ExactSums:
    """The sum of every group, rounded once at the end.

    A float64 is a whole number of 53 bits times a power of 2. The whole numbers are summed for each power by itself.

    Example:
        >>> sums = ExactSums()
        >>> sums.add(np.array([0, 1, 0]), np.array([1e100, 0.5, 1.0]))
        >>> sums.add(np.array([0]), np.array([-1e100]))
        >>> sums.of(0), sums.of(1), sums.total()
        (1.0, 0.5, 1.5)
    """

    def __init__(self) -> None:
        self._wholes: dict[int, Counter[int]] = {}
        self._infinite: Counter[int] = Counter()

    def add(self, groups: Groups, values: Values) -> None:
        """Add values ``(M,)`` >= 0, or finite ones of any sign, each to its group; M is at most 2**26."""
        finite = np.isfinite(values)
        self._infinite.update(groups[~finite].tolist())
        groups, (mantissas, exponents) = groups[finite], np.frexp(values[finite])
        wholes = np.ldexp(mantissas, _MANTISSA).astype(np.int64)
        keys, places = np.unique(np.stack([groups, exponents.astype(np.int64)]), axis=1, return_inverse=True)
        high, low = wholes >> _HALF, wholes & ((1 << _HALF) - 1)
        sums = [np.bincount(places.ravel(), part, keys.shape[1]).tolist() for part in (high, low)]
        for group, exponent, upper, lower in zip(*keys.tolist(), *sums, strict=True):
            self._wholes.setdefault(group, Counter())[exponent] += (int(upper) << _HALF) + int(lower)

    def of(self, group: int) -> float:
        """The sum of one group."""
        if self._infinite[group]:
            return math.inf
        return _rounded([self._wholes.get(group, Counter())])

    def total(self) -> float:
        """The sum of all groups."""
        return math.inf if self._infinite.total() else _rounded(self._wholes.values())


def _rounded(sums: Iterable[Counter[int]]) -> float:
    total = Fraction(0)
    for wholes in sums:
        for exponent, whole in wholes.items():
            total += whole * Fraction(2) ** (exponent - _MANTISSA)
    return float(total)


Ranks = Callable[[int], Sequence[int]]


class OrderStatistics:
    """The numbers of certain ranks among those of every group, after some passes over all numbers.

    The bits of floats >= 0, read as whole numbers, are in the order of the floats. The first pass counts every group;
    each later one settles eight more bits of every number that is wanted, by counting those that begin alike.

    Args:
        groups: number of groups.
        ranks: returns the wanted ranks, from 0, given how many numbers a group has; as many for every group.

    Example:
        >>> middle = OrderStatistics(1, lambda count: [count // 2])
        >>> for _ in range(OrderStatistics.PASSES):
        ...     for block in ([5.0, 0.25], [math.inf]):
        ...         middle.add(np.zeros(len(block), dtype=np.int64), np.array(block))
        ...     middle.end_pass()
        >>> middle.of(0)
        (5.0,)
    """

    PASSES = 1 + 64 // _DIGIT

    def __init__(self, groups: int, ranks: Ranks) -> None:
        self._groups, self._ranks = groups, ranks
        self._pass = 0
        self._counts = np.zeros(groups, dtype=np.int64)
        self._left = np.zeros((0, groups), dtype=np.int64)  # rank among those that begin alike
        self._bits = np.zeros((0, groups), dtype=np.uint64)
        self._digits = np.zeros((0, groups * _DIGITS), dtype=np.int64)

    def add(self, groups: Groups, values: Values) -> None:
        """Look at values ``(M,)`` >= 0; every pass has to see the same ones."""
        if self._pass == 0:
            self._counts += np.bincount(groups, minlength=self._groups)
            return
        bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.uint64)  # without a sign of zero
        shift = np.uint64(64 - _DIGIT * self._pass)
        digit = ((bits >> shift) & np.uint64(_DIGITS - 1)).astype(np.int64)
        known = np.zeros_like(bits) if self._pass == 1 else bits >> (shift + np.uint64(_DIGIT))
        for number, settled in enumerate(self._bits):
            alike = known == settled[groups]
            places = groups[alike] * _DIGITS + digit[alike]
            self._digits[number] += np.bincount(places, minlength=self._groups * _DIGITS)

    def end_pass(self) -> None:
        """Settle what the pass has shown."""
        if self._pass == 0:
            wanted = [list(self._ranks(int(count))) if count else [] for count in self._counts]
            size = max(map(len, wanted), default=0)
            ranks = np.array([each or [0] * size for each in wanted], dtype=np.int64)
            self._left = ranks.reshape(self._groups, size).T.copy()
            self._bits = np.zeros((size, self._groups), dtype=np.uint64)
        else:
            up_to = self._digits.reshape(-1, self._groups, _DIGITS).cumsum(axis=2)
            digit = (up_to <= self._left[:, :, None]).sum(axis=2).clip(max=_DIGITS - 1)
            before = np.take_along_axis(up_to, np.maximum(digit - 1, 0)[:, :, None], axis=2)[:, :, 0]
            self._left -= np.where(digit > 0, before, 0)
            self._bits = (self._bits << np.uint64(_DIGIT)) | digit.astype(np.uint64)
        self._digits = np.zeros((len(self._bits), self._groups * _DIGITS), dtype=np.int64)
        self._pass += 1

    def count(self, group: int) -> int:
        """How many numbers a group has."""
        return int(self._counts[group])

    def of(self, group: int) -> tuple[float, ...]:
        """The numbers of the wanted ranks; empty for an empty group."""
        assert self._pass == self.PASSES
        return tuple(self._bits.view(np.float64)[:, group].tolist()) if self._counts[group] else ()

    def median(self, group: int) -> float | None:
        """The mean of the two numbers in the middle, if their ranks are those that were wanted; None without any."""
        found = self.of(group)
        return (found[0] + found[1]) / 2 if found else None


def middle(count: int) -> tuple[int, int]:
    """Return the ranks whose numbers' mean is the median.

    Example:
        >>> middle(3), middle(4)
        ((1, 1), (1, 2))
    """
    return (count - 1) // 2, count // 2
