"""The report's three figures, each drawn from the rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lipcert.harness.result import SampleRow
from lipcert.report import measures, svg
from lipcert.report.display import percent_down, percent_up, rounded_down, rounded_up

MAX_CLASSES_DRAWN = 30
_NAME_LENGTH = 22


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, or its number where the data set does not name it.

    Example:
        >>> class_name(1, ("cat", "dog")), class_name(7, ("cat", "dog"))
        ('dog', 'class 7')
    """
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def accuracy_figure(rows: Sequence[SampleRow], epsilons: Sequence[float]) -> Markup:
    """Certified and empirical accuracy over epsilon; the true robust accuracy lies in the band between them.

    The band compares like with like: both of its edges belong to the attacked samples. Where these are only some of
    the samples, the certified accuracy of all samples is a curve of its own.

    Args:
        rows: all rows.
        epsilons: the budgets to mark on the curves.
    """
    attacked = measures.attacked_rows(rows)
    budgets = np.linspace(0, _longest(rows, epsilons) * 1.05, 601)
    marks = np.array(sorted(epsilons), dtype=np.float64)
    with svg.report_style():
        figure = svg.new_figure(5.4, 4.1)
        axes = figure.add_subplot(xlabel="epsilon (L2)", ylabel="accuracy", xlim=(0, budgets[-1]), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        if attacked:
            _draw_band(axes, attacked, budgets, marks)
        if len(attacked) < len(rows):
            colour, line = (svg.INK, ":") if attacked else (svg.CERTIFIED, "-")
            label = f"certified, all {len(rows):,} samples"
            axes.plot(budgets, _certified_curve(rows, budgets), color=colour, linestyle=line, label=label)
            axes.plot(marks, _certified_curve(rows, marks), "o", markersize=4, color=colour)
        figure.legend(loc="outside lower center", ncols=1, fontsize=9)
        return svg.inline_svg(figure, name="accuracy", alt=_accuracy_alt(rows, epsilons))


def distance_figure(rows: Sequence[SampleRow]) -> Markup:
    """Attack distance over certified radius with the diagonal that a sound certificate keeps it above.

    Args:
        rows: all rows; those with a radius and a distance are drawn.
    """
    drawn = [row for row in rows if row.attacked and row.distance is not None and _both_finite(row)]
    limit_x = max((row.radius for row in drawn), default=0.0) * 1.15 or 1.0
    limit_y = max(limit_x, max((row.distance or 0.0 for row in drawn), default=0.0) * 1.08)
    with svg.report_style():
        figure = svg.new_figure(5.4, 4.1)
        axes = figure.add_subplot(
            xlabel="certified radius (L2)",
            ylabel="distance found by attack (L2)",
            xlim=(0, limit_x),
            ylim=(0, limit_y),
        )
        axes.fill_between([0, limit_x], [0, limit_x], color=svg.BAD, alpha=0.12, linewidth=0)
        for ratio in (1, 2, 5, 10):
            _draw_ray(axes, ratio, limit_x, limit_y)
        _draw_samples(axes, drawn)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        return svg.inline_svg(figure, name="distance", alt=_distance_alt(rows, drawn))


def class_figure(rows: Sequence[SampleRow], class_names: Sequence[str]) -> Markup:
    """Certified radii of all samples per true class: quartile box, 5 to 95 % whiskers, median bar, mean dot.

    Args:
        rows: all rows; a wrong prediction counts as radius 0.
        class_names: names of the classes; of many classes those with the smallest mean are drawn.
    """
    classes = measures.radii_by_class(rows)
    if len(classes) > MAX_CLASSES_DRAWN:
        weakest = sorted(classes, key=lambda found: found.mean)[:MAX_CLASSES_DRAWN]
        classes = tuple(sorted(weakest, key=lambda found: found.label))
    names = [_short(class_name(found.label, class_names)) for found in classes]
    places = np.arange(len(classes))
    drawn = np.array([(*found.quantiles, found.mean) for found in classes])
    low, lower, middle, upper, high, means = np.where(np.isfinite(drawn), drawn, np.nan).T
    with svg.report_style():
        figure = svg.new_figure(5.4, 0.9 + 0.3 * len(classes))
        axes = figure.add_subplot(xlabel="certified radius (L2), 0 where the class is wrong")
        axes.grid(visible=False, axis="y")
        axes.hlines(places, low, high, color=svg.CERTIFIED, linewidth=1)
        axes.barh(places, upper - lower, left=lower, height=0.6, color=svg.CERTIFIED, alpha=0.35)
        axes.vlines(middle, places - 0.3, places + 0.3, color=svg.CERTIFIED, linewidth=2.5)
        axes.plot(means, places, "o", markersize=5, color=svg.INK)
        axes.set_yticks(places, labels=names)
        axes.set(xlim=(0, None), ylim=(len(classes) - 0.4, -0.6))
        return svg.inline_svg(figure, name="classes", alt=_class_alt(classes, class_names))


def _draw_band(
    axes: Axes, attacked: Sequence[SampleRow], budgets: NDArray[np.float64], marks: NDArray[np.float64]
) -> None:
    certified, empirical = _certified_curve(attacked, budgets), _empirical_curve(attacked, budgets)
    who = f"{len(attacked):,} attacked samples"
    axes.plot(budgets, empirical, color=svg.EMPIRICAL, linestyle="--", label=f"under attack, {who}")
    axes.fill_between(
        budgets, certified, empirical, color=svg.MUTED, alpha=0.18, linewidth=0, label="the truth lies in this band"
    )
    axes.plot(budgets, certified, color=svg.CERTIFIED, label=f"certified, {who}")
    axes.plot(marks, _empirical_curve(attacked, marks), "s", markersize=4.5, color=svg.EMPIRICAL)
    axes.plot(marks, _certified_curve(attacked, marks), "o", markersize=4.5, color=svg.CERTIFIED)


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


def _draw_samples(axes: Axes, drawn: Sequence[SampleRow]) -> None:
    stood = [row for row in drawn if not row.violated]
    refuted = [row for row in drawn if row.violated]
    if stood:
        axes.plot(
            [row.radius for row in stood],
            [row.distance or 0.0 for row in stood],
            "o",
            markersize=6 if len(stood) <= 100 else 3,
            color=svg.CERTIFIED,
            label="certificate stood",
        )
    if refuted:
        axes.plot(
            [row.radius for row in refuted],
            [row.distance or 0.0 for row in refuted],
            "X",
            markersize=9,
            color=svg.BAD,
            label="certificate REFUTED",
        )


def _certified_curve(rows: Sequence[SampleRow], budgets: NDArray[np.float64]) -> NDArray[np.float64]:
    radii = np.sort(measures.certified_up_to(rows))
    return 1 - np.searchsorted(radii, budgets, side="left") / len(rows)


def _empirical_curve(rows: Sequence[SampleRow], budgets: NDArray[np.float64]) -> NDArray[np.float64]:
    breaks = np.sort(measures.unbroken_up_to(rows))
    return 1 - np.searchsorted(breaks, budgets, side="right") / len(rows)


def _longest(rows: Sequence[SampleRow], epsilons: Sequence[float]) -> float:
    lengths = [*epsilons, *(row.radius for row in rows), *(row.distance or 0.0 for row in rows)]
    return max((length for length in lengths if math.isfinite(length)), default=0.0) or 1.0


def _both_finite(row: SampleRow) -> bool:
    return math.isfinite(row.radius) and row.distance is not None and math.isfinite(row.distance)


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _accuracy_alt(rows: Sequence[SampleRow], epsilons: Sequence[float]) -> str:
    attacked = measures.attacked_rows(rows)
    points = []
    for epsilon in epsilons:
        point = f"at {epsilon:g} certified {percent_down(measures.certified_accuracy(rows, epsilon))}"
        if attacked:
            point += f", of the attacked samples {percent_down(measures.certified_accuracy(attacked, epsilon))}"
            point += f" certified and {percent_up(measures.empirical_accuracy(rows, epsilon))} under attack"
        points.append(point)
    return f"Accuracy curves over epsilon: {'; '.join(points)}."


def _distance_alt(rows: Sequence[SampleRow], drawn: Sequence[SampleRow]) -> str:
    refuted = sum(row.violated for row in drawn)
    where = f"{refuted} below the diagonal: refuted" if refuted else "none below the diagonal"
    spread = ""
    if found := measures.ratios(rows):
        spread = f" Distance over radius is between {rounded_down(min(found))} and {rounded_up(max(found))}."
    return f"Scatter of attack distance over certified radius for {len(drawn)} samples, {where}.{spread}"


def _class_alt(classes: Sequence[measures.ClassRadii], class_names: Sequence[str]) -> str:
    parts = [f"{class_name(found.label, class_names)} {rounded_down(found.mean)}" for found in classes]
    return f"Mean certified radius per class: {', '.join(parts)}."
