"""Normalisation layers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from lipcert.certificates.call import Call
from lipcert.certificates.rounding import UNIT_ROUNDOFF, product_up, up
from lipcert.certificates.signal import Signal


def batch_norm(call: Call) -> Signal:
    """BatchNorm with running statistics: one factor a channel."""
    given = call.bind(
        "input", "running_mean", "running_var", weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    )
    if given["training"] or given["running_var"] is None:
        call.refuse("expected batch normalisation with running statistics, in eval mode")
    value, variance = call.value(given["input"]), call.constant(given["running_var"])
    call.constants_only(given["running_mean"], given["bias"])
    weight = torch.ones_like(variance) if given["weight"] is None else call.constant(given["weight"])
    denominator = variance + given["eps"]
    if bool((denominator <= 0).any()):
        call.refuse("expected positive running variances")
    # One rounding each in the sum (halved by the root), the root and the quotient.
    signed = weight / denominator.sqrt()
    factor = signed.abs() * (1 + 8 * UNIT_ROUNDOFF)
    if not bool(torch.isfinite(factor).all()):
        call.refuse("expected a finite factor")
    channels = (1, -1, *[1] * (len(value.shape) - 2))
    result = value.scaled(factor.reshape(channels).expand(value.shape))
    result = dataclasses.replace(result, origin=("times", value, signed.reshape(channels), True))
    return call.emit(result, float(factor.max()), "largest factor of a channel")


def layer_norm(call: Call) -> Signal:
    """LayerNorm: at most 1 / sqrt(eps), the norm of its Jacobian where the input is constant.

    With z the centred input and s = sqrt(mean z^2 + eps) the Jacobian is (I - z z^T / (n s^2)) / s on centred vectors.
    """
    given = call.bind("input", "normalized_shape", weight=None, bias=None, eps=1e-5)
    if len(call.value(given["input"]).shape) <= len(given["normalized_shape"]):
        call.refuse("expected a normalised shape without the batch")
    return _standardised(call, given)


def rms_norm(call: Call) -> Signal:
    """RMSNorm: as LayerNorm, without the centring."""
    given = call.bind("input", "normalized_shape", weight=None, eps=None)
    if len(call.value(given["input"]).shape) <= len(given["normalized_shape"]):
        call.refuse("expected a normalised shape without the batch")
    if given["eps"] is None:
        given["eps"] = torch.finfo(call.args[0].precision).eps
    return _standardised(call, {**given, "bias": None})


def group_norm(call: Call) -> Signal:
    """GroupNorm: as LayerNorm, in each group."""
    return _standardised(call, call.bind("input", "num_groups", weight=None, bias=None, eps=1e-5))


def instance_norm(call: Call) -> Signal:
    """InstanceNorm with the statistics of the input: as LayerNorm, in each channel."""
    given = call.bind(
        *("input",),
        **{"running_mean": None, "running_var": None, "weight": None, "bias": None},
        **{"use_input_stats": True, "momentum": 0.1, "eps": 1e-5},
    )
    if not given["use_input_stats"]:
        call.refuse("expected instance normalisation with the statistics of its input")
    return _standardised(call, given)


def _standardised(call: Call, given: dict[str, Any]) -> Signal:
    value, epsilon = call.value(given["input"]), given["eps"]
    call.constants_only(given["bias"], epsilon)
    if not epsilon > 0:
        call.refuse("expected eps > 0")
    weight = 1.0 if given["weight"] is None else float(call.constant(given["weight"]).abs().max())
    root = math.nextafter(math.sqrt(epsilon), 0.0)
    return call.fresh(value, product_up(weight, up(1 / root)), value.shape, "largest weight over the root of eps")
