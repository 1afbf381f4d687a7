"""Elementwise operations: functions of one tensor, sums, products with constants, maxima."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lipcert.certificates.activations import ELEMENTWISE
from lipcert.certificates.rounding import UNIT_ROUNDOFF, product_up, sum_up
from lipcert.certificates.signal import Signal, Value, joint_bound
from lipcert.certificates.walk import Call
from lipcert.errors import InputError

DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


def elementwise(call: Call) -> Signal:
    """Functions of the table of slopes."""
    entry = ELEMENTWISE[call.name]
    given = call.bind("input", **entry.parameters, inplace=False)
    value = call.value(given.pop("input"))
    call.in_place = call.in_place or bool(given.pop("inplace"))
    call.constants_only(*given.values())
    slope = entry.upper_bound(given)
    if not math.isfinite(slope):
        call.refuse("expected finite parameters")
    return call.emit(value.scaled(slope), slope, "largest slope")


def prelu(call: Call) -> Signal:
    """PReLU, with one slope for all or one a channel."""
    given = call.bind("input", "weight")
    value, weight = call.value(given["input"]), _finite(call, given["weight"])
    slope = max(1.0, float(weight.abs().max()))
    return call.emit(value.scaled(slope), slope, "largest slope")


def keep(call: Call) -> Any:
    """Dropout that does not drop."""
    given = call.bind("input", p=0.5, training=True, inplace=False)
    if given["training"] and given["p"] != 0:
        call.refuse("expected dropout in eval mode")
    call.value(given["input"])
    return given["input"]


def add(call: Call) -> Signal:
    """Sums and differences: of values by the sum of their bounds; constants do not matter."""
    given = call.bind("input", "other", alpha=1)
    left, right, alpha = given["input"], given["other"], abs(float(given["alpha"]))
    call.constants_only(given["alpha"])
    if not isinstance(left, Signal) or not isinstance(right, Signal):
        varying, factor = (left, 1.0) if isinstance(left, Signal) else (right, alpha)
        shape = call.meta_shape()
        value = _expanded(call.value(varying), shape).scaled(factor)
        return call.emit(value, factor, "translation")
    shape = call.meta_shape()
    first, second = (_expanded(call.value(item), shape) for item in (left, right))
    if call.name == "sub" and alpha == 1 and _is_mean_of(second, call.value(left)):
        return call.fresh(call.value(left), 1.0, shape, "centring: an orthogonal projection")
    total = sum_up(first.bound, product_up(alpha, second.bound))
    if not (first.keeps_samples_apart and second.keeps_samples_apart):
        call.refuse("expected operands whose first dimension is the batch")
    return call.emit(Value.fresh(total, shape), 1.0, "sum of the branches")


def subtract_from(call: Call) -> Signal:
    """``rsub``: other - input."""
    given = call.bind("input", "other", alpha=1)
    call.args, call.kwargs, call.name = (given["other"], given["input"]), {"alpha": 1}, "sub"
    if given["alpha"] != 1:
        call.refuse("expected alpha 1")
    call.func = torch.sub
    if not isinstance(given["other"], Tensor):
        call.args = (torch.as_tensor(given["other"]), given["input"])
    return add(call)


def _is_mean_of(second: Value, first: Value) -> bool:
    """Whether the second value is the mean of the first, spread over the dimensions that it was taken over."""
    origin = second.anchor.origin
    if not origin or origin[0] != "mean" or origin[1] is not first:
        return False
    return second.scale == 1.0 and bool((second.index == Value.fresh(1.0, origin[2]).index).all())


def multiply(call: Call) -> Signal:
    """Products with constants."""
    given = call.bind("input", "other")
    left, right = given["input"], given["other"]
    varying, fixed = (left, right) if isinstance(left, Signal) else (right, left)
    return _scaled(call, varying, _finite(call, fixed).abs(), "product with a constant")


def divide(call: Call) -> Signal:
    """Quotients by constants."""
    given = call.bind("input", "other", rounding_mode=None)
    if given["rounding_mode"] is not None or not isinstance(given["input"], Signal):
        call.refuse("expected a division by a constant, without rounding")
    divisor = _finite(call, given["other"]).abs()
    if bool((divisor == 0).any()):
        call.refuse("expected a divisor other than zero")
    factor = 1 / divisor * (1 + 4 * UNIT_ROUNDOFF)
    return _scaled(call, given["input"], factor, "quotient by a constant")


def _scaled(call: Call, varying: Any, factor: Tensor, method: str) -> Signal:
    value = _expanded(call.value(varying), call.meta_shape())
    if not bool(torch.isfinite(factor).all()):
        call.refuse("expected a finite factor")
    largest = float(factor.max()) if factor.numel() else 0.0
    uniform = bool((factor == largest).all())
    return call.emit(value.scaled(largest if uniform else factor.expand(value.shape)), largest, method)


def batch_norm(call: Call) -> Signal:
    """BatchNorm with running statistics: one factor a channel."""
    given = call.bind(
        "input", "running_mean", "running_var", weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    )
    if given["training"] or given["running_var"] is None:
        call.refuse("expected batch normalisation with running statistics, in eval mode")
    value, variance = call.value(given["input"]), _finite(call, given["running_var"])
    weight = 1.0 if given["weight"] is None else _finite(call, given["weight"]).abs()
    denominator = variance + given["eps"]
    if bool((denominator <= 0).any()):
        call.refuse("expected positive running variances")
    # One rounding each in the sum (halved by the root), the root and the quotient.
    factor = weight / denominator.sqrt() * (1 + 8 * UNIT_ROUNDOFF)
    if not bool(torch.isfinite(factor).all()):
        call.refuse("expected a finite factor")
    shaped = factor.reshape(1, -1, *[1] * (len(value.shape) - 2)).expand(value.shape)
    return call.emit(value.scaled(shaped), float(factor.max()), "largest factor of a channel")


def extremum(call: Call) -> Any:
    """``maximum`` and ``minimum`` of two tensors, or of a tensor and a constant."""
    given = call.bind("input", "other")
    left, right = given["input"], given["other"]
    if isinstance(left, Signal) and isinstance(right, Signal):
        shape = call.meta_shape()
        first, second = (_expanded(call.value(item), shape) for item in (left, right))
        # |max(a, b) - max(a', b')|^2 <= |a - a'|^2 + |b - b'|^2 for each element.
        if not (first.keeps_samples_apart and second.keeps_samples_apart):
            call.refuse("expected operands whose first dimension is the batch")
        kind = "larger" if call.name == "maximum" else "smaller"
        value = Value.fresh(joint_bound([first, second]), shape, kind, first, second)
        return call.emit(value, 1.0, "one of two elements")
    varying = left if isinstance(left, Signal) else right
    return call.emit(_expanded(call.value(varying), call.meta_shape()), 1.0, "largest slope")


def where(call: Call) -> Signal:
    """Choice between tensors by a constant condition."""
    given = call.bind("condition", "input", "other")
    condition = given["condition"]
    call.constants_only(condition)
    shape, parts = call.meta_shape(), []
    for side, chosen in ((given["input"], condition), (given["other"], ~condition)):
        if isinstance(side, Signal):
            value = _expanded(call.value(side), shape)
            parts.append(Value(value.anchor, torch.where(chosen, value.index, 0.0), value.scale))
    if len(parts) == 1:
        return call.emit(parts[0], 1.0, "choice by a constant condition")
    if not all(part.keeps_samples_apart for part in parts):
        call.refuse("expected operands whose first dimension is the batch")
    return call.emit(Value.fresh(joint_bound(parts), shape), 1.0, "root of the sum of squares")


def masked_fill(call: Call) -> Signal:
    """Constants written over elements."""
    given = call.bind("input", "mask", "value")
    value = call.value(given["input"])
    call.constants_only(given["mask"], given["value"])
    return call.emit(value.rearranged(lambda index: index.masked_fill(given["mask"], 0.0)), 1.0, "rearrangement")


def _expanded(value: Value, shape: tuple[int, ...]) -> Value:
    if value.shape == shape:
        return value
    expanded: Value = value.rearranged(lambda index: index.expand(shape))
    return expanded


def _finite(call: Call, argument: Any) -> Tensor:
    constant = call.constant(argument)
    if not bool(torch.isfinite(constant).all()):
        raise InputError("expected finite numbers, got nan or infinity")
    return constant
