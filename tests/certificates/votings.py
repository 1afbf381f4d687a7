"""What votes over ablated views are tested against: every change of votes that a patch can cause, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lipcert.certificates import (
    Ablation,
    BlockAblation,
    ColumnAblation,
    ColumnAndRowAblation,
    RowAblation,
)

SMALL: list[tuple[Ablation, tuple[int, int]]] = [
    (ColumnAblation(1), (2, 4)),
    (ColumnAblation(2), (3, 8)),
    (ColumnAblation(3, stride=2), (2, 13)),
    (ColumnAblation(2, stride=3), (2, 10)),
    (ColumnAblation(1, stride=2), (2, 8)),
    (ColumnAblation(2, wrap=False), (2, 9)),
    (ColumnAblation(2, stride=3, wrap=False), (3, 10)),
    (ColumnAblation(4), (1, 14)),
    (RowAblation(2), (5, 9)),
    (RowAblation(2, stride=3), (16, 3)),
    (RowAblation(1, wrap=False), (4, 6)),
    (ColumnAndRowAblation(1), (3, 5)),
    (ColumnAndRowAblation((2, 1), stride=2), (8, 7)),
    (ColumnAndRowAblation(2, wrap=False), (6, 7)),
    (BlockAblation(1), (2, 3)),
    (BlockAblation((2, 1), stride=(2, 1)), (3, 3)),
    (BlockAblation(2, stride=2), (5, 6)),
    (BlockAblation((1, 2), wrap=False), (2, 4)),
    (BlockAblation(2, stride=3, wrap=False), (4, 6)),
]
"""Ablations of every kind, with sizes of images."""


def name_of(case: object) -> str:
    """A readable id."""
    return "x".join(map(str, case)) if isinstance(case, tuple) else repr(case).replace(" ", "")


def patches(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Every size of a patch."""
    return list(itertools.product(*(range(1, extent + 1) for extent in image_size)))


def affected_by_pixels(ablation: Ablation, image_size: tuple[int, int], patch: tuple[int, int]) -> list[list[int]]:
    """The views that retain at least one pixel of a patch, place by place, pixel by pixel."""
    masks = ablation.masks(*image_size)
    (height, width), (down, across) = image_size, patch
    places = itertools.product(range(height - down + 1), range(width - across + 1))
    return [
        [view for view, mask in enumerate(masks) if mask[row : row + down, column : column + across].any()]
        for row, column in places
    ]


def ballots(num_classes: int, *, thresholded: bool) -> list[tuple[int, ...]]:
    """Every way in which a view can vote, as the classes that get a vote."""
    if not thresholded:
        return [(label,) for label in range(num_classes)]
    return [
        tuple(chosen) for size in range(num_classes + 1) for chosen in itertools.combinations(range(num_classes), size)
    ]


def elected(votes: Sequence[tuple[int, ...]], num_classes: int) -> int:
    """The class with the most votes, the first of several."""
    counts = [sum(label in ballot for ballot in votes) for label in range(num_classes)]
    return counts.index(max(counts))


def withstands(
    votes: Sequence[tuple[int, ...]], sets: Sequence[Sequence[int]], num_classes: int, *, thresholded: bool
) -> bool:
    """Whether no change of the votes in any one of the sets elects another class."""
    before = elected(votes, num_classes)
    for views in {tuple(views) for views in sets}:
        for cast in itertools.product(ballots(num_classes, thresholded=thresholded), repeat=len(views)):
            changed = list(votes)
            for view, ballot in zip(views, cast, strict=True):
                changed[view] = ballot
            if elected(changed, num_classes) != before:
                return False
    return True


def as_tensor(tables: Sequence[Sequence[tuple[int, ...]]], num_classes: int, *, thresholded: bool) -> Tensor:
    """The votes in the form that certificates take."""
    if not thresholded:
        return torch.tensor([[ballot[0] for ballot in votes] for votes in tables])
    return torch.tensor([[[label in ballot for label in range(num_classes)] for ballot in votes] for votes in tables])


def tables(
    views: int, num_classes: int, *, thresholded: bool, at_most: int, seed: int = 0
) -> list[tuple[tuple[int, ...], ...]]:
    """All tables of votes if they are not more than so many; otherwise some at random, most of them nearly agreed."""
    ways = ballots(num_classes, thresholded=thresholded)
    if len(ways) ** views <= at_most:
        return list(itertools.product(ways, repeat=views))
    return list(itertools.islice(_random_tables(ways, views, seed), at_most))


def _random_tables(ways: list[tuple[int, ...]], views: int, seed: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        agreed = int(torch.randint(len(ways), (), generator=generator))
        share = float(torch.rand((), generator=generator))
        others = torch.randint(len(ways), (views,), generator=generator).tolist()
        agree = (torch.rand(views, generator=generator) < share).tolist()
        yield tuple(ways[agreed if same else other] for same, other in zip(agree, others, strict=True))
