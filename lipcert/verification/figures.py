"""The figures of a report once more, from its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from lipcert.verification.document import Row

AGREEMENT = 1e-12


def figure_errors(report: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """Yield one sentence for every figure that the rows do not give.

    Args:
        report: a document that satisfies the schema.
        rows: the lines of ``samples.csv``, at least one.
    """
    right = [row for row in rows if row.prediction == row.label]
    certificates = report["certificates"]
    expected: dict[str, tuple[float | None, float | None]] = {
        "data.samples": (report["data"]["samples"], len(rows)),
        "clean_accuracy": (report["clean_accuracy"], len(right) / len(rows)),
        "certificates.average_certified_radius": (
            certificates["average_certified_radius"],
            math.fsum(row.radius for row in right) / len(rows),
        ),
    }
    for key, share in certificates["certified_accuracy"].items():
        held = sum(row.radius >= float(key) for row in right)
        expected[f"certificates.certified_accuracy.{key}"] = (share, held / len(rows))
    ratios = [row.ratio for row in rows if row.ratio is not None]
    expected["tightness.median_ratio"] = (report["tightness"]["median_ratio"], median(ratios) if ratios else None)
    smallest = report["power"]["smallest_refuted_inflation"]
    expected["power.smallest_refuted_inflation"] = (smallest, min(ratios, default=None))
    for name, (reported, recomputed) in expected.items():
        if not _agree(reported, recomputed):
            yield f"{name} is {reported}, the rows give {recomputed}"


def violation_errors(report: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """Yield one sentence for every disagreement between the rows, the listed violations and the verdict."""
    for row in rows:
        ratio = row.distance / row.radius if row.distance is not None and row.radius > 0 else None
        if not _agree(row.ratio, ratio):
            yield f"sample {row.index} has ratio {row.ratio}, its distance over its radius is {ratio}"
        if (row.distance is None) != (row.attack == ""):
            yield f"sample {row.index} has distance {row.distance} and attack {row.attack or None}"
        if (row.distance is None) != (row.adversarial_prediction is None):
            yield f"sample {row.index} has distance {row.distance} and becomes {row.adversarial_prediction}"
        if row.adversarial_prediction == row.prediction:
            yield f"sample {row.index} is said to become {row.prediction}, the class that it has"
    refuted = [row for row in rows if row.distance is not None and row.distance < row.radius]
    found = [_violation(row) for row in refuted]
    keys = ("index", "label", "radius", "distance", "attack", "adversarial_prediction")
    listed = [tuple(violation[key] for key in keys) for violation in report["violations"]]
    if found != listed:
        indices = [violation[0] for violation in listed]
        yield f"violations lists the samples {indices}, the rows refute {[row.index for row in refuted]}"
    verdict = "fail" if refuted else "pass"
    if report["verdict"] != verdict:
        yield f"verdict is {report['verdict']!r}, the rows give {verdict!r}"


def _violation(row: Row) -> tuple[int, int, float, float | None, str, int | None]:
    return row.index, row.label, row.radius, row.distance, row.attack, row.adversarial_prediction


def _agree(reported: float | None, recomputed: float | None) -> bool:
    if reported is None or recomputed is None:
        return reported is recomputed
    return math.isclose(reported, recomputed, rel_tol=AGREEMENT, abs_tol=AGREEMENT)
