"""What a deployed network is worth on a data split, as the plain figures of ``summary.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from lipcert.certificates import (
    LogitErrors,
    executed_errors,
    float64_logits,
    margin_radius,
    norms_upper_bound,
    pair_upper_bounds_by_rule,
    rounded_margin_radius,
)
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.metrics import KantorovichRubinstein, average_certified_radius, certified_accuracy


def measure_certificates(network: nn.Module, images: ImageSet, *, epsilons: Sequence[float]) -> dict[str, Any]:
    """Return clean accuracy and, with ``epsilons``, what every margin rule certifies.

    Args:
        network: plain network in eval mode.
        images: the split to measure on.
        epsilons: L2 budgets in [0,1] pixel units; without any, only the clean accuracy is measured.

    Returns:
        ``clean_accuracy`` and ``samples``; with budgets also ``certified_accuracy`` and ``average_certified_radius`` of
        the best rule, the ``lipschitz_upper_bound`` of the network, its ``kr`` term, and the same figures for the other
        ``rules``. The radii hold for the network as it executes in float32, or, if the rounding of one of its layers
        has no known bound, for the real-valued network: ``arithmetic`` says which.
    """
    inputs, labels = images.inputs(), images.labels
    if not epsilons:
        with torch.inference_mode():
            preds = torch.cat([network(chunk).argmax(1) for chunk in inputs.split(1000)])
        return {"clean_accuracy": (preds == labels).float().mean().item(), "samples": len(labels)}
    logits, errors = float64_logits(network, inputs), _errors_if_known(network, inputs)
    rules: dict[str, Any] = {}
    bounds_by_rule, proof = pair_upper_bounds_by_rule(network, inputs.shape[1:])
    for rule, bounds in bounds_by_rule.items():
        if errors is None:
            preds, radius = margin_radius(logits, bounds)
        else:
            preds, radius = rounded_margin_radius(logits, bounds, errors, norms_upper_bound(inputs))
        rules[rule] = {
            "certified_accuracy": {
                f"{eps:g}": round(certified_accuracy(radius, preds, labels, eps).item(), 6) for eps in epsilons
            },
            "average_certified_radius": round(average_certified_radius(radius, preds, labels).item(), 6),
        }
    best = rules.pop("best")
    kr = KantorovichRubinstein(logits.shape[1])
    kr.update(logits, labels)
    return {
        "clean_accuracy": round((preds == labels).float().mean().item(), 6),
        "samples": len(labels),
        **best,
        "arithmetic": "real" if errors is None else str(errors.dtype).removeprefix("torch."),
        "kr": round(kr.compute().item(), 6),
        "lipschitz_upper_bound": proof.value,
        "rules": rules,
    }


def _errors_if_known(network: nn.Module, inputs: torch.Tensor) -> LogitErrors | None:
    try:
        return executed_errors(network, inputs)
    except InputError:
        return None
