"""Which samples an audit attacks, and in which order: pure functions of what is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lipcert.errors import InputError
from lipcert.harness.result import SampleRow

Which = Literal["all", "certified", "missed"]

WHICH: tuple[Which, ...] = get_args(Which)


def first_correct_of_each_class(labels: Tensor, prediction: Tensor, radius: Tensor | None = None) -> Tensor:
    """Return the position of the first correctly classified sample of every class that has one, by class.

    Args:
        labels: ``(N,)`` int64 true classes.
        prediction: ``(N,)`` int64 predicted classes.
        radius: ``(N,)`` certified radii: where a class has one above 0, its first sample that has.

    Returns:
        int64 positions, at most one a class.

    Example:
        >>> labels, prediction = torch.tensor([1, 0, 0, 0, 2]), torch.tensor([1, 1, 0, 0, 0])
        >>> first_correct_of_each_class(labels, prediction).tolist()
        [2, 0]
        >>> first_correct_of_each_class(labels, prediction, torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])).tolist()
        [3, 0]
    """
    right = labels == prediction
    found = []
    for label in labels.unique(sorted=True):
        places = (right & (labels == label)).nonzero().flatten()
        certified = places if radius is None else places[radius[places] > 0]
        found.append((certified if len(certified) else places)[:1])
    return torch.cat(found)


def checked_positions(positions: Tensor, samples: int) -> Tensor:
    """Return the positions if they are a non-empty choice of the samples, each taken at most once.

    Raises:
        InputError: empty, out of range, repeated, or not int64.
    """
    if positions.dtype != torch.int64 or positions.ndim != 1 or len(positions) == 0:
        found = f"{positions.dtype} of shape {tuple(positions.shape)}"
        raise InputError(f"expected at least one sample to attack, as int64 positions (M,), got {found}")
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= samples:
        raise InputError(f"expected sample positions from 0 to {samples - 1}, got {low} to {high}")
    if len(positions.unique()) < len(positions):
        raise InputError("expected every sample position once, got one twice")
    return positions


def most_promising(
    rows: Sequence[SampleRow],
    positions: Sequence[int],
    *,
    which: Which = "all",
    share: float = 1.0,
    least: int = 1,
    epsilon: float | None = None,
) -> list[int]:
    """Return the samples on which an attack is worth its passes, those first where refutation is most likely.

    Certificates that stand come first, by the smallest distance over radius known; where none is known, in the order
    of ``positions``. Samples of radius 0 have nothing to refute and come after them, by distance, and certificates that
    are refuted already come last.

    Args:
        rows: what is known of every sample.
        positions: samples to choose from.
        which: all of them, those with a radius above 0, or those without an adversarial example.
        share: how much of them, rounded up.
        least: how many in any case, if there are so many.
        epsilon: leaves out what has an adversarial example within it.

    Returns:
        Positions.

    Example:
        >>> found = [None, 0.5, 0.25]
        >>> rows = [SampleRow(index, 3, 3, 0.1, distance=distance) for index, distance in enumerate(found)]
        >>> most_promising(rows, [0, 1, 2]), most_promising(rows, [0, 1, 2], share=0.5, epsilon=0.3)
        ([2, 1, 0], [1])
    """
    wanted = _WANTED[which]
    chosen = [place for place in positions if wanted(rows[place]) and _stands_at(rows[place], epsilon)]
    ranked = sorted(chosen, key=lambda place: _promise(rows[place]))
    return ranked[: max(least, math.ceil(share * len(ranked)))]


def chunks(positions: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Cut positions into chunks of a size, the last one smaller.

    Example:
        >>> chunks([5, 3, 4], 2)
        [(5, 3), (4,)]
    """
    return [tuple(positions[begin : begin + size]) for begin in range(0, len(positions), size)]


def worth_showing(rows: Sequence[SampleRow], count: int) -> list[int]:
    """Return the refuted samples, all of them, filled up with the most promising others that have an example.

    Args:
        rows: every sample of the split.
        count: how many samples are wanted if fewer are refuted.

    Returns:
        Positions in the order of the split.

    Example:
        >>> rows = [SampleRow(index, 3, 3, 0.1, distance=0.5 - 0.1 * index) for index in range(3)]
        >>> worth_showing(rows, 2), worth_showing([*rows, SampleRow(3, 3, 3, 0.1)], 9)
        ([1, 2], [0, 1, 2])
    """
    found = [place for place, row in enumerate(rows) if row.distance is not None]
    refuted = [place for place in found if rows[place].violated]
    others = most_promising(rows, [place for place in found if not rows[place].violated])
    return sorted(refuted + others[: max(0, count - len(refuted))])


_WANTED: Mapping[Which, Callable[[SampleRow], bool]] = {
    "all": lambda row: True,
    "certified": lambda row: row.radius > 0,
    "missed": lambda row: row.distance is None,
}


def _stands_at(row: SampleRow, epsilon: float | None) -> bool:
    return epsilon is None or row.distance is None or row.distance > epsilon


def _promise(row: SampleRow) -> tuple[bool, bool, float, float]:
    """Sorts the samples by what more passes are worth on them; equal ones stay in their order."""
    ratio = math.inf if row.ratio is None else row.ratio
    return row.violated, row.radius == 0, ratio, math.inf if row.distance is None else row.distance
