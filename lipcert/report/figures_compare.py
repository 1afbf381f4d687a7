"""Curves of several audits in one figure, told apart by line style and marker as well as by colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import PercentFormatter

from lipcert.report import svg
from lipcert.report.display import percent_down

LINES = ("-", "--", "-.", ":", (0, (7, 1.5, 1.5, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARKS = 8
"""Markers along a curve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One audit's shares over budgets or factors.

    Attributes:
        name: of the audit.
        place: its position on the page, which decides how its curves look.
        across: where the shares were taken, rising.
        shares: between 0 and 1, as many.
    """

    name: str
    place: int
    across: Sequence[float]
    shares: Sequence[float]


def overlay_figure(curves: Sequence[Curve], *, name: str, across: str, up: str, start: float = 0.0) -> Markup | None:
    """Several curves in one figure.

    Args:
        curves: of the audits that have one.
        name: of the figure, and prefix of its identifiers.
        across: what the horizontal axis is.
        up: what the vertical axis is, in percent.
        start: of the horizontal axis.

    Returns:
        The figure; None without curves.
    """
    if not curves:
        return None
    end = max(curve.across[-1] for curve in curves)
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH, svg.HEIGHT)
        axes = figure.add_subplot(xlabel=across, ylabel=up, xlim=(start, end), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        for curve in curves:
            step = max(1, len(curve.across) // MARKS)
            axes.plot(
                curve.across,
                curve.shares,
                color=svg.SERIES[curve.place % len(svg.SERIES)],
                linestyle=LINES[curve.place % len(LINES)],
                marker=MARKERS[curve.place % len(MARKERS)],
                markevery=(curve.place * step // len(curves) % step, step),
                markersize=5,
                label=svg.short(curve.name),
            )
        figure.legend(loc="outside lower center", ncols=2, fontsize=9, handlelength=3.2)
        return svg.inline_svg(figure, name=name, alt=_alt(curves, across, up))


def _alt(curves: Sequence[Curve], across: str, up: str) -> str:
    parts = []
    for curve in curves:
        places = np.linspace(0, len(curve.across) - 1, 5).round().astype(int)
        points = [f"{percent_down(curve.shares[place])} at {curve.across[place]:.3g}" for place in places]
        parts.append(f"{curve.name}: {', '.join(points)}")
    return f"{up} over {across}. {'; '.join(parts)}."
