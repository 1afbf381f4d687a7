"""An audit as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from lipcert.harness.foreign import NO_RULE
from lipcert.harness.power import (
    INFLATIONS,
    median_ratio,
    power,
    ratios,
    share_refuted,
    share_refuted_at_one_more,
    smallest_ratio,
)
from lipcert.harness.result import AuditResult, SampleRow
from lipcert.report import cloud, figures, figures_classes, figures_ratios, gallery, measures
from lipcert.report.classes import ClassRow, class_rows, most_fragile
from lipcert.report.display import measured_in, norm_name, rounded_down, rounded_up
from lipcert.report.document import all_warnings
from lipcert.report.strength import RULES, RULES_BY_STEPS, STRONG, strength, strength_reason
from lipcert.report.templates import rendered

MAX_TABLE_ROWS = 20
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
    """The report as one HTML file that opens offline: styles, figures, images and a small script lie inside it.

    Everything that the audit was handed (names, commands, warnings) is escaped. The same result gives the same text.
    The script makes tables sortable; without it the page is complete. Of a network without certificates (rule
    ``"none"``) the page says so, and what makes no sense without them is left out.

    Args:
        result: what the audit measured; at least one row.
    """
    context = _subject(result) | _rows(result) | _ratios(result) | _classes(result) | _gallery(result)
    return rendered("report.html.j2", context | {"contents": _contents(context)})


def is_certified(result: AuditResult) -> bool:
    """Whether there was any certificate to attack."""
    return result.rule != NO_RULE


def _subject(result: AuditResult) -> dict[str, Any]:
    certified, attacked = is_certified(result), measures.attacked_rows(result.rows)
    failed = result.verdict == "fail"
    tone = "fail" if failed else "pass" if attacked and certified else "untested"
    return {
        "result": result,
        "certified": certified,
        "failed": failed,
        "tone": tone,
        "title": result.verdict.upper() if certified else "Not certified",
        "norm": norm_name(result.norm),
        "measured_in": measured_in(result.norm),
        "votes": result.grid is not None,
        "patches": result.norm == "patch",
        "refuted_ratio": "1 or below" if result.grid is not None else "below 1",
        "warnings": all_warnings(result),
        "refuted": frozenset(row.index for row in result.violations),
        "violations": _tightest(result.violations, certified=True)[:MAX_TABLE_ROWS],
        "class_name": lambda label: figures_classes.class_name(label, result.class_names),
    }


def _rows(result: AuditResult) -> dict[str, Any]:
    rows, certified = result.rows, is_certified(result)
    attacked = measures.attacked_rows(rows)
    distances = [row.distance for row in attacked if row.distance is not None]
    return {
        "attacked": attacked,
        "subset": len(attacked) < len(rows),
        "found": len(distances),
        "median_distance": median(distances) if distances else None,
        "uncertified": sum(row.radius <= 0 for row in rows),
        "clean_accuracy": measures.clean_accuracy(rows),
        "average_certified_radius": measures.average_certified_radius(rows),
        "accuracies": _accuracies(result, attacked),
        "accuracy_figure": figures.accuracy_figure(rows, result.epsilons, norm=result.norm, certified=certified),
        "comparison": _tightest(attacked, certified=certified)[:MAX_TABLE_ROWS],
        "attacks": sorted(result.attacks, key=lambda attack: -attack.won),
    }


def _ratios(result: AuditResult) -> dict[str, Any]:
    rows = result.rows
    one_more = measures.steps_of(result)
    found, grade, shown = power(rows), strength(rows, one_more=one_more), np.array(ratios(rows))
    rules = RULES if one_more is None else RULES_BY_STEPS
    last = figures_ratios.last_drawn(shown) if shown.size else math.inf
    return {
        "smallest_ratio": smallest_ratio(rows),
        "median_ratio": median_ratio(rows),
        "ratio_count": shown.size,
        "last_ratio": last,
        "beyond": int((shown > last).sum()),
        "binned": shown.size > cloud.MAX_MARKS,
        "distance_figure": figures.distance_figure(rows, norm=result.norm) if found else None,
        "tightness_figure": figures_ratios.tightness_figure(rows) if shown.size else None,
        "power": found,
        "strength": grade,
        "strength_reason": strength_reason(rows, one_more=one_more) if found else None,
        "strength_rule": rules[grade] if grade else None,
        "refuted_at_one_more": None if one_more is None else share_refuted_at_one_more(rows, one_more),
        "refuted_at_strong": share_refuted(rows, STRONG),
        "power_figure": figures_ratios.power_figure(rows) if found else None,
        "inflations": [InflationRow(factor, share_refuted(rows, factor)) for factor in INFLATIONS],
    }


def _classes(result: AuditResult) -> dict[str, Any]:
    certified, names, classes = is_certified(result), result.class_names, class_rows(result.rows)
    return {
        "classes": classes,
        "classes_drawn": figures_classes.MAX_CLASSES_DRAWN,
        "class_figure": figures_classes.class_figure(classes, names, norm=result.norm, certified=certified),
        "turns_figure": figures_classes.turns_figure(classes, names),
        "turns": lambda row: figures_classes.turns_text(row, names),
        "fragile": _fragile(classes, names, certified=certified),
    }


def _gallery(result: AuditResult) -> dict[str, Any]:
    refuted = {row.index for row in result.violations}
    items = sorted(result.gallery, key=lambda item: item.index not in refuted)
    return {
        "pictures": [gallery.picture(item) for item in items[:MAX_PICTURES]],
        "colour_bar": gallery.colour_bar(),
    }


def _contents(context: dict[str, Any]) -> list[tuple[str, str]]:
    """The sections that the page has, by their identifiers."""
    anything = context["certified"] or context["attacked"]
    sections = (
        ("violations", "Refuted certificates", context["failed"]),
        ("warnings", "Warnings", context["warnings"]),
        ("proof", "Claim and assumptions" if context["failed"] else "What was proved", context["certified"]),
        ("layers", "Proof by layer", context["certified"] and not context["votes"]),
        ("accuracy", "Accuracy", anything),
        ("distance", "Certificate against attack" if context["certified"] else "Distances", context["attacked"]),
        ("power", "Strength of the audit", context["power"]),
        ("classes", "Classes", anything),
        ("attacks", "Attacks", True),
        ("gallery", "Adversarial examples", context["pictures"]),
        ("reproduce", "Reproduce", True),
    )
    return [(target, text) for target, text, shown in sections if shown]


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


def _tightest(rows: Sequence[SampleRow], *, certified: bool) -> list[SampleRow]:
    """Refuted certificates first, then by rising ratio, or distance; samples without one last."""

    def rank(row: SampleRow) -> tuple[bool, float, int]:
        nearness = row.ratio if certified else row.distance
        return not row.violated, math.inf if nearness is None else nearness, row.index

    return sorted(rows, key=rank)


def _fragile(classes: Sequence[ClassRow], names: Sequence[str], *, certified: bool) -> str:
    """Name the three most fragile classes and what most of their adversarial examples are taken for."""
    ranked = most_fragile(classes, certified=certified)
    if len(ranked) < 3:
        return ""
    parts = []
    for found in ranked[:3]:
        measure = f"average radius {rounded_down(found.mean)}"
        if not certified:
            measure = f"median distance {rounded_up(found.median_distance)}"
        into = f", mostly into {figures_classes.class_name(found.turns_into[0][0], names)}" if found.turns_into else ""
        parts.append(f"{figures_classes.class_name(found.label, names)} ({measure}{into})")
    return f"Most fragile: {'; '.join(parts)}."
