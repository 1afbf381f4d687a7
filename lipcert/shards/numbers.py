"""The numbers of a report from rows that are seen block by block: exactly those that all rows at once would give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lipcert.harness.caveats import NONE, SHOWN, WEAK, Samples, Tried
from lipcert.harness.power import INFLATIONS, Power
from lipcert.report.classes import QUANTILES, ClassRow
from lipcert.report.figures_ratios import FACTORS
from lipcert.report.numbers import AccuracyRow, Curves, Numbers, curve_budgets
from lipcert.shards.columns import Blocks, Columns
from lipcert.shards.exact import ExactSums, Groups, OrderStatistics, Values, middle

_FAR = 0.99  # curves end past this share of the distances


@dataclass
class Counts:
    """What one pass over the rows counts.

    Args:
        epsilons: budgets, ascending.
        grid: radii are whole multiples of 1 / grid; None if they are not.

    Attributes:
        samples: number of rows; so are ``attacked``, ``found``, ``violated``, ``uncertified`` and ``right`` some.
        certificates: number of attacked rows with a radius above 0.
        nearest: the smallest distance over radius of an attacked row; infinite without any.
        longest: the largest finite radius.
        radii: sums of the radii where the class is right, by class.
        classes: by class the number of its rows, those classified right, and those of them that were attacked.
        became: by class and by the class of adversarial examples, how many there are.
    """

    epsilons: Sequence[float]
    grid: int | None
    samples: int = 0
    right: int = 0
    attacked: int = 0
    found: int = 0
    violated: int = 0
    uncertified: int = 0
    certificates: int = 0
    at_one_more: int = 0
    nearest: float = math.inf
    longest: float = 0.0
    missed: Samples = NONE
    empty: Samples = NONE
    boundary: Samples = NONE
    radii: ExactSums = field(default_factory=ExactSums)
    classes: Counter[tuple[int, str]] = field(default_factory=Counter)
    became: dict[int, Counter[int]] = field(default_factory=dict)
    certified: NDArray[np.int64] = field(init=False)
    attacked_certified: NDArray[np.int64] = field(init=False)
    standing: NDArray[np.int64] = field(init=False)
    refuted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FACTORS), dtype=np.int64))
    inflated: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(INFLATIONS), dtype=np.int64))

    def __post_init__(self) -> None:
        none = np.zeros(len(self.epsilons), dtype=np.int64)
        self.certified, self.attacked_certified, self.standing = none, none.copy(), none.copy()

    def add(self, columns: Columns) -> None:
        """Count some rows."""
        attacked, right = columns.attacked, columns.correct
        self.samples += len(columns)
        self.right += int(right.sum())
        self.attacked += int(attacked.sum())
        self.found += int((attacked & columns.known).sum())
        self.violated += int(columns.violated.sum())
        self.uncertified += int((columns.radius <= 0).sum())
        self.missed += _samples(columns, attacked & ~columns.known)
        self.empty += _samples(columns, attacked & (columns.radius == 0))
        self.boundary += _samples(columns, columns.boundary)
        self._add_accuracies(columns)
        self._add_ratios(columns)
        self._add_classes(columns)

    def _add_accuracies(self, columns: Columns) -> None:
        attacked, epsilons = columns.attacked, np.array(self.epsilons, dtype=np.float64)[:, None]
        certified = certified_up_to(columns) >= epsilons
        self.certified += certified.sum(1)
        self.attacked_certified += certified[:, attacked].sum(1)
        self.standing += (unbroken_up_to(columns)[attacked] > epsilons).sum(1)
        finite = columns.radius[np.isfinite(columns.radius)]
        self.longest = max(self.longest, float(finite.max(initial=0.0)))

    def _add_ratios(self, columns: Columns) -> None:
        certificates = columns.attacked & (columns.radius > 0)
        ratios = columns.ratio[certificates]
        self.certificates += len(ratios)
        self.nearest = min(self.nearest, float(ratios.min(initial=math.inf)))
        self.refuted += (ratios < np.array(FACTORS)[:, None]).sum(1)
        self.inflated += (ratios < np.array(INFLATIONS)[:, None]).sum(1)
        if self.grid is not None:
            near = columns.known & (columns.distance <= columns.radius + 1 / self.grid)
            self.at_one_more += int(near[certificates].sum())

    def _add_classes(self, columns: Columns) -> None:
        attacked, right = columns.attacked, columns.correct
        self.radii.add(columns.label, credited(columns))
        for name, part in (("samples", ...), ("right", right), ("attacked", right & attacked)):
            labels, counts = np.unique(columns.label[part], return_counts=True)
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
                self.classes[label, name] += count
        turned = right & attacked & columns.known
        pairs = np.stack([columns.label[turned], columns.adversarial_prediction[turned]])
        found, counts = np.unique(pairs, axis=1, return_counts=True)
        for label, became, count in zip(*found.tolist(), counts.tolist(), strict=True):
            self.became.setdefault(label, Counter())[became] += count

    @property
    def labels(self) -> list[int]:
        """The true classes that occur, ascending."""
        return sorted({label for label, _ in self.classes})


def credited(columns: Columns) -> NDArray[np.float64]:
    """Per row what the average certified radius averages, as :func:`lipcert.report.measures.credited_radius`."""
    return np.where(columns.correct, columns.radius, 0.0)


def certified_up_to(columns: Columns) -> NDArray[np.float64]:
    """Per row the largest epsilon that counts as certified, as :func:`lipcert.report.measures.certified_up_to`."""
    return np.where(columns.correct, columns.radius, -math.inf)


def unbroken_up_to(columns: Columns) -> NDArray[np.float64]:
    """Per row the epsilon at which an attack succeeds, as :func:`lipcert.report.measures.unbroken_up_to`."""
    return np.where(columns.correct, columns.distance, -math.inf)


def _samples(columns: Columns, chosen: NDArray[np.bool_]) -> Samples:
    found = columns.index[chosen]
    return Samples(len(found), tuple(found[:SHOWN].tolist()))


Selected = Callable[[Columns], tuple[Groups, Values]]


@dataclass(frozen=True)
class Quantiles:
    """Order statistics of some values of the rows.

    Attributes:
        statistics: of which ranks.
        of: returns the values of a block that count, each with its group.
    """

    statistics: OrderStatistics
    of: Selected


def settle(blocks: Blocks, quantiles: Sequence[Quantiles]) -> None:
    """Go through the rows until all order statistics are known."""
    for _ in range(OrderStatistics.PASSES):
        for columns in blocks():
            for each in quantiles:
                each.statistics.add(*each.of(columns))
        for each in quantiles:
            each.statistics.end_pass()


def medians(of: Callable[[Columns], Values]) -> Quantiles:
    """The median of values that are returned for every block."""

    def selected(columns: Columns) -> tuple[Groups, Values]:
        values = of(columns)
        return np.zeros(len(values), dtype=np.int64), values

    return Quantiles(OrderStatistics(1, middle), selected)


class RowQuantiles:
    """The order statistics that a report tells.

    Args:
        labels: the true classes that occur, ascending.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        self._labels = np.array(labels, dtype=np.int64)
        self.distance = medians(lambda rows: rows.distance[rows.attacked & rows.known])
        self.ratio = medians(lambda rows: rows.ratio[rows.attacked & rows.has_ratio])
        self.inflation = medians(lambda rows: rows.ratio[rows.attacked & (rows.radius > 0)])
        far = OrderStatistics(1, lambda count: [math.ceil((count - 1) * _FAR)])
        self.far = Quantiles(far, lambda rows: (np.zeros(int(rows.known.sum()), np.int64), rows.distance[rows.known]))
        self.radii = self._by_class(lambda rows: (credited(rows), np.ones(len(rows), dtype=np.bool_)), _spread)
        self.distances = self._by_class(lambda rows: (rows.distance, rows.attacked & rows.correct), _spread)
        self.class_distance = self._by_class(
            lambda rows: (rows.distance, rows.attacked & rows.correct & rows.known), middle
        )
        self.class_ratio = self._by_class(
            lambda rows: (rows.ratio, rows.attacked & rows.correct & rows.has_ratio), middle
        )

    def all(self) -> list[Quantiles]:
        """Return all of them."""
        return [value for value in vars(self).values() if isinstance(value, Quantiles)]

    def _by_class(
        self,
        values_of: Callable[[Columns], tuple[NDArray[np.float64], NDArray[np.bool_]]],
        ranks: Callable[[int], Sequence[int]],
    ) -> Quantiles:
        def selected(columns: Columns) -> tuple[Groups, Values]:
            values, chosen = values_of(columns)
            return np.searchsorted(self._labels, columns.label[chosen]), values[chosen]

        return Quantiles(OrderStatistics(len(self._labels), ranks), selected)


