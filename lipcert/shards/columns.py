"""The rows of some samples as arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipcert.harness.result import AttackRow, AuditResult, SampleRow


@dataclass(frozen=True)
class Columns:
    """M rows as an audit keeps them, see :class:`~lipcert.harness.result.SampleRow`, each column ``(M,)``.

    Attributes:
        index: position in the split, ascending.
        label: true class.
        prediction: predicted class.
        radius: certified radius.
        distance: of the nearest adversarial example; infinite where none is known.
        attack: name of the attack that found it; empty where none is known.
        adversarial_prediction: class of it; -1 where none is known.
        attacked: whether any attack was run.
        violated: whether the certificate was refuted.
        boundary: whether the deployed network changes class just inside the radius, by rounding alone.
        found: by the label of an attack the distance that it found, infinite where it found nothing, nan where it was
            not run.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    radius: NDArray[np.float64]
    distance: NDArray[np.float64]
    attack: NDArray[np.str_]
    adversarial_prediction: NDArray[np.int64]
    attacked: NDArray[np.bool_]
    violated: NDArray[np.bool_]
    boundary: NDArray[np.bool_]
    found: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the prediction is the true class."""
        return np.equal(self.label, self.prediction)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether an adversarial example is known."""
        return np.isfinite(self.distance)

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Distance over radius; infinite without one of both."""
        ratio = np.full(len(self), math.inf)
        np.divide(self.distance, self.radius, out=ratio, where=self.has_ratio)
        return ratio

    @property
    def has_ratio(self) -> NDArray[np.bool_]:
        """Whether there is a distance and a radius above 0."""
        return self.known & (self.radius > 0)

    def row(self, number: int) -> SampleRow:
        """Return one of them."""
        known = bool(self.known[number])
        return SampleRow(
            index=int(self.index[number]),
            label=int(self.label[number]),
            prediction=int(self.prediction[number]),
            radius=float(self.radius[number]),
            distance=float(self.distance[number]) if known else None,
            attack=str(self.attack[number]) or None,
            attacked=bool(self.attacked[number]),
            violated=bool(self.violated[number]),
            adversarial_prediction=int(self.adversarial_prediction[number]) if known else None,
        )


Blocks = Callable[[], Iterator[Columns]]
"""Goes through all rows of an audit, in order, a block at a time."""


def label_of(attack: AttackRow) -> str:
    """Return what tells an attack with its settings from others.

    Example:
        >>> label_of(AttackRow("pgd", {"steps": 40, "epsilon": 0.5}, 9, 1.0, 0.5, 0, 1.0, 9, 9))
        'pgd, steps 40, epsilon 0.5'
    """
    return ", ".join([attack.name, *(f"{name} {value}" for name, value in attack.parameters.items())])


def columns_of(result: AuditResult, *, begin: int = 0) -> Columns:
    """Return the rows of an audit as columns.

    Args:
        result: the audit.
        begin: position of its first sample in the whole split.

    Example:
        >>> values = ([7], [3], [3], [0.1], [0.25], ["walk"], [5], [True], [False], [False])
        >>> Columns(*map(np.array, values), {}).row(0).ratio
        2.5
    """
    rows = result.rows
    numbers = range(len(rows))
    return Columns(
        index=np.arange(begin, begin + len(rows), dtype=np.int64),
        label=np.array([row.label for row in rows], dtype=np.int64),
        prediction=np.array([row.prediction for row in rows], dtype=np.int64),
        radius=np.array([row.radius for row in rows], dtype=np.float64),
        distance=np.array([math.inf if row.distance is None else row.distance for row in rows], dtype=np.float64),
        attack=np.array([row.attack or "" for row in rows], dtype=np.str_),
        adversarial_prediction=np.array(
            [-1 if row.adversarial_prediction is None else row.adversarial_prediction for row in rows], dtype=np.int64
        ),
        attacked=np.array([row.attacked for row in rows], dtype=np.bool_),
        violated=np.array([row.violated for row in rows], dtype=np.bool_),
        boundary=np.array([number in result.boundary for number in numbers], dtype=np.bool_),
        found={
            label_of(attack): np.array([attack.found.get(number, math.nan) for number in numbers], dtype=np.float64)
            for attack in result.attacks
        },
    )
