"""Many points in a figure: each a mark of its own, or counted in cells where there are too many to tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Polygon
from matplotlib.path import Path
from numpy.typing import NDArray

from lipcert.report import svg

MAX_MARKS = 800
COLUMNS, ROWS = 72, 54
OPACITIES = (0.28, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Look:
    """How the points of one kind are drawn.

    Attributes:
        colour: one of the page's.
        marker: of a single point.
        size: of a single point, in points, where there are few.
        label: what the points are, for the legend.
    """

    colour: str
    marker: str
    size: float
    label: str


STOOD = Look(svg.CERTIFIED, "o", 6, "stood")
REFUTED = Look(svg.BAD, "X", 9, "REFUTED")


def draw(axes: Axes, points: NDArray[np.float64], look: Look, *, above_diagonal: bool) -> None:
    """Draw points ``(N, 2)`` into axes whose limits are set and start at 0.

    Args:
        axes: where to.
        points: horizontal and vertical position of each.
        look: how.
        above_diagonal: on which side of the diagonal all points lie. A cell that the diagonal cuts is drawn on that
            side only, so that no sample seems to be on the other one.
    """
    if not len(points):
        return
    if len(points) <= MAX_MARKS:
        size = look.size if len(points) <= 100 else look.size / 2
        axes.plot(*points.T, look.marker, markersize=size, color=look.colour, label=look.label)
        return
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    limits = [(0, right), (0, top)]
    counts, across, up = np.histogram2d(points[:, 0], points[:, 1], bins=[COLUMNS, ROWS], range=limits)
    side = [(0, 0), (right, right), (right, top), (0, top)] if above_diagonal else [(0, 0), (right, right), (right, 0)]
    for (low, high), opacity in zip(levels(int(counts.max())), OPACITIES, strict=False):
        cells = np.argwhere((counts >= low) & (counts <= high))
        if not len(cells):
            continue
        number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        patch = PathPatch(
            _rectangles(across[cells[:, 0]], across[cells[:, 0] + 1], up[cells[:, 1]], up[cells[:, 1] + 1]),
            facecolor=look.colour,
            alpha=opacity,
            linewidth=0,
            label=f"{look.label}, {number} a cell",
        )
        axes.add_patch(patch)
        patch.set_clip_path(Polygon(side, closed=True, transform=axes.transData))


def levels(most: int) -> tuple[tuple[int, int], ...]:
    """Up to four ranges of counts, each about as many times larger than the one before, from 1 to ``most``.

    Example:
        >>> levels(1), levels(3), levels(200)
        (((1, 1),), ((1, 1), (2, 2), (3, 3)), ((1, 4), (5, 14), (15, 53), (54, 200)))
    """
    steps = len(OPACITIES)
    ends = sorted({round(most ** ((step + 1) / steps)) for step in range(steps)} | {most})
    return tuple(zip([1, *(end + 1 for end in ends[:-1])], ends, strict=True))


def _rectangles(
    left: NDArray[np.float64], right: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> Path:
    """All rectangles as one path: one element in the page, however many there are."""
    corners = np.stack([left, low, right, low, right, high, left, high, left, low], axis=1).reshape(-1, 2)
    codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(left))
    return Path(corners, codes.astype(Path.code_type))
