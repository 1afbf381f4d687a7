"""Accuracy over epsilon, and distance over radius: the report's two main figures, drawn from the rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lipcert.harness.power import ratios
from lipcert.harness.result import SampleRow
from lipcert.report import cloud, measures, svg
from lipcert.report.display import norm_name, percent_down, percent_up, rounded_down, rounded_up

POINTS = 401


def accuracy_figure(
    rows: Sequence[SampleRow], epsilons: Sequence[float], *, norm: str = "l2", certified: bool = True
) -> Markup:
    """Certified and empirical accuracy over epsilon; the true robust accuracy lies in the band between them.

    The band compares like with like: both of its edges belong to the attacked samples. Where these are only some of
    the samples, the certified accuracy of all samples is a curve of its own.

    Args:
        rows: all rows.
        epsilons: the budgets to mark on the curves.
        norm: of the budgets.
        certified: whether anything was certified; without it there is one curve and no band.
    """
    attacked = measures.attacked_rows(rows)
    budgets = np.linspace(0, measures.longest_budget(rows, epsilons) * 1.05, POINTS)
    marks = np.array(sorted(epsilons), dtype=np.float64)
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH, svg.HEIGHT)
        label = f"epsilon ({norm_name(norm)})"
        axes = figure.add_subplot(xlabel=label, ylabel="accuracy", xlim=(0, budgets[-1]), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        if attacked:
            _draw_empirical(axes, attacked, budgets, marks)
        if attacked and certified:
            _draw_band(axes, attacked, budgets, marks)
        if certified and len(attacked) < len(rows):
            colour, line = (svg.INK, ":") if attacked else (svg.CERTIFIED, "-")
            label = f"certified, all {len(rows):,} samples"
            axes.plot(budgets, measures.certified_curve(rows, budgets), color=colour, linestyle=line, label=label)
            axes.plot(marks, measures.certified_curve(rows, marks), "o", markersize=4, color=colour)
        figure.legend(loc="outside lower center", ncols=1, fontsize=9)
        return svg.inline_svg(figure, name="accuracy", alt=_accuracy_alt(rows, epsilons, certified=certified))


def distance_figure(rows: Sequence[SampleRow], *, norm: str = "l2") -> Markup:
    """Attack distance over certified radius with the diagonal that a sound certificate keeps it above.

    Many samples are counted in cells, so that ten thousand weigh no more than a few hundred.

    Args:
        rows: all rows; those with a radius and a distance are drawn.
        norm: of radii and distances.
    """
    drawn = [row for row in rows if row.attacked and row.distance is not None and _both_finite(row)]
    limit_x = max((row.radius for row in drawn), default=0.0) * 1.15 or 1.0
    limit_y = max(limit_x, max((row.distance or 0.0 for row in drawn), default=0.0) * 1.08)
    name = norm_name(norm)
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH, svg.HEIGHT)
        axes = figure.add_subplot(
            xlabel=f"certified radius ({name})",
            ylabel=f"distance found by attack ({name})",
            xlim=(0, limit_x),
            ylim=(0, limit_y),
        )
        axes.fill_between([0, limit_x], [0, limit_x], color=svg.BAD, alpha=0.12, linewidth=0)
        for ratio in (1, 2, 5, 10):
            _draw_ray(axes, ratio, limit_x, limit_y)
        for violated, look in ((False, cloud.STOOD), (True, cloud.REFUTED)):
            part = [row for row in drawn if row.violated == violated]
            cloud.draw(axes, _points(part), look, above_diagonal=not violated)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        return svg.inline_svg(figure, name="distance", alt=_distance_alt(rows, drawn))


def _draw_empirical(
    axes: Axes, attacked: Sequence[SampleRow], budgets: NDArray[np.float64], marks: NDArray[np.float64]
) -> None:
    label = f"under attack, {len(attacked):,} attacked samples"
    curve = measures.empirical_curve(attacked, budgets)
    axes.plot(budgets, curve, color=svg.EMPIRICAL, linestyle="--", label=label)
    axes.plot(marks, measures.empirical_curve(attacked, marks), "s", markersize=4.5, color=svg.EMPIRICAL)


def _draw_band(
    axes: Axes, attacked: Sequence[SampleRow], budgets: NDArray[np.float64], marks: NDArray[np.float64]
) -> None:
    certified, empirical = measures.certified_curve(attacked, budgets), measures.empirical_curve(attacked, budgets)
    sound = not any(row.violated for row in attacked)
    label = "the truth lies in this band" if sound else "between claim and attack"
    axes.fill_between(budgets, certified, empirical, color=svg.MUTED, alpha=0.18, linewidth=0, label=label)
    axes.plot(budgets, certified, color=svg.CERTIFIED, label=f"certified, {len(attacked):,} attacked samples")
    axes.plot(marks, measures.certified_curve(attacked, marks), "o", markersize=4.5, color=svg.CERTIFIED)


def _draw_ray(axes: Axes, ratio: int, limit_x: float, limit_y: float) -> None:
    end = min(limit_x, limit_y / ratio)
    solid = ratio == 1
    axes.plot(
        [0, end],
        [0, ratio * end],
        color=svg.INK if solid else svg.MUTED,
        linewidth=1.5 if solid else 0.8,
        linestyle="-" if solid else (0, (5, 4)),
        label="distance = radius; below it is certified" if solid else None,
    )
    note = "\N{MULTIPLICATION SIGN}" + str(ratio)
    inside = end == limit_x
    axes.annotate(
        note,
        (end, ratio * end),
        xytext=(3, 0) if inside else (0, 2),
        textcoords="offset points",
        ha="left" if inside else "center",
        va="center" if inside else "bottom",
        color=svg.MUTED,
        fontsize=9,
        annotation_clip=False,
    )


def _points(rows: Sequence[SampleRow]) -> NDArray[np.float64]:
    return np.array([(row.radius, row.distance) for row in rows], dtype=np.float64).reshape(-1, 2)


def _both_finite(row: SampleRow) -> bool:
    return math.isfinite(row.radius) and row.distance is not None and math.isfinite(row.distance)


def _accuracy_alt(rows: Sequence[SampleRow], epsilons: Sequence[float], *, certified: bool) -> str:
    attacked = measures.attacked_rows(rows)
    points = []
    for epsilon in epsilons:
        parts = []
        if certified:
            parts.append(f"certified {percent_down(measures.certified_accuracy(rows, epsilon))}")
        if certified and attacked:
            parts.append(f"of the attacked samples {percent_down(measures.certified_accuracy(attacked, epsilon))}")
        if attacked:
            parts.append(f"under attack {percent_up(measures.empirical_accuracy(rows, epsilon))}")
        points.append(f"at {epsilon:g} {', '.join(parts)}")
    return f"Accuracy curves over epsilon: {'; '.join(points)}."


def _distance_alt(rows: Sequence[SampleRow], drawn: Sequence[SampleRow]) -> str:
    refuted = sum(row.violated for row in drawn)
    where = f"{refuted} below the diagonal: refuted" if refuted else "none below the diagonal"
    spread = ""
    if found := ratios(rows):
        spread = f" Distance over radius is between {rounded_down(min(found))} and {rounded_up(max(found))}."
    return f"Scatter of attack distance over certified radius for {len(drawn):,} samples, {where}.{spread}"
