"""Radii, or distances where nothing is certified, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle

from lipcert.report import svg
from lipcert.report.classes import ClassRow, most_fragile
from lipcert.report.display import MISSING, norm_name, rounded_down, rounded_up

MAX_CLASSES_DRAWN = 30
MAX_CLASSES_CROSSED = 12


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, or its number where the data set does not name it.

    Example:
        >>> class_name(1, ("cat", "dog")), class_name(7, ("cat", "dog"))
        ('dog', 'class 7')
    """
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def class_figure(
    classes: Sequence[ClassRow], class_names: Sequence[str], *, norm: str = "l2", certified: bool = True
) -> Markup:
    """Certified radii per true class: quartile box, 5 to 95 % whiskers, median bar, mean dot.

    Args:
        classes: what is known of each; of many classes the most fragile ones are drawn.
        class_names: names of the classes.
        norm: of the radii.
        certified: whether anything was certified; without it distances are drawn, and no mean.
    """
    drawn = list(classes) if certified else [found for found in classes if found.distances]
    if len(drawn) > MAX_CLASSES_DRAWN:
        drawn = sorted(most_fragile(drawn, certified=certified)[:MAX_CLASSES_DRAWN], key=lambda found: found.label)
    names = [svg.short(class_name(found.label, class_names)) for found in drawn]
    places = np.arange(len(drawn))
    numbers = np.array([found.radii if certified else found.distances for found in drawn]).reshape(-1, 5)
    low, lower, middle, upper, high = np.where(np.isfinite(numbers), numbers, np.nan).T
    means = np.array([found.mean for found in drawn])
    what = "certified radius ({}), 0 where the class is wrong" if certified else "distance found by attack ({})"
    colour = svg.CERTIFIED if certified else svg.EMPIRICAL
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH, 0.9 + 0.3 * len(drawn))
        axes = figure.add_subplot(xlabel=what.format(norm_name(norm)))
        axes.grid(visible=False, axis="y")
        axes.hlines(places, low, high, color=colour, linewidth=1)
        axes.barh(places, upper - lower, left=lower, height=0.6, color=colour, alpha=0.35)
        axes.vlines(middle, places - 0.3, places + 0.3, color=colour, linewidth=2.5)
        if certified:
            axes.plot(np.where(np.isfinite(means), means, np.nan), places, "o", markersize=5, color=svg.INK)
        axes.set_yticks(places, labels=names)
        axes.set(xlim=(0, None), ylim=(len(drawn) - 0.4, -0.6))
        alt = _radius_alt(drawn, class_names) if certified else _distance_alt(drawn, class_names)
        return svg.inline_svg(figure, name="classes", alt=alt)


def turns_figure(classes: Sequence[ClassRow], class_names: Sequence[str]) -> Markup | None:
    """What every class turns into: true classes as rows, classes of the adversarial examples as columns, percentages.

    Args:
        classes: what is known of each.
        class_names: names of the classes.

    Returns:
        The figure; None where no adversarial class is known, or where there are more classes than it can show.
    """
    rows = [found for found in classes if found.turns_into]
    columns = sorted({label for found in rows for label, _ in found.turns_into} | {found.label for found in rows})
    if not rows or len(columns) > MAX_CLASSES_CROSSED:
        return None
    shares = np.zeros((len(rows), len(columns)))
    for place, found in enumerate(rows):
        for label, samples in found.turns_into:
            shares[place, columns.index(label)] = samples / sum(count for _, count in found.turns_into)
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH, 1.5 + 0.3 * len(rows))
        axes = figure.add_subplot()
        axes.grid(visible=False)
        for (row, column), share in np.ndenumerate(shares):
            if columns[column] == rows[row].label:
                axes.plot([column], [row], "_", markersize=5, color=svg.LINE)
            elif share > 0:
                # no darker than this, so that the number stays legible on it
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=svg.EMPIRICAL, alpha=0.6 * share, lw=0))
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8.5)
        names = [svg.short(class_name(label, class_names)) for label in columns]
        axes.set_xticks(range(len(columns)), labels=names, rotation=45, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), labels=[svg.short(class_name(found.label, class_names)) for found in rows])
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        return svg.inline_svg(figure, name="turns", alt=_turns_alt(rows, class_names))


def turns_text(found: ClassRow, class_names: Sequence[str], *, shown: int = 3) -> str:
    r"""The most frequent classes that a class turns into, with their shares.

    Example:
        >>> row = ClassRow(0, 9, 1.0, 0.5, (), 9, 1.0, 2.0, (), ((1, 6), (2, 2), (7, 1)))
        >>> turns_text(row, ("cat", "dog", "emu"), shown=2)
        'dog 67\xa0%, emu 22\xa0%, 1 other'
    """
    total = sum(samples for _, samples in found.turns_into)
    parts = [
        f"{class_name(label, class_names)} {100 * samples / total:.0f}\N{NO-BREAK SPACE}%"
        for label, samples in found.turns_into[:shown]
    ]
    rest = len(found.turns_into) - shown
    if rest > 0:
        parts.append(f"{rest} other{'s' if rest > 1 else ''}")
    return ", ".join(parts) or MISSING


def _radius_alt(classes: Sequence[ClassRow], class_names: Sequence[str]) -> str:
    parts = [f"{class_name(found.label, class_names)} {rounded_down(found.mean)}" for found in classes]
    return f"Mean certified radius per class: {', '.join(parts)}."


def _distance_alt(classes: Sequence[ClassRow], class_names: Sequence[str]) -> str:
    parts = [f"{class_name(found.label, class_names)} {rounded_up(found.median_distance)}" for found in classes]
    return f"Median distance of the nearest adversarial examples per class: {', '.join(parts)}."


def _turns_alt(classes: Sequence[ClassRow], class_names: Sequence[str]) -> str:
    parts = [f"{class_name(found.label, class_names)} into {turns_text(found, class_names)}" for found in classes]
    return f"What adversarial examples of each class are taken for: {'; '.join(parts)}."