def _spread(count: int) -> list[int]:
    return [math.floor(share * (count - 1)) for share in QUANTILES]


def numbers_of_blocks(blocks: Blocks, counts: Counts, quantiles: RowQuantiles) -> Numbers:
    """Return the numbers of a report.

    Args:
        blocks: the rows; they are gone through once more, for the curves.
        counts: of these rows.
        quantiles: of these rows, settled.
    """
    return Numbers(
        samples=counts.samples,
        attacked=counts.attacked,
        found=counts.found,
        violated=counts.violated,
        uncertified=counts.uncertified,
        clean_accuracy=_share(counts.right, counts.samples),
        average_certified_radius=counts.radii.total() / counts.samples if counts.samples else None,
        accuracies=_accuracies(counts),
        median_distance=quantiles.distance.statistics.median(0),
        smallest_ratio=counts.nearest if quantiles.ratio.statistics.count(0) else None,
        median_ratio=quantiles.ratio.statistics.median(0),
        power=_power(counts, quantiles),
        refuted=tuple((counts.refuted / counts.certificates).tolist()) if counts.certificates else None,
        refuted_at_one_more=None if counts.grid is None else _share(counts.at_one_more, counts.certificates),
        curves=_curves(blocks, counts, quantiles),
        classes=tuple(_class_row(number, label, counts, quantiles) for number, label in enumerate(counts.labels)),
    )


