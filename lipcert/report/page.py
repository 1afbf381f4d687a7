"""An audit as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lipcert.harness.result import AuditResult, SampleRow
from lipcert.report import display, figures, gallery, measures
from lipcert.report.document import INFLATIONS, all_warnings

MAX_TABLE_ROWS = 50
MAX_PICTURES = 24


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """Accuracies at one epsilon; the attacked ones are None if nothing was attacked."""

    epsilon: float
    certified: float | None
    attacked_certified: float | None
    attacked_empirical: float | None


@dataclass(frozen=True, slots=True)
class InflationRow:
    """Which share of the attacked certificates would have been refuted, had all radii been this much larger."""

    inflation: float
    share: float | None


def render_html(result: AuditResult) -> str:
    """The report as one HTML file that opens offline: styles, figures and images lie inside it.

    Everything that the audit was handed (names, commands, warnings) is escaped. The same result gives the same text.

    Args:
        result: what the audit measured; at least one row.
    """
    return _environment().get_template("report.html.j2").render(_context(result))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lipcert", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        down=display.rounded_down,
        up=display.rounded_up,
        percent_down=display.percent_down,
        percent_up=display.percent_up,
        number=display.number_key,
        count=lambda value: f"{value:,}",
        setting=_setting,
    )
    return environment


def _context(result: AuditResult) -> dict[str, Any]:
    rows = result.rows
    attacked = measures.attacked_rows(rows)
    refuted = frozenset(row.index for row in result.violations)
    pictures = sorted(result.gallery, key=lambda item: item.index not in refuted)
    return {
        "result": result,
        "attacked": attacked,
        "found": sum(row.distance is not None for row in attacked),
        "uncertified": sum(row.radius <= 0 for row in rows),
        "clean_accuracy": measures.clean_accuracy(rows),
        "average_certified_radius": measures.average_certified_radius(rows),
        "smallest_ratio": measures.smallest_ratio(rows),
        "median_ratio": measures.median_ratio(rows),
        "accuracies": _accuracies(result, attacked),
        "inflations": [InflationRow(factor, measures.share_refuted(rows, factor)) for factor in INFLATIONS],
        "comparison": _tightest(attacked)[:MAX_TABLE_ROWS],
        "violations": result.violations[:MAX_TABLE_ROWS],
        "refuted": refuted,
        "adversarial_classes": {item.index: item.adversarial_prediction for item in result.gallery},
        "classes": measures.radii_by_class(rows),
        "classes_drawn": figures.MAX_CLASSES_DRAWN,
        "pictures": [gallery.picture(item) for item in pictures[:MAX_PICTURES]],
        "colour_bar": gallery.colour_bar(),
        "warnings": all_warnings(result),
        "class_name": lambda label: figures.class_name(label, result.class_names),
        "accuracy_figure": figures.accuracy_figure(rows, result.epsilons),
        "distance_figure": figures.distance_figure(rows),
        "class_figure": figures.class_figure(rows, result.class_names),
    }


def _accuracies(result: AuditResult, attacked: Sequence[SampleRow]) -> list[AccuracyRow]:
    return [
        AccuracyRow(
            epsilon=epsilon,
            certified=measures.certified_accuracy(result.rows, epsilon),
            attacked_certified=measures.certified_accuracy(attacked, epsilon),
            attacked_empirical=measures.empirical_accuracy(attacked, epsilon),
        )
        for epsilon in sorted(result.epsilons)
    ]


def _tightest(rows: Sequence[SampleRow]) -> list[SampleRow]:
    """Refuted certificates first, then by rising ratio; samples without a ratio last."""
    return sorted(rows, key=lambda row: (not row.violated, math.inf if row.ratio is None else row.ratio, row.index))


def _setting(value: float | str) -> str:
    """An attack's parameter as text: numbers short and exact, anything else as it is."""
    return display.number_key(value) if isinstance(value, float) else str(value)
