"""The numbers of a report: pure functions of the rows that an audit kept.

All shares are between 0 and 1; all radii and distances are L2, in [0,1] pixel units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lipcert.harness.result import SampleRow

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def attacked_rows(rows: Sequence[SampleRow]) -> tuple[SampleRow, ...]:
    """The samples on which at least one attack was run."""
    return tuple(row for row in rows if row.attacked)


def clean_accuracy(rows: Sequence[SampleRow]) -> float | None:
    """Share of the rows that are classified right; None without rows.

    Example:
        >>> clean_accuracy([SampleRow(0, 3, 3, 0.5), SampleRow(1, 3, 4, 0.2)])
        0.5
    """
    return _share(np.array([row.correct for row in rows], dtype=bool))


def certified_accuracy(rows: Sequence[SampleRow], epsilon: float) -> float | None:
    """Share of all rows that are classified right with ``radius >= epsilon``; None without rows.

    Example:
        >>> rows = [SampleRow(0, 3, 3, 0.5), SampleRow(1, 3, 4, 0.9), SampleRow(2, 3, 3, 0.1)]
        >>> certified_accuracy(rows, 0.0), round(certified_accuracy(rows, 0.5), 3)
        (0.6666666666666666, 0.333)
    """
    return _share(certified_up_to(rows) >= epsilon)


def empirical_accuracy(rows: Sequence[SampleRow], epsilon: float) -> float | None:
    """Share of the *attacked* rows that are right and have no adversarial example within ``epsilon``.

    It is an upper bound of those rows' true robust accuracy: a stronger attack can only lower it.

    Args:
        rows: all rows; those that were not attacked are left out.
        epsilon: budget; a best distance of exactly epsilon counts as broken.

    Returns:
        The share, or None if nothing was attacked.

    Example:
        >>> rows = [SampleRow(0, 3, 3, 0.1, distance=0.5, attacked=True), SampleRow(1, 3, 3, 0.1)]
        >>> empirical_accuracy(rows, 0.4), empirical_accuracy(rows, 0.5), empirical_accuracy(rows[1:], 0.1)
        (1.0, 0.0, None)
    """
    return _share(unbroken_up_to(attacked_rows(rows)) > epsilon)


def certified_up_to(rows: Sequence[SampleRow]) -> NDArray[np.float64]:
    """Per row the largest epsilon that counts as certified: the radius, or minus infinity where the class is wrong."""
    return np.array([row.radius if row.correct else -math.inf for row in rows], dtype=np.float64)


def unbroken_up_to(rows: Sequence[SampleRow]) -> NDArray[np.float64]:
    """Per row the epsilon at which an attack succeeds: infinity without success, minus infinity if wrong already."""
    return np.array([_breaking_epsilon(row) for row in rows], dtype=np.float64)


def credited_radius(row: SampleRow) -> float:
    """The radius where the class is right, else 0: what the average certified radius averages."""
    return float(row.radius) if row.correct else 0.0


def average_certified_radius(rows: Sequence[SampleRow]) -> float | None:
    """Mean certified radius over all rows, counting 0 where the class is wrong; None without rows.

    Example:
        >>> average_certified_radius([SampleRow(0, 3, 3, 0.5), SampleRow(1, 3, 4, 0.9)])
        0.25
    """
    return math.fsum(credited_radius(row) for row in rows) / len(rows) if rows else None


def ratios(rows: Sequence[SampleRow]) -> tuple[float, ...]:
    """Distance over radius of every attacked row that has both."""
    return tuple(row.ratio for row in rows if row.attacked and row.ratio is not None)


def smallest_ratio(rows: Sequence[SampleRow]) -> float | None:
    """The smallest distance over radius: radii inflated by more than this would have been refuted."""
    return min(ratios(rows), default=None)


def median_ratio(rows: Sequence[SampleRow]) -> float | None:
    """The median distance over radius: how far, at most, a typical certificate is from the truth."""
    found = ratios(rows)
    return median(found) if found else None


def share_refuted(rows: Sequence[SampleRow], inflation: float) -> float | None:
    """Share of the attacked rows whose certificate would have been refuted, had all radii been inflated.

    Args:
        rows: all rows; those that were not attacked are left out.
        inflation: factor on the radii.

    Returns:
        The share of attacked rows with ``ratio < inflation``, or None if nothing was attacked.

    Example:
        >>> rows = [SampleRow(0, 3, 3, 0.1, distance=0.5, attacked=True), SampleRow(1, 3, 3, 0.1, attacked=True)]
        >>> share_refuted(rows, 2), share_refuted(rows, 6)
        (0.0, 0.5)
    """
    hits = [row.ratio is not None and row.ratio < inflation for row in attacked_rows(rows)]
    return _share(np.array(hits, dtype=bool))


@dataclass(frozen=True, slots=True)
class ClassRadii:
    """Certified radii of all samples of one true class, wrong samples counting 0.

    Attributes:
        label: the class.
        samples: how many samples it has.
        accuracy: share of them that is classified right.
        mean: the class's average certified radius.
        quantiles: radii at ``QUANTILES``, each that of a sample, the lower one of two neighbours.
    """

    label: int
    samples: int
    accuracy: float
    mean: float
    quantiles: tuple[float, ...]


def radii_by_class(rows: Sequence[SampleRow]) -> tuple[ClassRadii, ...]:
    """Certified radii per true class, in the order of the classes; classes without samples are left out.

    Example:
        >>> [found] = radii_by_class([SampleRow(0, 3, 3, 0.5), SampleRow(1, 3, 4, 0.9)])
        >>> found.label, found.samples, found.accuracy, found.mean
        (3, 2, 0.5, 0.25)
    """
    groups: dict[int, list[SampleRow]] = {}
    for row in rows:
        groups.setdefault(row.label, []).append(row)
    return tuple(_class_radii(label, groups[label]) for label in sorted(groups))


def _class_radii(label: int, rows: Sequence[SampleRow]) -> ClassRadii:
    radii = sorted(credited_radius(row) for row in rows)
    right = sum(row.correct for row in rows)
    quantiles = tuple(radii[math.floor(share * (len(rows) - 1))] for share in QUANTILES)
    return ClassRadii(label, len(rows), right / len(rows), math.fsum(radii) / len(rows), quantiles)


def _breaking_epsilon(row: SampleRow) -> float:
    if not row.correct:
        return -math.inf
    return math.inf if row.distance is None else row.distance


def _share(hits: NDArray[np.bool_]) -> float | None:
    return int(hits.sum()) / hits.size if hits.size else None