def tried(counts: Counts, numbers: Numbers, *, one_more: int | None) -> Tried:
    """Return what caveats rest on."""
    return Tried(
        samples=counts.samples,
        right=counts.right,
        attacked=counts.attacked,
        missed=counts.missed,
        empty=counts.empty,
        boundary=counts.boundary,
        power=numbers.power,
        noticed=numbers.share_refuted(WEAK) if one_more is None else numbers.refuted_at_one_more,
    )


def _share(hits: int, of: int) -> float | None:
    return hits / of if of else None


def _accuracies(counts: Counts) -> tuple[AccuracyRow, ...]:
    columns = (counts.certified.tolist(), counts.attacked_certified.tolist(), counts.standing.tolist())
    return tuple(
        AccuracyRow(
            epsilon, _share(certified, counts.samples), _share(also, counts.attacked), _share(stood, counts.attacked)
        )
        for epsilon, certified, also, stood in zip(counts.epsilons, *columns, strict=True)
    )


def _power(counts: Counts, quantiles: RowQuantiles) -> Power | None:
    if not counts.certificates:
        return None
    half = quantiles.inflation.statistics.median(0)
    return Power(
        certificates=counts.certificates,
        smallest=counts.nearest if math.isfinite(counts.nearest) else None,
        median=half if half is not None and math.isfinite(half) else None,
        shares=tuple((counts.inflated / counts.certificates).tolist()),
    )


def _curves(blocks: Blocks, counts: Counts, quantiles: RowQuantiles) -> Curves:
    (far,) = quantiles.far.statistics.of(0) or (0.0,)
    budgets = curve_budgets(max(far, counts.longest, *counts.epsilons) or 1.0)
    below, broken = np.zeros(len(budgets), dtype=np.int64), np.zeros(len(budgets), dtype=np.int64)
    for columns in blocks():
        below += np.searchsorted(np.sort(certified_up_to(columns)), budgets, side="left")
        broken += np.searchsorted(np.sort(unbroken_up_to(columns)[columns.attacked]), budgets, side="right")
    return Curves(
        tuple(budgets.tolist()),
        tuple((1 - below / counts.samples).tolist()),
        tuple((1 - broken / counts.attacked).tolist()) if counts.attacked else None,
    )


def _class_row(number: int, label: int, counts: Counts, quantiles: RowQuantiles) -> ClassRow:
    samples = counts.classes[label, "samples"]
    return ClassRow(
        label=label,
        samples=samples,
        accuracy=counts.classes[label, "right"] / samples,
        mean=counts.radii.of(label) / samples,
        radii=quantiles.radii.statistics.of(number),
        attacked=counts.classes[label, "attacked"],
        median_distance=quantiles.class_distance.statistics.median(number),
        median_ratio=quantiles.class_ratio.statistics.median(number),
        distances=quantiles.distances.statistics.of(number),
        turns_into=tuple(sorted(counts.became.get(label, {}).items(), key=lambda item: (-item[1], item[0]))),
    )
