"""How hard an audit tried: by which factor radii could have been too large without being refuted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lipcert.harness.result import SampleRow

INFLATIONS = (1.1, 1.3, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True, slots=True)
class Power:
    """At which inflation of the radii an audit would have failed.

    The inflation at which a single certificate would have been refuted is its :attr:`SampleRow.ratio`.

    Attributes:
        certificates: number of attacked certificates, those of radius 0 left out: there is nothing to inflate.
        smallest: had all radii been larger by more than this factor, the audit would have failed; None if no
            adversarial example was found.
        median: factor beyond which half of the certificates would have been refuted; None if that never happens.
        shares: per factor of ``INFLATIONS`` the share of the certificates that would have been refuted.
    """

    certificates: int
    smallest: float | None
    median: float | None
    shares: tuple[float, ...]


def power(rows: Sequence[SampleRow]) -> Power | None:
    """Return the power of an audit, None if it attacked no certificate.

    Example:
        >>> rows = [SampleRow(0, 3, 3, 0.1, distance=0.25, attacked=True), SampleRow(1, 3, 3, 0.1, attacked=True)]
        >>> found = power(rows)
        >>> found.certificates, found.smallest, found.median, found.shares
        (2, 2.5, None, (0.0, 0.0, 0.0, 0.0, 0.5, 0.5))
        >>> power([SampleRow(0, 3, 3, 0.1)]) is None
        True
    """
    inflations = _refuting_inflations(rows)
    if not inflations:
        return None
    smallest, middle = min(inflations), median(inflations)
    return Power(
        certificates=len(inflations),
        smallest=smallest if math.isfinite(smallest) else None,
        median=middle if math.isfinite(middle) else None,
        shares=tuple(_share_below(inflations, inflation) for inflation in INFLATIONS),
    )


def share_refuted(rows: Sequence[SampleRow], inflation: float) -> float | None:
    """Share of the attacked certificates that would have been refuted, had all radii been inflated.

    Args:
        rows: all rows; those that were not attacked and those of radius 0 are left out.
        inflation: factor on the radii.

    Returns:
        The share with ``ratio < inflation``, or None if no certificate was attacked.

    Example:
        >>> rows = [SampleRow(0, 3, 3, 0.1, distance=0.5, attacked=True), SampleRow(1, 3, 3, 0.1, attacked=True)]
        >>> share_refuted(rows, 2), share_refuted(rows, 6)
        (0.0, 0.5)
    """
    inflations = _refuting_inflations(rows)
    return _share_below(inflations, inflation) if inflations else None


def share_refuted_at_one_more(rows: Sequence[SampleRow], grid: int) -> float | None:
    """Share of the attacked certificates that would have been refuted, had every radius been one step larger.

    Args:
        rows: all rows; those that were not attacked and those of radius 0 are left out.
        grid: radii are whole multiples of 1 / grid.

    Returns:
        The share, or None if no certificate was attacked.

    Example:
        >>> rows = [SampleRow(n, 3, 3, 4.0, distance=4.0 + n, attacked=True) for n in (1, 2)]
        >>> share_refuted_at_one_more(rows, 1)
        0.5
    """
    attacked = [row for row in rows if row.attacked and row.radius > 0]
    if not attacked:
        return None
    found = sum(row.distance is not None and row.distance <= row.radius + 1 / grid for row in attacked)
    return found / len(attacked)


def ratios(rows: Sequence[SampleRow]) -> tuple[float, ...]:
    """Distance over radius of every attacked row that has both."""
    return tuple(row.ratio for row in rows if row.attacked and row.ratio is not None)


def smallest_ratio(rows: Sequence[SampleRow]) -> float | None:
    """The smallest distance over radius: radii inflated by more than this would have been refuted."""
    return min(ratios(rows), default=None)


def median_ratio(rows: Sequence[SampleRow]) -> float | None:
    """The median distance over radius, where both exist: how far, at most, a typical certificate is from the truth."""
    found = ratios(rows)
    return median(found) if found else None


def _refuting_inflations(rows: Sequence[SampleRow]) -> list[float]:
    attacked = [row for row in rows if row.attacked and row.radius > 0]
    return [math.inf if row.ratio is None else row.ratio for row in attacked]


def _share_below(inflations: Sequence[float], inflation: float) -> float:
    return sum(value < inflation for value in inflations) / len(inflations)
