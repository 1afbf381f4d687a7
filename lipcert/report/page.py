"""An audit as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcert.harness.foreign import NO_RULE
from lipcert.harness.power import INFLATIONS, ratios
from lipcert.harness.result import AuditResult, SampleRow
from lipcert.report import cloud, figures, figures_classes, figures_ratios, gallery, measures
from lipcert.report.classes import ClassRow, most_fragile
from lipcert.report.display import measured_in, norm_name, rounded_down, rounded_up
from lipcert.report.document import all_warnings
from lipcert.report.numbers import Numbers, numbers_of
from lipcert.report.strength import RULES, RULES_BY_STEPS, STRONG, strength_reason
from lipcert.report.templates import rendered

MAX_TABLE_ROWS = 20
MAX_PICTURES = 24


@dataclass(frozen=True, slots=True)
class InflationRow:
    """Which share of the attacked certificates would have been refuted, had all radii been this much larger."""

    inflation: float
    share: float | None


def render_html(result: AuditResult, numbers: Numbers | None = None) -> str:
    """The report as one HTML file that opens offline: styles, figures, images and a small script lie inside it.

    Everything that the audit was handed (names, commands, warnings) is escaped. The same result gives the same text.
    The script makes tables sortable; without it the page is complete. Of a network without certificates (rule
    ``"none"``) the page says so, and what makes no sense without them is left out.

    Args:
        result: what the audit measured; at least one row.
        numbers: of all samples, where the result holds only some of them, which are drawn; by default those of its
            rows.
    """
    told = numbers_of(result) if numbers is None else numbers
    context = _subject(result, told) | _rows(result, told) | _ratios(result, told) | _classes(result, told)
    context |= {"rows_in": "samples.csv" if numbers is None else "samples/*.parquet"}
    context |= _gallery(result) | {"in_shards": numbers is not None, "drawn": len(result.rows)}
    return rendered("report.html.j2", context | {"contents": _contents(context)})


def is_certified(result: AuditResult) -> bool:
    """Whether there was any certificate to attack."""
    return result.rule != NO_RULE


def _subject(result: AuditResult, numbers: Numbers) -> dict[str, Any]:
    certified, attacked = is_certified(result), numbers.attacked
    failed = result.verdict == "fail"
    tone = "fail" if failed else "pass" if attacked and certified else "untested"
    return {
        "result": result,
        "samples": numbers.samples,
        "violated": numbers.violated,
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
        "violations": tightest(result.violations, certified=True)[:MAX_TABLE_ROWS],
        "class_name": lambda label: figures_classes.class_name(label, result.class_names),
    }


def _rows(result: AuditResult, numbers: Numbers) -> dict[str, Any]:
    rows, certified = result.rows, is_certified(result)
    return {
        "attacked": numbers.attacked,
        "subset": numbers.attacked < numbers.samples,
        "found": numbers.found,
        "median_distance": numbers.median_distance,
        "uncertified": numbers.uncertified,
        "clean_accuracy": numbers.clean_accuracy,
        "average_certified_radius": numbers.average_certified_radius,
        "accuracies": numbers.accuracies,
        "accuracy_figure": figures.accuracy_figure(rows, result.epsilons, norm=result.norm, certified=certified),
        "comparison": tightest(measures.attacked_rows(rows), certified=certified)[:MAX_TABLE_ROWS],
        "attacks": sorted(result.attacks, key=lambda attack: -attack.won),
    }


def _ratios(result: AuditResult, numbers: Numbers) -> dict[str, Any]:
    rows, found = result.rows, numbers.power
    by_steps = measures.steps_of(result) is not None
    grade, shown = numbers.strength(by_steps=by_steps), np.array(ratios(rows))
    rules = RULES_BY_STEPS if by_steps else RULES
    last = figures_ratios.last_drawn(shown) if shown.size else math.inf
    return {
        "smallest_ratio": numbers.smallest_ratio,
        "median_ratio": numbers.median_ratio,
        "ratio_count": shown.size,
        "last_ratio": last,
        "beyond": int((shown > last).sum()),
        "binned": shown.size > cloud.MAX_MARKS,
        "distance_figure": figures.distance_figure(rows, norm=result.norm) if found else None,
        "tightness_figure": figures_ratios.tightness_figure(rows) if shown.size else None,
        "power": found,
        "strength": grade,
        "strength_reason": strength_reason(*numbers.noticed(by_steps=by_steps), by_steps=by_steps) if found else None,
        "strength_rule": rules[grade] if grade else None,
        "refuted_at_one_more": numbers.refuted_at_one_more if by_steps else None,
        "refuted_at_strong": numbers.share_refuted(STRONG),
        "power_figure": figures_ratios.power_figure(rows) if found else None,
        "inflations": [InflationRow(factor, numbers.share_refuted(factor)) for factor in INFLATIONS],
    }


def _classes(result: AuditResult, numbers: Numbers) -> dict[str, Any]:
    certified, names, classes = is_certified(result), result.class_names, numbers.classes
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


def tightest(rows: Sequence[SampleRow], *, certified: bool) -> list[SampleRow]:
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
