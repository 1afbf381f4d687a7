"""Class by class: how far its samples are certified, how far they must be moved, and what they become."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lipcert.harness.power import median_ratio
from lipcert.harness.result import SampleRow
from lipcert.report.measures import credited_radius

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """All samples of one true class.

    Attributes:
        label: the class.
        samples: how many samples it has.
        accuracy: share of them that is classified right.
        mean: the class's average certified radius, wrong samples counting 0.
        radii: certified radii at ``QUANTILES``, each that of a sample, the lower one of two neighbours.
        attacked: how many of its samples were classified right and attacked; what follows is about these.
        median_distance: median distance of their adversarial examples; None without any.
        median_ratio: median of distance over radius; None without any.
        distances: distances at ``QUANTILES`` as above, infinite where nothing was found; empty if none was attacked.
        turns_into: the classes of their adversarial examples with how many there are, the most frequent first.
    """

    label: int
    samples: int
    accuracy: float
    mean: float
    radii: tuple[float, ...]
    attacked: int
    median_distance: float | None
    median_ratio: float | None
    distances: tuple[float, ...]
    turns_into: tuple[tuple[int, int], ...]


def class_rows(rows: Sequence[SampleRow]) -> tuple[ClassRow, ...]:
    """One record a true class, in the order of the classes; classes without samples are left out.

    Example:
        >>> near = SampleRow(0, 3, 3, 0.5, 1.5, "walk", attacked=True, adversarial_prediction=7)
        >>> [found] = class_rows([near, SampleRow(1, 3, 4, 0.9)])
        >>> found.label, found.samples, found.accuracy, found.mean, found.median_ratio, found.turns_into
        (3, 2, 0.5, 0.25, 3.0, ((7, 1),))
    """
    groups: dict[int, list[SampleRow]] = {}
    for row in rows:
        groups.setdefault(row.label, []).append(row)
    return tuple(_class_row(label, groups[label]) for label in sorted(groups))


def most_fragile(classes: Sequence[ClassRow], *, certified: bool) -> tuple[ClassRow, ...]:
    """The classes by rising average radius, or by rising median distance where nothing is certified."""
    known = [found for found in classes if certified or found.median_distance is not None]
    return tuple(sorted(known, key=lambda found: found.mean if certified else found.median_distance or 0.0))


def _class_row(label: int, rows: Sequence[SampleRow]) -> ClassRow:
    right = [row for row in rows if row.correct]
    attacked = [row for row in right if row.attacked]
    found = [row.distance for row in attacked if row.distance is not None]
    became = Counter(row.adversarial_prediction for row in attacked if row.adversarial_prediction is not None)
    radii = [credited_radius(row) for row in rows]
    return ClassRow(
        label=label,
        samples=len(rows),
        accuracy=len(right) / len(rows),
        mean=math.fsum(radii) / len(rows),
        radii=_lower_quantiles(radii),
        attacked=len(attacked),
        median_distance=median(found) if found else None,
        median_ratio=median_ratio(attacked),
        distances=_lower_quantiles([math.inf if row.distance is None else row.distance for row in attacked]),
        turns_into=tuple(sorted(became.items(), key=lambda item: (-item[1], item[0]))),
    )


def _lower_quantiles(values: Sequence[float]) -> tuple[float, ...]:
    ranked = sorted(values)
    return tuple(ranked[math.floor(share * (len(ranked) - 1))] for share in QUANTILES) if ranked else ()
