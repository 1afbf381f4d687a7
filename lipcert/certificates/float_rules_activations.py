"""Rounding of products with constant tensors, running sums, parts of a sort, and reflections."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lipcert.certificates.float_walk import (
    Rounding,
    RoundingRule,
    arguments,
    bounds_of,
    computed_size,
    with_lanes,
)
from lipcert.certificates.rounding import product_up
from lipcert.certificates.signal import Signal, Value, signals_in

_ROUNDINGS_OF_A_REFLECTION = 96


def composed(rounding: Rounding) -> Any:
    """Operations that the Lipschitz rule makes of others: each of those counts its own rounding."""
    return rounding.rule(rounding.call)


def product(rounding: Rounding) -> Signal:
    """Einstein sums of a tensor and a constant: as many products are added up as the Lipschitz rule says."""
    constants = [item for item in _tensors(rounding) if not isinstance(item, Signal)]
    if any(constant.dtype != rounding.dtype for constant in constants):
        rounding.refuse(f"expected weights of type {rounding.dtype}, got {constants[0].dtype}")
    absolute = rounding.copy(lambda signal: Value.fresh(1.0, signal.value.shape))
    absolute.args, absolute.kwargs = (_absolute(tree) for tree in (absolute.args, absolute.kwargs))
    return _linear(rounding, rounding.rule(absolute).value.bound)


def running_sum(rounding: Rounding) -> Signal:
    """``cumsum`` and ``fold``, whose weights are ones, and ``diff``, whose weights are at most twice that."""
    return _linear(rounding, product_up(2.0, rounding.alone().value.bound))


def _linear(rounding: Rounding, absolute: float) -> Signal:
    """A linear operation on one tensor that adds nothing, of a norm with absolute values in place of all numbers."""
    result = rounding.alone()
    (source,) = arguments(rounding.call)
    (term,) = result.value.anchor.terms
    gain, shape = result.value.bound, result.value.shape
    rounding.check_range(max(absolute, gain))
    slope, constant = (product_up(absolute, size) for size in computed_size(source.value))
    first, second, third, fourth = (product_up(gain, bound) for bound in bounds_of(source.value))
    bounds = rounding.rounded((first, second, third, fourth), (slope, constant), term.roundings + 1, shape)
    return rounding.finish(bounds, shape)


def _tensors(rounding: Rounding) -> list[Tensor]:
    items: list[Any] = []
    for item in (*rounding.call.args, *rounding.call.kwargs.values()):
        items += item if isinstance(item, list | tuple) else [item]
    return [item for item in items if isinstance(item, Tensor)]


def _absolute(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _absolute(item) for key, item in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(map(_absolute, tree))
    return tree.abs() if isinstance(tree, Tensor) and not isinstance(tree, Signal) else tree


def selected(rounding: Rounding) -> Any:
    """Operations that return elements of their arguments: exact."""
    if any(not isinstance(item, Signal) for item in _tensors(rounding)):
        rounding.refuse("expected no constant")
    others = [signals_in([other]) for other in rounding.lanes()]
    result = rounding.rule(rounding.call)
    for signal, lanes in zip(signals_in([result]), zip(*others, strict=True), strict=True):
        with_lanes(signal, lanes)
    return result


def reflection(rounding: Rounding) -> Signal:
    r"""HouseHolder: two products and a sum with sines and cosines that are good to a few units in the last place.

    Where rounding takes the wrong side of the hyperplane, the point is no further from it than the selector's own error
    :math:`\gamma (|x| + |y|)`, and the two sides differ by twice that: together with the products less than
    :math:`5 \gamma_{16} \|(x, y)\|`.
    """
    result = rounding.alone()
    (source,) = arguments(rounding.call)
    gain, shape = result.value.bound, result.value.shape
    first, second, third, fourth = (product_up(gain, bound) for bound in bounds_of(source.value))
    size = computed_size(source.value)
    bounds = rounding.rounded((first, second, third, fourth), size, _ROUNDINGS_OF_A_REFLECTION, shape)
    return rounding.finish(bounds, shape)


MORE_ROUNDING_RULES: dict[str, RoundingRule] = {
    **dict.fromkeys(("lerp", "addcmul"), composed),
    **dict.fromkeys(("einsum", "tensordot", "inner", "matmul", "mm", "rmatmul"), product),
    **dict.fromkeys(("cumsum", "diff", "fold"), running_sum),
    **dict.fromkeys(("topk", "kthvalue", "median", "fmax", "fmin"), selected),
    "HouseHolder": reflection,
}
"""Rules beside those of :mod:`lipcert.certificates.float_rules`, which takes them up."""
