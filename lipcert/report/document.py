"""An audit as a JSON document, after the schema that ships beside this file."""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any

from lipcert.harness.result import AttackRow, AuditResult, SampleRow
from lipcert.report import measures
from lipcert.report.display import number_key

SCHEMA = "lipcert/report/1"
INFLATIONS = (1.5, 2.0, 3.0, 5.0)


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every ``report.json`` satisfies.

    Example:
        >>> report_schema()["properties"]["schema"]["const"]
        'lipcert/report/1'
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
        "attacks": [_attack(attack) for attack in result.attacks],
        "empirical_accuracy": {
            number_key(epsilon): measures.empirical_accuracy(result.rows, epsilon) for epsilon in result.epsilons
        },
        "tightness": {"median_ratio": _finite(measures.median_ratio(result.rows))},
        "power": _power(result),
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
    return (*result.warnings, f"no adversarial input was kept for the refuted samples {', '.join(lost)}")


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
        "average_certified_radius": _finite(measures.average_certified_radius(result.rows)),
        "certified_accuracy": {
            number_key(epsilon): measures.certified_accuracy(result.rows, epsilon) for epsilon in result.epsilons
        },
    }


def _attack(attack: AttackRow) -> dict[str, Any]:
    return {
        "name": attack.name,
        "samples": int(attack.samples),
        "success_rate": _finite(attack.success_rate),
        "median_distance": _finite(attack.median_distance),
        "violations": int(attack.violations),
        "seconds": _finite(attack.seconds),
        "forward_passes": int(attack.forward_passes),
        "backward_passes": int(attack.backward_passes),
    }


def _power(result: AuditResult) -> dict[str, Any]:
    return {
        "smallest_refuted_inflation": _finite(measures.smallest_ratio(result.rows)),
        "share_refuted": {
            number_key(inflation): measures.share_refuted(result.rows, inflation) for inflation in INFLATIONS
        },
    }


def _violation(row: SampleRow) -> dict[str, Any]:
    return {
        "index": int(row.index),
        "label": int(row.label),
        "radius": _finite(row.radius),
        "distance": _finite(row.distance),
        "attack": row.attack,
    }


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
