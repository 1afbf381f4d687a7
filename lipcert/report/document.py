"""An audit as a JSON document, after the schema that ships beside this file."""

from __future__ import annotations

import json
import math
from importlib import resources
from numbers import Integral
from typing import Any

from lipcert.harness.power import INFLATIONS
from lipcert.harness.result import AttackRow, AuditResult, SampleRow
from lipcert.report import measures
from lipcert.report.classes import ClassRow
from lipcert.report.display import number_key
from lipcert.report.figures_ratios import FACTORS
from lipcert.report.numbers import Curves, Numbers, numbers_of

SCHEMA = "lipcert/report/2"
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


def report_document(result: AuditResult, numbers: Numbers | None = None) -> dict[str, Any]:
    """The audit as plain JSON values, after the shipped schema.

    Shares are exact quotients of counts. A number that does not exist or is not finite is None, never NaN or Infinity.

    Args:
        result: what the audit measured.
        numbers: of all samples, where the result holds only some of them; by default those of its rows.

    Returns:
        A dictionary that ``json.dumps(..., allow_nan=False)`` accepts.
    """
    numbers = numbers_of(result) if numbers is None else numbers
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
            "samples": numbers.samples,
            "sha256": result.data_sha256,
        },
        "environment": {str(name): str(value) for name, value in result.environment.items()},
        "lipschitz": _lipschitz(result),
        "clean_accuracy": numbers.clean_accuracy,
        "certificates": _certificates(result, numbers),
        "attacked": {
            "samples": numbers.attacked,
            "successes": numbers.found,
        },
        "attacks": [_attack(attack) for attack in result.attacks],
        "empirical_accuracy": {number_key(row.epsilon): row.attacked_empirical for row in numbers.accuracies},
        "curves": _curves(numbers.curves),
        "tightness": {"median_ratio": _finite(numbers.median_ratio)},
        "power": _power(result, numbers),
        "classes": [_class(found) for found in numbers.classes],
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


def _certificates(result: AuditResult, numbers: Numbers) -> dict[str, Any]:
    return {
        "norm": result.norm,
        "rule": result.rule,
        "arithmetic": result.arithmetic,
        "grid": result.grid,
        "average_certified_radius": _finite(numbers.average_certified_radius),
        "certified_accuracy": {number_key(row.epsilon): row.certified for row in numbers.accuracies},
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


def _curves(curves: Curves) -> dict[str, Any]:
    return {
        "epsilon": list(curves.epsilon),
        "certified": list(curves.certified),
        "empirical": None if curves.empirical is None else list(curves.empirical),
    }


def _power(result: AuditResult, numbers: Numbers) -> dict[str, Any]:
    found = numbers.power
    return {
        "certificates": found.certificates if found else 0,
        "strength": numbers.strength(by_steps=measures.steps_of(result) is not None),
        "smallest_refuted_inflation": _finite(numbers.smallest_ratio),
        "median_refuted_inflation": _finite(found.median if found else None),
        "share_refuted": {number_key(inflation): numbers.share_refuted(inflation) for inflation in INFLATIONS},
        "share_refuted_at_one_more": numbers.refuted_at_one_more,
        "curve": {"inflation": list(FACTORS), "refuted": None if numbers.refuted is None else list(numbers.refuted)},
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
