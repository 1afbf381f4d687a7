"""An audit as a JSON document, after the schema that ships beside this file."""

from __future__ import annotations

import json
import math
from importlib import resources
from numbers import Integral
from typing import Any

import numpy as np

from lipcert.harness.power import (
    INFLATIONS,
    median_ratio,
    power,
    share_refuted,
    share_refuted_at_one_more,
    smallest_ratio,
)
from lipcert.harness.result import AttackRow, AuditResult, SampleRow
from lipcert.report import measures
from lipcert.report.classes import ClassRow, class_rows
from lipcert.report.display import number_key
from lipcert.report.figures_ratios import FACTORS, refuted_curve
from lipcert.report.strength import strength

SCHEMA = "lipcert/report/2"
CURVE_POINTS = 101
SHOWN = 10


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every ``report.json`` satisfies.

    Example:
        >>> report_schema()["properties"]["schema"]["const"]
        'lipcert/report/2'
    """
    text = resources.files("lipcert.report").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def report_document(result: AuditResult) -> dict[str, Any]:
    """The audit as plain JSON values, after the shipped schema.

    Shares are exact quotients of counts. A number that does not exist or is not finite is None, never NaN or Infinity.

    Args:
        result: what the audit measured.

    Returns:
        A dictionary that ``json.dumps(..., allow_nan=False)`` accepts.
    """
    attacked = measures.attacked_rows(result.rows)
    return {
        "schema": SCHEMA,
        "verdict": result.verdict,
        "created": result.created,
        "command": result.command,
        "model": {
            "name": result.model_name,
            "sha256": result.model_sha256,
            "parameters": int(result.model_parameters),
        },
        "data": {
            "name": result.data_name,
            "split": result.data_split,
            "samples": len(result.rows),
            "sha256": result.data_sha256,
        },
        "environment": {str(name): str(value) for name, value in result.environment.items()},
        "lipschitz": _lipschitz(result),
        "clean_accuracy": measures.clean_accuracy(result.rows),
        "certificates": _certificates(result),
        "attacked": {
            "samples": len(attacked),
            "successes": sum(row.distance is not None for row in attacked),
        },
        "attacks": [_attack(attack) for attack in result.attacks],
        "empirical_accuracy": {
            number_key(epsilon): measures.empirical_accuracy(result.rows, epsilon) for epsilon in result.epsilons
        },
        "curves": _curves(result),
        "tightness": {"median_ratio": _finite(median_ratio(result.rows))},
        "power": _power(result),
        "classes": [_class(found) for found in class_rows(result.rows)],
        "violations": [_violation(row) for row in result.violations],
        "warnings": list(all_warnings(result)),
        "assumptions": list(result.assumptions),
    }


def all_warnings(result: AuditResult) -> tuple[str, ...]:
    """The audit's warnings, and one more if a refuted certificate comes without its adversarial input."""
    kept = {item.index for item in result.gallery}
    lost = [str(row.index) for row in result.violations if row.index not in kept]
    if not lost:
        return result.warnings
    rest = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
    lines = f"No adversarial input was kept for the refuted samples {', '.join(lost[:SHOWN])}{rest}."
    return (*result.warnings, lines)


def _lipschitz(result: AuditResult) -> dict[str, Any]:
    return {
        "upper_bound": _finite(result.lipschitz_upper_bound),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "upper_bound": _finite(layer.upper_bound),
                "method": layer.method,
            }
            for layer in result.layers
        ],
    }


def _certificates(result: AuditResult) -> dict[str, Any]:
    return {
        "norm": result.norm,
        "rule": result.rule,
        "arithmetic": result.arithmetic,
        "grid": result.grid,
        "average_certified_radius": _finite(measures.average_certified_radius(result.rows)),
        "certified_accuracy": {
            number_key(epsilon): measures.certified_accuracy(result.rows, epsilon) for epsilon in result.epsilons
        },
    }


def _attack(attack: AttackRow) -> dict[str, Any]:
    return {
        "name": attack.name,
        "parameters": {str(name): _setting(value) for name, value in attack.parameters.items()},
        "samples": int(attack.samples),
        "success_rate": _finite(attack.success_rate),
        "median_distance": _finite(attack.median_distance),
        "won": int(attack.won),
        "violations": int(attack.violations),
        "seconds": _finite(attack.seconds),
        "forward_passes": int(attack.forward_passes),
        "backward_passes": int(attack.backward_passes),
    }


def _setting(value: float | str) -> float | str:
    """A setting as JSON has it: what is no finite number, a text or a truth value is said in words."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, bool | str):
        return value
    return int(value) if isinstance(value, Integral) else str(value)


def _curves(result: AuditResult) -> dict[str, Any]:
    """Accuracies over a fine grid of budgets, so that the page that compares audits needs no rows."""
    rows, attacked = result.rows, measures.attacked_rows(result.rows)
    steps = np.linspace(0, measures.longest_budget(rows, result.epsilons), CURVE_POINTS) if rows else np.zeros(0)
    budgets = np.array([float(f"{step:.6g}") for step in steps])
    return {
        "epsilon": budgets.tolist(),
        "certified": measures.certified_curve(rows, budgets).tolist() if rows else [],
        "empirical": measures.empirical_curve(attacked, budgets).tolist() if attacked else None,
    }


def _power(result: AuditResult) -> dict[str, Any]:
    found = power(result.rows)
    return {
        "certificates": found.certificates if found else 0,
        "strength": strength(result.rows, one_more=measures.steps_of(result)),
        "smallest_refuted_inflation": _finite(smallest_ratio(result.rows)),
        "median_refuted_inflation": _finite(found.median if found else None),
        "share_refuted": {number_key(inflation): share_refuted(result.rows, inflation) for inflation in INFLATIONS},
        "share_refuted_at_one_more": None
        if result.grid is None
        else share_refuted_at_one_more(result.rows, result.grid),
        "curve": {"inflation": list(FACTORS), "refuted": refuted_curve(result.rows) if found else None},
    }


def _class(found: ClassRow) -> dict[str, Any]:
    return {
        "label": int(found.label),
        "samples": found.samples,
        "clean_accuracy": found.accuracy,
        "average_certified_radius": _finite(found.mean),
        "attacked": found.attacked,
        "median_distance": _finite(found.median_distance),
        "median_ratio": _finite(found.median_ratio),
        "turns_into": [{"label": int(label), "samples": count} for label, count in found.turns_into],
    }


def _violation(row: SampleRow) -> dict[str, Any]:
    return {
        "index": int(row.index),
        "label": int(row.label),
        "radius": _finite(row.radius),
        "distance": _finite(row.distance),
        "attack": row.attack,
        "adversarial_prediction": None if row.adversarial_prediction is None else int(row.adversarial_prediction),
    }


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
