"""The numbers of a report: pure functions of the rows that an audit kept.

All shares are between 0 and 1; all radii and distances are in the audit's norm, in [0,1] pixel units, or sides of
patches in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lipcert.harness.result import AuditResult, SampleRow


def steps_of(result: AuditResult) -> int | None:
    """The steps in a unit where tightness is told by steps: sides of patches are small whole numbers of pixels."""
    return result.grid if result.norm == "patch" else None


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


def certified_curve(rows: Sequence[SampleRow], budgets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Certified accuracy of the rows at every budget; at least one row."""
    radii = np.sort(certified_up_to(rows))
    curve: NDArray[np.float64] = 1 - np.searchsorted(radii, budgets, side="left") / len(rows)
    return curve


def empirical_curve(attacked: Sequence[SampleRow], budgets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy under attack of attacked rows at every budget; at least one row."""
    breaks = np.sort(unbroken_up_to(attacked))
    curve: NDArray[np.float64] = 1 - np.searchsorted(breaks, budgets, side="right") / len(attacked)
    return curve


def longest_budget(rows: Sequence[SampleRow], epsilons: Sequence[float]) -> float:
    """The budget at which curves may end: past every radius, every epsilon and 99 % of the distances; never 0."""
    distances = [row.distance for row in rows if row.distance is not None and math.isfinite(row.distance)]
    far = float(np.quantile(distances, 0.99, method="higher")) if distances else 0.0
    lengths = (far, *epsilons, *(row.radius for row in rows))
    return max(length for length in lengths if math.isfinite(length)) or 1.0


def _breaking_epsilon(row: SampleRow) -> float:
    if not row.correct:
        return -math.inf
    return math.inf if row.distance is None else row.distance


def _share(hits: NDArray[np.bool_]) -> float | None:
    return int(hits.sum()) / hits.size if hits.size else None
