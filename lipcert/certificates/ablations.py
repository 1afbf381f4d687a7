"""Ablations: which pixels each view of an image retains, and which views a patch can touch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.errors import InputError

Size = int | tuple[int, int]
"""Height and width in pixels, or one number for both."""


@dataclass(frozen=True)
class Ablation(ABC):
    """Views of an image, each of which retains one window of it: the base of all kinds.

    With ``wrap`` windows start at every multiple of the stride and go on at the opposite edge. Without, they start
    there as long as they fit, and the last one touches the edge.

    Args:
        size: of what is retained, in pixels.
        stride: from one window to the next, in pixels.
        wrap: whether windows go on at the opposite edge.

    Raises:
        InputError: a setting is out of range.
    """

    size: Size
    stride: Size = 1
    wrap: bool = True

    def __post_init__(self) -> None:
        for setting, value in (("size", self.size), ("stride", self.stride)):
            if min(as_pair(value)) < 1:
                raise InputError(f"expected {setting} >= 1, got {value}")

    @abstractmethod
    def windows(self, height: int, width: int) -> Tensor:
        """Return what each of the V views retains: its window's first row, first column, height and width.

        Args:
            height: of the images.
            width: of the images.

        Returns:
            ``(V, 4)`` int64. A window that leaves the image goes on at the opposite edge.

        Raises:
            InputError: a window is larger than the images.
        """

    def masks(self, height: int, width: int) -> Tensor:
        """Return the pixels that each view retains, ``(V, height, width)`` bool.

        Example:
            >>> ColumnAblation(2).masks(1, 3).int().flatten(1).tolist()
            [[1, 1, 0], [0, 1, 1], [1, 0, 1]]
        """
        first_row, first_column, rows, columns = self.windows(height, width)[:, :, None].unbind(1)
        in_rows = (torch.arange(height) - first_row) % height < rows
        in_columns = (torch.arange(width) - first_column) % width < columns
        return in_rows[:, :, None] & in_columns[:, None, :]

    def hits(self, height: int, width: int, patch: Size) -> tuple[Tensor, Tensor]:
        """Return which windows have a row, and which have a column, in common with a patch at each of its places.

        Two arcs of a circle meet if and only if one of them holds the first point of the other; a patch does not wrap.

        Args:
            height: of the images.
            width: of the images.
            patch: its height and width.

        Returns:
            ``(P, V)`` bool for the P first rows of a patch, and ``(Q, V)`` bool for its Q first columns.

        Raises:
            InputError: a window or the patch is larger than the images.
        """
        down, across = as_pair(patch)
        if min(down, across) < 1 or down > height or across > width:
            raise InputError(f"expected a patch within images of {height} x {width}, got {down} x {across}")
        first_row, first_column, rows, columns = self.windows(height, width).unbind(1)
        return (
            _arcs_meet(torch.arange(height - down + 1)[:, None], down, first_row, rows, height),
            _arcs_meet(torch.arange(width - across + 1)[:, None], across, first_column, columns, width),
        )

    def affected(self, height: int, width: int, patch: Size) -> Tensor:
        """Return the views that see at least one pixel of a patch, for each of its places.

        Args:
            height: of the images.
            width: of the images.
            patch: its height and width.

        Returns:
            ``(L, V)`` bool; the places row by row, as the views' windows are.

        Raises:
            InputError: a window or the patch is larger than the images.

        Example:
            >>> ColumnAblation(19, stride=10).affected(224, 224, 32).sum(1).max()
            tensor(6)
        """
        in_rows, in_columns = self.hits(height, width, patch)
        return (in_rows[:, None] & in_columns).flatten(0, 1)


class ColumnAblation(Ablation):
    """Each view retains a band of columns, ``size`` pixels wide.

    Source: Levine and Feizi (2020), arXiv 2002.10733, section 3.2; the stride is of Salman et al. (2021),
    arXiv 2110.07719, whose count of affected views is too small where the stride does not divide the width.

    Example:
        >>> ColumnAblation(4, stride=2).windows(5, 6).tolist()
        [[0, 0, 5, 4], [0, 2, 5, 4], [0, 4, 5, 4]]
        >>> ColumnAblation(4, stride=3, wrap=False).windows(5, 9).tolist()
        [[0, 0, 5, 4], [0, 3, 5, 4], [0, 5, 5, 4]]
    """

    def windows(self, height: int, width: int) -> Tensor:
        """Return the bands, from left to right."""
        size = as_pair(self.size)[1]
        starts = _starts(width, size, as_pair(self.stride)[1], wrap=self.wrap, name="columns")
        return torch.tensor([[0, start, height, size] for start in starts])


class RowAblation(Ablation):
    """Each view retains a band of rows, ``size`` pixels high.

    Example:
        >>> len(RowAblation(2).windows(5, 9))
        5
    """

    def windows(self, height: int, width: int) -> Tensor:
        """Return the bands, from top to bottom."""
        size = as_pair(self.size)[0]
        starts = _starts(height, size, as_pair(self.stride)[0], wrap=self.wrap, name="rows")
        return torch.tensor([[start, 0, size, width] for start in starts])


class ColumnAndRowAblation(Ablation):
    """Each view retains a band of columns or a band of rows: ``size`` is the bands' width, or (rows, columns).

    Example:
        >>> ColumnAndRowAblation((1, 2), stride=2).windows(4, 4).tolist()
        [[0, 0, 4, 2], [0, 2, 4, 2], [0, 0, 1, 4], [2, 0, 1, 4]]
    """

    def windows(self, height: int, width: int) -> Tensor:
        """Return the bands of columns, then those of rows."""
        return torch.cat(
            [kind(self.size, self.stride, self.wrap).windows(height, width) for kind in (ColumnAblation, RowAblation)]
        )


class BlockAblation(Ablation):
    """Each view retains a block of ``size`` pixels, a square or (height, width).

    Source: Levine and Feizi (2020), arXiv 2002.10733, section 3.1.

    Example:
        >>> BlockAblation((1, 2), stride=2, wrap=False).windows(3, 4).tolist()
        [[0, 0, 1, 2], [0, 2, 1, 2], [2, 0, 1, 2], [2, 2, 1, 2]]
    """

    def windows(self, height: int, width: int) -> Tensor:
        """Return the blocks, row by row."""
        down, across = as_pair(self.size)
        step_down, step_across = as_pair(self.stride)
        rows = _starts(height, down, step_down, wrap=self.wrap, name="rows")
        columns = _starts(width, across, step_across, wrap=self.wrap, name="columns")
        corners = torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns))
        return torch.cat([corners, torch.tensor([[down, across]]).expand_as(corners)], dim=1)


def as_pair(size: Size) -> tuple[int, int]:
    """Return a height and a width.

    Example:
        >>> as_pair(2), as_pair((2, 3))
        ((2, 2), (2, 3))
    """
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def _starts(extent: int, size: int, stride: int, *, wrap: bool, name: str) -> list[int]:
    """Return the first pixels of the windows along one axis."""
    if size > extent:
        raise InputError(f"expected at most {extent} {name} to be retained in such images, got {size}")
    if wrap:
        return list(range(0, extent, stride))
    return [*range(0, extent - size, stride), extent - size]


def _arcs_meet(first: Tensor, length: int, other: Tensor, other_length: Tensor, extent: int) -> Tensor:
    return ((first - other) % extent < other_length) | ((other - first) % extent < length)
