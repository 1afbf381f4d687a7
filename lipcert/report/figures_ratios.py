"""How tight the certificates are and how strong the attacks: two views of the ratios of distance to radius."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from lipcert.harness.power import INFLATIONS, median_ratio, power, ratios, share_refuted
from lipcert.harness.result import SampleRow
from lipcert.report import svg
from lipcert.report.display import percent_down, rounded_down, rounded_up

BARS = 30
BEYOND = 10.0
"""Ratios are drawn up to 95 % of them, or up to this if that is more; the last bar holds the rest."""
FACTORS = tuple(round(1 + step / 20, 2) for step in range(81))
"""Inflations at which the power curve is drawn: 1 to 5."""
TICKS = (0.1, 0.2, 0.5, 0.7, 1, 1.2, 1.5, 2, 3, 5, 7, 10, 20, 50, 100, 200, 500, 1000)


def tightness_figure(rows: Sequence[SampleRow]) -> Markup:
    """Histogram of distance over radius; at least one sample has both.

    Args:
        rows: all rows; those with a radius and a distance are counted.
    """
    found = np.array(ratios(rows))
    edges = bar_edges(found)
    counts, _ = np.histogram(np.clip(found, edges[0], edges[-1]), bins=edges)
    middle = median_ratio(rows)
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH, 3.2)
        axes = figure.add_subplot(xlabel="distance / radius, logarithmic", ylabel="samples", xscale="log")
        axes.grid(visible=False, axis="x")
        for stood, colour, hatch in ((True, svg.CERTIFIED, None), (False, svg.BAD, "xx")):
            held = (edges[:-1] >= 1) == stood
            axes.bar(
                edges[:-1][held],
                counts[held],
                np.diff(edges)[held],
                align="edge",
                facecolor=colour if stood else "none",
                edgecolor=svg.PAPER if stood else colour,
                hatch=hatch,
                linewidth=0.6,
            )
        axes.axvline(1, color=svg.INK, linewidth=1.5)
        axes.axvline(middle or 1, color=svg.EMPIRICAL, linewidth=1.5, linestyle="--")
        _label_top(axes, middle or 1, f"median {rounded_down(middle)}", svg.EMPIRICAL)
        axes.set_xlim(edges[0] * 0.97, edges[-1])
        _plain_ticks(axes)
        return svg.inline_svg(figure, name="tightness", alt=_tightness_alt(found))


def power_figure(rows: Sequence[SampleRow]) -> Markup:
    """Share of the attacked certificates that would have been refuted, over the inflation of the radii.

    Args:
        rows: all rows; at least one with a radius above 0 was attacked.
    """
    found = power(rows)
    half = found.median if found else None
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH, 3.2)
        axes = figure.add_subplot(
            xlabel="all radii multiplied by",
            ylabel="certificates refuted",
            xlim=(1, INFLATIONS[-1]),
            ylim=(0, 1.02),
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.plot(FACTORS, refuted_curve(rows), color=svg.CERTIFIED)
        shares = [share_refuted(rows, factor) or 0.0 for factor in INFLATIONS]
        axes.plot(INFLATIONS, shares, "o", markersize=4.5, color=svg.CERTIFIED)
        axes.axhline(0.5, color=svg.MUTED, linewidth=0.9, linestyle=(0, (5, 4)))
        if half is not None and 1 <= half < INFLATIONS[-1]:
            axes.plot([half], [0.5], "D", markersize=7, color=svg.EMPIRICAL)
            note = f"half of them at {rounded_up(half)}"
            late = half > 3
            axes.annotate(
                note,
                (half, 0.5),
                xytext=(-8 if late else 8, -12),
                textcoords="offset points",
                ha="right" if late else "left",
                color=svg.INK,
                fontsize=9,
            )
        return svg.inline_svg(figure, name="power", alt=_power_alt(rows))


def last_drawn(ratios: NDArray[np.float64]) -> float:
    """The largest ratio with a bar of its own."""
    return max(BEYOND, float(np.quantile(ratios, 0.95, method="higher")))


def bar_edges(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of the bars, evenly spaced in the logarithm below 1 and above it: no bar holds ratios from both sides.

    Args:
        ratios: at least one.
    """
    low = max(min(1.0, float(ratios.min())), 1e-3)
    high = max(min(float(ratios.max()), last_drawn(ratios)), 1.5)
    below = max(1, round(BARS * np.log(low) / np.log(low / high))) if low < 1 else 0
    upper = np.geomspace(1, high, BARS - below + 1)
    return np.concatenate([np.geomspace(low, 1, below + 1)[:-1], upper]) if below else upper


def refuted_curve(rows: Sequence[SampleRow]) -> list[float]:
    """Share of the attacked certificates that would have been refuted, at each of ``FACTORS``."""
    return [share_refuted(rows, factor) or 0.0 for factor in FACTORS]


def _label_top(axes: Axes, place: float, text: str, colour: str) -> None:
    axes.annotate(
        text,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -2),
        textcoords="offset points",
        va="top",
        color=colour,
        fontsize=9,
    )


def _plain_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _tightness_alt(ratios: NDArray[np.float64]) -> str:
    quartiles = [rounded_down(float(np.quantile(ratios, share, method="lower"))) for share in (0, 0.25, 0.5, 0.75, 1)]
    below = int((ratios < 1).sum())
    where = f"{below:,} below 1: refuted" if below else "none below 1"
    return (
        f"Histogram of distance over radius for {len(ratios):,} samples, {where}. Smallest {quartiles[0]}, quartiles "
        f"{quartiles[1]}, {quartiles[2]} and {quartiles[3]}, largest {quartiles[4]}."
    )


def _power_alt(rows: Sequence[SampleRow]) -> str:
    points = [f"{percent_down(share_refuted(rows, factor))} at {factor:g}" for factor in INFLATIONS]
    return f"Share of the attacked certificates refuted over the inflation of the radii: {', '.join(points)}."
