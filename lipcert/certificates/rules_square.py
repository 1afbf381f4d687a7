r"""Squares on the way to a root: what is summed, averaged or scaled under a root has the constant of a norm.

A square is carried as the :math:`r \ge 0` that it is the square of, so that a sum of squares is a norm of several r, a
factor c on it a factor :math:`\sqrt c` on r, and the root gives r back. Nothing else may be done with a square.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch

from lipcert.certificates import rules_pointwise, rules_pool, rules_shape
from lipcert.certificates.call import Call
from lipcert.certificates.joint import joint_bound
from lipcert.certificates.rounding import UNIT_ROUNDOFF, product_up, sqrt_up, up
from lipcert.certificates.rules_linear import other_dims, reduced_shape
from lipcert.certificates.signal import Signal, Value, signals_in
from lipcert.certificates.walk import Rule


def power(call: Call) -> Signal:
    """``pow`` and ``square``: the square of a tensor, which has no constant before a root is taken."""
    given = call.bind("input", exponent=2)
    if not isinstance(given["exponent"], int | float) or given["exponent"] != 2:
        call.refuse(f"expected the power 2, got {given['exponent']}")
    return square(call, call.value(given["input"]))


def square(call: Call, value: Value) -> Signal:
    """Return the square of a value."""
    return _squared(call.emit(value.scaled(1.0), 1.0, "square under a root"), f"{call.name} of {call.walk.place}")


def product(call: Call) -> Signal:
    """Products: of a tensor with itself, or with a constant."""
    first, second = (*call.args, *call.kwargs.values())[:2]
    if isinstance(first, Signal) and isinstance(second, Signal) and first.value is second.value:
        if first.value.lanes:
            call.refuse("expected at most one factor that depends on the network's input")
        return square(call, call.value(first))
    return rules_pointwise.multiply(call)


def root(call: Call) -> Signal:
    """``sqrt`` of anything but squares: its slope at zero is infinite."""
    call.refuse("expected the root of a sum of squares")


def variance(call: Call) -> Signal:
    """``var`` and ``std``: the norm of what is left of the mean, over the root of their number."""
    given = call.bind("input", dim=None, unbiased=True, keepdim=False, correction=None)
    if isinstance(given["dim"], bool):
        call.refuse("expected dimensions")
    value = call.value(given["input"])
    dims = other_dims(call, given["dim"], len(value.shape))
    correction = int(given["unbiased"]) if given["correction"] is None else given["correction"]
    count = math.prod(value.shape[axis] for axis in dims) - correction
    if count <= 0:
        call.refuse("expected more elements than the correction")
    shape = reduced_shape(value, dims, keepdim=given["keepdim"])
    result = call.fresh(value, up(1 / math.sqrt(count) * (1 + 2**-50)), shape, "norm of the centred elements")
    return result if call.name == "std" else _squared(result, f"var of {call.walk.place}")


def _squared(signal: Signal, place: str) -> Signal:
    signal.value = dataclasses.replace(signal.value, squared=place, origin=())
    return signal


def _root_of(call: Call) -> Signal:
    given = call.bind("input", exponent=0.5)
    if given["exponent"] != 0.5:
        call.refuse("expected the power 1/2 of a sum of squares")
    return call.emit(_plain(call.value(given["input"])).scaled(1.0), 1.0, "root of squares")


def _plain(value: Value) -> Value:
    return dataclasses.replace(value, squared="")


def _as_plain(call: Call, rule: Rule) -> Any:
    """Do to r what the operation does to its square; nothing but squares may be among the tensors."""
    place = call.value(signals_in((call.args, call.kwargs))[0]).squared

    def plain(tree: Any) -> Any:
        if isinstance(tree, Signal):
            if not tree.value.squared:
                call.refuse("expected nothing but squares together with squares")
            return Signal(_plain(tree.value), tree.interpreter, tree.precision, tree.place, tree.memory)
        if isinstance(tree, dict):
            return {key: plain(item) for key, item in tree.items()}
        return type(tree)(map(plain, tree)) if type(tree) in (list, tuple) else tree

    copied = dataclasses.replace(call, args=plain(call.args), kwargs=plain(call.kwargs))
    result = rule(copied)
    for signal in signals_in(result):
        _squared(signal, place)
    return result


def _sum(call: Call) -> Any:
    """Sums and means over dimensions: a norm of disjoint parts."""

    def rule(plain: Call) -> Signal:
        given = plain.bind("input", dim=None, keepdim=False, dtype=None)
        value = plain.value(given["input"])
        dims = other_dims(plain, given["dim"], len(value.shape))
        count = math.prod(value.shape[axis] for axis in dims) if plain.name == "mean" else 1
        gain = 1.0 if count == 1 else up(1 / math.sqrt(count) * (1 + 2**-50))
        return plain.fresh(value, gain, reduced_shape(value, dims, keepdim=given["keepdim"]), "norm of disjoint parts")

    return _as_plain(call, rule)


def _pool(call: Call) -> Any:
    """Average pooling: the norm of a window, over the root of its size."""

    def rule(plain: Call) -> Signal:
        value, gain = plain.value(plain.args[0]), 1.0
        for weights in rules_pool.averages(plain):
            if bool((weights < 0).any()):
                plain.refuse("expected positive weights under the root")
            gain = product_up(gain, float(weights.sum(dim=0).max()) * (1 + 2**-40))
        return plain.fresh(value, sqrt_up(gain), plain.pooled(value), "root of the largest weight of an element")

    return _as_plain(call, rule)


def _add(call: Call) -> Any:
    """A sum of two squares is the square of a norm of two; a constant of at least 0 counts as a square."""
    given = call.bind("input", "other", alpha=1)
    left, right = given["input"], given["other"]
    if given["alpha"] != 1:
        call.refuse("expected alpha 1")
    if isinstance(left, Signal) and isinstance(right, Signal):
        shape = call.broadcast(left, right)
        return _as_plain(call, functools.partial(_hypotenuse, shape=shape))
    signal, constant = (left, right) if isinstance(left, Signal) else (right, left)
    if bool((call.constant(constant) < 0).any()):
        call.refuse("expected a constant of at least 0 under the root")
    value = call.value(signal)
    result = _plain(value).expanded(call.broadcast(left, right)).scaled(1.0)
    return _squared(call.emit(result, 1.0, "constant under a root"), value.squared)


def _hypotenuse(plain: Call, shape: tuple[int, ...]) -> Signal:
    parts = [plain.value(signal).expanded(shape) for signal in signals_in(plain.args)]
    if len(parts) < 2:
        plain.refuse("expected both squares as positional arguments")
    plain.apart(*parts)
    return plain.emit(Value.fresh(joint_bound(parts), shape), 1.0, "norm of two elements")


def _times(call: Call) -> Any:
    """Products and quotients with positive constants: their root is the factor."""
    given = call.bind("input", "other", rounding_mode=None)
    signal, other = given["input"], given["other"]
    if not isinstance(signal, Signal) and call.name == "mul":
        signal, other = other, signal
    if not isinstance(signal, Signal) or isinstance(other, Signal) or given["rounding_mode"] is not None:
        call.refuse("expected a square times a constant")
    exact = call.constant(other)
    readings = torch.stack([exact, exact.to(signal.precision).double()])
    if bool((readings < 0).any()) or (call.name == "div" and bool((readings == 0).any())):
        call.refuse("expected a positive constant under the root")
    factors = (1 / readings if call.name == "div" else readings).amax(0).sqrt() * (1 + 8 * UNIT_ROUNDOFF)
    shape, value = call.broadcast(signal, other), call.value(signal)
    result = _plain(value).expanded(shape).scaled(factors.expand(shape))
    return _squared(call.emit(result, float(factors.max()), "root of a factor"), value.squared)


def _clamp(call: Call) -> Any:
    """Limits, and ReLU: the same on the other side of the root."""
    call.constants_only(call.args[1:], call.kwargs)
    return _as_plain(call, lambda plain: plain.emit(plain.value(plain.args[0]).scaled(1.0), 1.0, "largest slope"))


OF_SQUARES: dict[str, Rule] = {
    **dict.fromkeys(rules_shape.LOOKS, rules_shape.look),
    **dict.fromkeys(rules_shape.MOVES, lambda call: _as_plain(call, rules_shape.move)),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), lambda call: _as_plain(call, rules_shape.concatenate)),
    **dict.fromkeys(("sum", "mean"), _sum),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _pool),
    "add": _add,
    **dict.fromkeys(("mul", "div"), _times),
    **dict.fromkeys(("clamp", "clamp_min", "clip", "relu"), _clamp),
    **dict.fromkeys(("sqrt", "pow"), _root_of),
}
"""What may be done with squares."""
