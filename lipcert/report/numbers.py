"""Every number of a report, of all samples of the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lipcert.harness.power import (
    INFLATIONS,
    Power,
    median_ratio,
    power,
    share_refuted_at_one_more,
    smallest_ratio,
)
from lipcert.harness.result import AuditResult, SampleRow
from lipcert.report import measures
from lipcert.report.classes import ClassRow, class_rows
from lipcert.report.figures_ratios import refuted_curve
from lipcert.report.strength import STRONG, WEAK, Strength, grade

CURVE_POINTS = 101


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """Accuracies at one epsilon; the attacked ones are None if nothing was attacked."""

    epsilon: float
    certified: float | None
    attacked_certified: float | None
    attacked_empirical: float | None


@dataclass(frozen=True, slots=True)
class Curves:
    """Accuracies over a fine grid of budgets, so that the page that compares audits needs no rows.

    Attributes:
        epsilon: the budgets; empty without rows.
        certified: certified accuracy of all samples.
        empirical: accuracy of the attacked samples under attack; None if nothing was attacked.
    """

    epsilon: tuple[float, ...]
    certified: tuple[float, ...]
    empirical: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a report says in numbers. Those of ordinary audits come from their rows, see :func:`numbers_of`.

    Attributes:
        samples: number of samples of the split.
        attacked: how many were attacked.
        found: for how many of these an adversarial example is known.
        violated: number of certificates that were refuted.
        uncertified: number of samples with radius 0.
        clean_accuracy: share of all samples that is classified right.
        average_certified_radius: over all samples, 0 where the class is wrong.
        accuracies: one row an epsilon, ascending.
        median_distance: of the adversarial examples of attacked samples; None without any.
        smallest_ratio: the smallest distance over radius.
        median_ratio: the median distance over radius.
        power: see :func:`~lipcert.harness.power.power`.
        refuted: share of the attacked certificates that would have been refuted at each of the ``FACTORS``.
        refuted_at_one_more: the same had every radius been one step larger; None without a grid.
        curves: see there.
        classes: one record a true class.
    """

    samples: int
    attacked: int
    found: int
    violated: int
    uncertified: int
    clean_accuracy: float | None
    average_certified_radius: float | None
    accuracies: tuple[AccuracyRow, ...]
    median_distance: float | None
    smallest_ratio: float | None
    median_ratio: float | None
    power: Power | None
    refuted: tuple[float, ...] | None
    refuted_at_one_more: float | None
    curves: Curves
    classes: tuple[ClassRow, ...]

    def share_refuted(self, inflation: float) -> float | None:
        """Share of the attacked certificates that one of the ``INFLATIONS`` would have refuted; None without any."""
        return None if self.power is None else self.power.shares[INFLATIONS.index(inflation)]

    def noticed(self, *, by_steps: bool) -> tuple[float | None, float | None]:
        """Shares that a weak and a strong audit have to refute: at two factors, or, by steps, at one step more."""
        if by_steps:
            return self.refuted_at_one_more, self.refuted_at_one_more
        return self.share_refuted(WEAK), self.share_refuted(STRONG)

    def strength(self, *, by_steps: bool) -> Strength | None:
        """Grade the attacks, see :func:`~lipcert.report.strength.strength`."""
        return grade(*self.noticed(by_steps=by_steps))


def numbers_of(result: AuditResult) -> Numbers:
    """Return the numbers of an audit that holds a row for every sample."""
    rows, attacked = result.rows, measures.attacked_rows(result.rows)
    distances = [row.distance for row in attacked if row.distance is not None]
    found = power(rows)
    return Numbers(
        samples=len(rows),
        attacked=len(attacked),
        found=len(distances),
        violated=len(result.violations),
        uncertified=sum(row.radius <= 0 for row in rows),
        clean_accuracy=measures.clean_accuracy(rows),
        average_certified_radius=measures.average_certified_radius(rows),
        accuracies=_accuracies(result, attacked),
        median_distance=median(distances) if distances else None,
        smallest_ratio=smallest_ratio(rows),
        median_ratio=median_ratio(rows),
        power=found,
        refuted=tuple(refuted_curve(rows)) if found else None,
        refuted_at_one_more=None if result.grid is None else share_refuted_at_one_more(rows, result.grid),
        curves=_curves(result, attacked),
        classes=class_rows(rows),
    )


def curve_budgets(longest: float) -> NDArray[np.float64]:
    """Return the budgets of the curves, up to the longest one, as they are written."""
    return np.array([float(f"{step:.6g}") for step in np.linspace(0, longest, CURVE_POINTS)])


def _accuracies(result: AuditResult, attacked: Sequence[SampleRow]) -> tuple[AccuracyRow, ...]:
    return tuple(
        AccuracyRow(
            epsilon=epsilon,
            certified=measures.certified_accuracy(result.rows, epsilon),
            attacked_certified=measures.certified_accuracy(attacked, epsilon),
            attacked_empirical=measures.empirical_accuracy(attacked, epsilon),
        )
        for epsilon in sorted(result.epsilons)
    )


def _curves(result: AuditResult, attacked: Sequence[SampleRow]) -> Curves:
    rows = result.rows
    if not rows:
        return Curves((), (), None)
    budgets = curve_budgets(measures.longest_budget(rows, result.epsilons))
    return Curves(
        tuple(budgets.tolist()),
        tuple(measures.certified_curve(rows, budgets).tolist()),
        tuple(measures.empirical_curve(attacked, budgets).tolist()) if attacked else None,
    )
