"""Elementwise operations: functions of one tensor, sums, products with constants, maxima."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from lipcert.certificates.activations import ELEMENTWISE
from lipcert.certificates.call import Call
from lipcert.certificates.joint import joint_bound, side_by_side, source_of_sum
from lipcert.certificates.rounding import UNIT_ROUNDOFF, product_up, sum_up
from lipcert.certificates.rules_residual import MONOTONE, residual_upper_bound
from lipcert.certificates.segment import segment_upper_bound
from lipcert.certificates.signal import Signal, Term, Value

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
    result = value.scaled(slope)
    if call.name == "neg" or call.name in MONOTONE:
        result = dataclasses.replace(result, origin=(call.name, value))
    return call.emit(result, slope, "largest slope")


def prelu(call: Call) -> Signal:
    """PReLU, with one slope for all or one a channel."""
    given = call.bind("input", "weight")
    value, weight = call.value(given["input"]), call.constant(given["weight"])
    slope = max(1.0, float(weight.abs().max()))
    return call.emit(value.scaled(slope), slope, "largest slope")


def keep(call: Call) -> Any:
    """Dropout that does not drop."""
    given = call.bind("input", p=0.5, training=True, inplace=False)
    if given["training"] and given["p"] != 0:
        call.refuse("expected dropout in eval mode")
    call.walk.record(call.name, 1.0, "identity")
    return given["input"]


def add(call: Call) -> Signal:
    """Sums and differences: of values by the sum of their bounds; constants do not matter."""
    given = call.bind("input", "other", alpha=1)
    left, right, alpha = given["input"], given["other"], abs(float(given["alpha"]))
    call.constants_only(given["alpha"], *(side for side in (left, right) if not isinstance(side, Signal)))
    shape = call.broadcast(left, right)
    if not isinstance(left, Signal) or not isinstance(right, Signal):
        varying, factor = (left, 1.0) if isinstance(left, Signal) else (right, alpha)
        value = call.value(varying).expanded(shape)
        return call.emit(_translated(call, value, factor, varying is left), factor, "translation")
    first, second = (call.value(item).expanded(shape) for item in (left, right))
    signed = -float(given["alpha"]) if call.name == "sub" else float(given["alpha"])
    apply, absolute = (functools.partial(_times, factor) for factor in (signed, abs(signed)))
    same = functools.partial(_times, 1.0)
    terms = (Term(first, same, same, 0), Term(second, apply, absolute, 1))
    if call.name == "sub" and alpha == 1 and _is_mean_of(second, call.value(left)):
        return call.fresh(call.value(left), 1.0, shape, "centring: an orthogonal projection", terms=terms)
    total = sum_up(first.bound, product_up(alpha, second.bound))
    call.apart(first, second)
    residual = residual_upper_bound(first, second, signed)
    if residual is None and signed == 1:
        residual = residual_upper_bound(second, first, 1.0)
    source = source_of_sum(first, second, alpha)
    if residual is not None and residual[0] < total:
        return call.emit(Value.fresh(residual[0], shape, terms=terms, source=source), 1.0, residual[1])
    together = segment_upper_bound(terms, shape, total)
    if together < total:
        value = Value.fresh(together, shape, terms=terms, source=source)
        return call.emit(value, 1.0, "dense matrix of the branches together")
    return call.emit(Value.fresh(total, shape, terms=terms, source=source), 1.0, "sum of the branches")


def _times(factor: float, inputs: Tensor) -> Tensor:
    return inputs * factor


def _translated(call: Call, value: Value, factor: float, first: bool) -> Value:
    """A value, or its negative, plus a constant: never the same object, nor a mere negative, for rules that compare."""
    if factor != 1:
        return value.scaled(factor)
    if not first and call.name == "sub":
        return dataclasses.replace(value.scaled(1.0), origin=("times", value, torch.tensor(-1.0).double(), True))
    if value.origin[:1] == ("neg",):
        return dataclasses.replace(value, origin=("times", value.origin[1], torch.tensor(-1.0).double(), True))
    return dataclasses.replace(value)


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
    return bool(second.exact and (second.index == Value.fresh(1.0, origin[2]).index).all())


def multiply(call: Call) -> Signal:
    """Products with constants."""
    given = call.bind("input", "other")
    left, right = given["input"], given["other"]
    varying, fixed = (left, right) if isinstance(left, Signal) else (right, left)
    if bool((call.constant(fixed) == 1).all()):
        return call.emit(call.value(varying).expanded(call.broadcast(varying, fixed)), 1.0, "product with a constant")
    readings = _readings(call, varying, fixed)
    result = _scaled(call, varying, torch.maximum(*readings), "product with a constant")
    return _with_factor(result, call.value(varying), call.constant(fixed), unambiguous=torch.equal(*readings))


def divide(call: Call) -> Signal:
    """Quotients by constants."""
    given = call.bind("input", "other", rounding_mode=None)
    if given["rounding_mode"] is not None or not isinstance(given["input"], Signal):
        call.refuse("expected a division by a constant, without rounding")
    readings = _readings(call, given["input"], given["other"])
    divisor = torch.minimum(*readings)
    if bool((divisor == 0).any()):
        call.refuse("expected a divisor other than zero")
    factor = 1 / divisor * (1 + 4 * UNIT_ROUNDOFF)
    result = _scaled(call, given["input"], factor, "quotient by a constant")
    signed = 1 / call.constant(given["other"])
    return _with_factor(result, call.value(given["input"]), signed, unambiguous=torch.equal(*readings))


def _with_factor(result: Signal, before: Value, factor: Tensor, *, unambiguous: bool) -> Signal:
    """Remember the factor, so that a linear segment can be bounded as a whole."""
    if factor.ndim < len(before.shape) or (factor.ndim == len(before.shape) and factor.shape[0] == 1):
        result.value = dataclasses.replace(result.value, origin=("times", before, factor, unambiguous))
    return result


def _readings(call: Call, varying: Any, fixed: Any) -> tuple[Tensor, Tensor]:
    """The absolute value of a constant, as it is written and as torch rounds it to the type of the computation."""
    exact = call.constant(fixed).abs()
    if isinstance(fixed, Tensor) and fixed.ndim > 0:  # torch computes in the larger type
        return exact, exact
    return exact, exact.to(varying.precision).double() if isinstance(varying, Signal) else exact


def _scaled(call: Call, varying: Any, factor: Tensor, method: str) -> Signal:
    value = call.value(varying).expanded(call.broadcast(varying, factor))
    if not bool(torch.isfinite(factor).all()):
        call.refuse("expected a finite factor")
    largest = float(factor.max()) if factor.numel() else 0.0
    uniform = bool((factor == largest).all())
    return call.emit(value.scaled(largest if uniform else factor.expand(value.shape)), largest, method)


def extremum(call: Call) -> Any:
    """``maximum``, ``minimum``, ``hypot`` and ``logaddexp`` of two tensors, or of a tensor and a constant."""
    given = call.bind("input", "other")
    left, right = given["input"], given["other"]
    shape = call.broadcast(left, right)
    if isinstance(left, Signal) and isinstance(right, Signal):
        first, second = (call.value(item).expanded(shape) for item in (left, right))
        # The gradient (p, q) of each element has p^2 + q^2 <= 1.
        call.apart(first, second)
        kind = {"maximum": "larger", "fmax": "larger", "minimum": "smaller", "fmin": "smaller"}.get(call.name)
        origin = (kind, None, first, second) if kind else ()
        both = side_by_side([first, second])
        source = None if both is None else (both, 1.0)
        value = Value.fresh(joint_bound([first, second]), shape, *origin, source=source)
        return call.emit(value, 1.0, "one of two elements")
    varying = left if isinstance(left, Signal) else right
    call.constants_only(right if varying is left else left)
    return call.emit(call.value(varying).expanded(shape).scaled(1.0), 1.0, "largest slope")


def interpolation(call: Call) -> Any:
    """``lerp``: (1 - w) a + w b, for a constant w."""
    given = call.bind("input", "end", "weight")
    weight = call.constant(given["weight"])
    readings = torch.stack([1 - weight, 1 - weight.float().double()])
    rest = readings.gather(0, readings.abs().argmax(0, keepdim=True))[0]
    if bool((rest + weight != 1).any()):
        rest = torch.nextafter(rest, torch.where(rest > 0, math.inf, -math.inf).double())
    first = call.walk.call(torch.mul, (given["input"], rest), {})
    return call.walk.call(torch.add, (first, call.walk.call(torch.mul, (given["end"], weight), {})), {})


def product_added(call: Call) -> Any:
    """``addcmul``: a tensor and a product with a constant."""
    given = call.bind("input", "tensor1", "tensor2", value=1)
    product = call.walk.call(torch.mul, (given["tensor1"], given["tensor2"]), {})
    return call.walk.call(torch.add, (given["input"], product), {"alpha": given["value"]})


def where(call: Call) -> Signal:
    """Choice between tensors by a constant condition."""
    given = call.bind("condition", "input", "other")
    condition = given["condition"]
    call.constants_only(condition)
    shape, parts = call.broadcast(condition, given["input"], given["other"]), []
    for side, chosen in ((given["input"], condition), (given["other"], ~condition)):
        if isinstance(side, Signal):
            value = call.value(side).expanded(shape)
            parts.append(Value(value.anchor, torch.where(chosen.cpu(), value.index, 0.0), value.scale, value.exact))
    if len(parts) == 1:
        return call.emit(parts[0], 1.0, "choice by a constant condition")
    call.apart(*parts)
    return call.emit(Value.fresh(joint_bound(parts), shape), 1.0, "root of the sum of squares")


def masked_fill(call: Call) -> Signal:
    """Constants written over elements."""
    given = call.bind("input", "mask", "value")
    value = call.value(given["input"])
    call.constants_only(given["mask"], given["value"])
    return call.emit(value.rearranged(lambda index: index.masked_fill(given["mask"].cpu(), 0.0)), 1.0, "rearrangement")
