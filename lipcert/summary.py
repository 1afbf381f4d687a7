"""What a deployed network is worth on a data split, as the plain figures of ``summary.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.certificates import execute, float64_logits, margin_radius, pair_upper_bounds_by_rule
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.metrics import KantorovichRubinstein, average_certified_radius, certified_accuracy


def measure_certificates(
    network: nn.Module, images: ImageSet, *, epsilons: Sequence[float], dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Return clean accuracy and, with ``epsilons``, what every margin rule certifies.

    Args:
        network: plain network in eval mode.
        images: the split to measure on.
        epsilons: L2 budgets in [0,1] pixel units; without any, only the clean accuracy is measured.
        dtype: of the images that the network is given; it must be the network's own.

    Returns:
        ``clean_accuracy`` and ``samples``; with budgets also ``certified_accuracy`` and ``average_certified_radius`` of
        the best rule, the ``lipschitz_upper_bound`` of the network, its ``kr`` term, and the same figures for the other
        ``rules``. The radii hold for the network as it executes, or, if the rounding of one of its layers
        has no known bound, for the real-valued network: ``arithmetic`` says which.
    """
    inputs, labels = images.inputs().to(dtype), images.labels
    if not epsilons:
        preds = _logits(network, inputs).argmax(1)
        return {"clean_accuracy": (preds == labels).float().mean().item(), "samples": len(labels)}
    logits, radii, arithmetic = _evaluated(network, inputs)
    rules: dict[str, Any] = {}
    bounds_by_rule, proof = pair_upper_bounds_by_rule(network, inputs.shape[1:])
    for rule, bounds in bounds_by_rule.items():
        preds, radius = radii(bounds)
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
        "arithmetic": arithmetic,
        "kr": round(kr.compute().item(), 6),
        "lipschitz_upper_bound": proof.value,
        "rules": rules,
    }


def _evaluated(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]], str]:
    """Return logits, what makes predictions and radii of bounds of their differences, and the radii's arithmetic."""
    try:
        executed = execute(network, inputs)
    except InputError:
        logits = float64_logits(network, inputs)
        return logits, partial(margin_radius, logits), "real"
    return executed.logits, executed.radii, str(executed.errors.dtype).removeprefix("torch.")


def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network(chunk) for chunk in inputs.split(1000)])
