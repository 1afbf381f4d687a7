"""How the rounding of each operation is bounded: one table, a row an operation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lipcert.blocked_sums import roundings_in_blocks
from lipcert.certificates import rules_pointwise, rules_shape
from lipcert.certificates.float_rules_activations import MORE_ROUNDING_RULES
from lipcert.certificates.float_walk import (
    Lanes,
    Rounding,
    RoundingRule,
    arguments,
    bounds_of,
    computed_size,
    with_lanes,
)
from lipcert.certificates.norms import matrix_norm_upper_bound
from lipcert.certificates.rounding import gamma, product_up, sqrt_up, sum_up
from lipcert.certificates.rules_conv import each
from lipcert.certificates.rules_linear import other_dims
from lipcert.certificates.signal import Signal, signals_in

_FILLS = (
    *("pad", "__setitem__", "where", "masked_fill", "maximum", "minimum", "max", "min", "clamp", "clip", "clamp_min"),
    *("clamp_max", "hardtanh", "relu6", "threshold", "cat", "concat", "concatenate", "stack"),
)


def plain(rounding: Rounding) -> Any:
    """Answers that are no computation: shapes, types, refusals, identities."""
    return rounding.rule(rounding.call)


def exact(rounding: Rounding) -> Any:
    """Operations that return elements of their arguments, their absolute values or negatives."""
    kept = torch.tensor(rounding.constants(whole=rounding.call.name in _FILLS), dtype=torch.float64)
    if not torch.equal(kept.to(rounding.dtype).double(), kept):
        rounding.refuse("expected constants that the arithmetic holds exactly")
    others = list(rounding.lanes())
    offset = _offset(rounding)
    result = rounding.rule(rounding.call)
    results = signals_in([result])
    if offset > 0:
        (only,) = results
        bounds = (only.value.bound, *(lane.value.bound for lane in others))
        rounding.check_range(offset)
        return rounding.finish((bounds[0], sum_up(bounds[1], offset), bounds[2], bounds[3]), only.value.shape)
    known = {id(signal) for signal in arguments(rounding.call)}
    for signal, lanes in zip(results, zip(*(signals_in([other]) for other in others), strict=True), strict=True):
        if id(signal) not in known:
            with_lanes(signal, lanes)
    return result


def _offset(rounding: Rounding) -> float:
    if rounding.call.name not in _FILLS:
        return 0.0
    result = rounding.result_at_zero()
    flat = result if isinstance(result, Tensor) else result[0]
    size = float(flat.double().flatten(1).norm(dim=1).max())
    return size * (1 + 2.0**-20)


def linear(rounding: Rounding) -> Signal:
    """``F.linear``: sums of n products and a bias."""
    given = rounding.call.bind("input", "weight", bias=None)
    weight = given["weight"]
    roundings = _roundings(rounding, weight, given["bias"])
    origin = ("linear", rounding.call.value(given["input"]), weight, given["bias"], roundings)
    return _sum_of_products(rounding, roundings, weight, *origin)


def _roundings(rounding: Rounding, weight: Tensor, bias: Tensor | None, groups: int = 1) -> int:
    """How many roundings lie on the way to an element of a sum of as many products as a row of the weight has."""
    if rounding.call.name in ("linear_in_blocks", "conv2d_in_blocks"):
        return roundings_in_blocks(weight, bias, groups)
    return weight[0].numel() + (bias is not None)


def matmul(rounding: Rounding) -> Signal:
    """Products with a constant matrix, on either side, with or without something added."""
    tensors = [item for item in (*rounding.call.args, *rounding.call.kwargs.values()) if isinstance(item, Tensor)]
    matrix = next((item for item in reversed(tensors) if not isinstance(item, Signal)), tensors[0])
    if rounding.call.name == "addmm":
        given = rounding.call.bind("bias", "input", "matrix", beta=1, alpha=1)
        if (given["beta"], given["alpha"]) != (1, 1):
            rounding.refuse("expected alpha 1 and beta 1")
        matrix = given["matrix"]
    if matrix.ndim != 2:
        rounding.refuse("expected a product with a constant matrix")
    return _sum_of_products(rounding, max(matrix.shape) + 1, matrix)


def convolution(rounding: Rounding) -> Signal:
    """Convolutions: sums of as many products as a kernel has weights; zeros of the padding are exact."""
    given = rounding.call.bind("input", "weight", bias=None, stride=1, padding=0, dilation=1, groups=1)
    count = _roundings(rounding, given["weight"], given["bias"], given["groups"])
    return _sum_of_products(rounding, count, given["weight"], groups=given["groups"])


def transposed_convolution(rounding: Rounding) -> Signal:
    """Transposed convolutions: no element sums more products than all input channels have weights for it."""
    given = rounding.call.bind(
        "input", "weight", bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
    )
    weight = given["weight"]
    count = weight.shape[0] // given["groups"] * weight[0, 0].numel() + (given["bias"] is not None)
    return _sum_of_products(rounding, count, weight, groups=given["groups"])


def _sum_of_products(rounding: Rounding, roundings: int, weight: Tensor, *origin: Any, groups: int = 1) -> Signal:
    if isinstance(weight, Signal):
        rounding.refuse("expected weights that do not depend on the network's input")
    if weight.dtype != rounding.dtype:
        rounding.refuse(f"expected weights of type {rounding.dtype}, got {weight.dtype}")
    return _contraction(rounding, roundings, absolute_norm(weight, groups), *origin)


def absolute_norm(weight: Tensor, groups: int = 1) -> float:
    """Return an upper bound of the norm of a matrix or convolution with the absolute values of its weights.

    Among the frequency responses of a kernel without negative weights the one at frequency zero dominates every other
    entry by entry. Padding with zeros, strides and dilation do not increase the norm.
    """
    exact = weight.detach().cpu().double().abs()
    taps = exact.flatten(2).sum(dim=2) if weight.ndim > 2 else exact
    blocks = taps.reshape(groups, taps.shape[0] // groups, taps.shape[1])
    largest = max(matrix_norm_upper_bound(block) for block in blocks)
    return product_up(largest, 1 + gamma(max(1, weight[0].numel())))


def _contraction(rounding: Rounding, roundings: int, absolute: float | None = None, *origin: Any) -> Signal:
    """A linear operation on one tensor, and what it adds; its own gain is that of its absolute values by default."""
    result = rounding.alone()  # refuses what is not an operation on one tensor
    (source,) = arguments(rounding.call)
    gain = result.value.bound
    factor = gain if absolute is None else absolute
    offset = rounding.at_zero()
    rounding.check_range(max(factor, gain))
    slope, constant = (product_up(factor, size) for size in computed_size(source.value))
    inherited = _times(gain, bounds_of(source.value), offset)
    bounds = rounding.rounded(inherited, (slope, sum_up(constant, offset)), roundings, result.value.shape)
    return rounding.finish(bounds, result.value.shape, *origin)


def _times(gain: float, bounds: Lanes, offset: float) -> Lanes:
    first, second, third, fourth = (product_up(gain, bound) for bound in bounds)
    return (first, sum_up(second, offset), third, fourth)


def scaling(rounding: Rounding) -> Signal:
    """Products and quotients with constants: a few roundings, the constant's own among them."""
    name, call = rounding.call.name, rounding.call
    if len(arguments(call)) != 1:
        rounding.refuse("expected at most one factor that depends on the network's input")
    fixed = [item for item in (*call.args, *call.kwargs.values()) if isinstance(item, Tensor | int | float)]
    constants = [item for item in fixed if not isinstance(item, Signal)]
    if name == "mul" and all(bool((torch.as_tensor(item) == 1).all()) for item in constants):
        return exact(rounding)  # type: ignore[no-any-return]
    rounding.check_constants()
    return _contraction(rounding, 6)


def batch_norm(rounding: Rounding) -> Signal:
    """BatchNorm in eval mode, in any of the ways to compute it."""
    given = rounding.call.bind(
        "input", "running_mean", "running_var", weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    )
    rounding.check_constants()
    source, result = rounding.call.value(given["input"]), rounding.alone()
    gain, offset = result.value.bound, rounding.at_zero()
    mean, bias = (0.0 if given[key] is None else given[key].detach().double().abs() for key in ("running_mean", "bias"))
    pixels = math.prod(source.shape[2:])
    spread = torch.as_tensor(mean * gain + bias, dtype=torch.float64) * (1 + 2.0**-20)
    shift = float(spread.norm()) * (1 + 2.0**-20) * sqrt_up(float(pixels))
    rounding.check_range(gain)
    slope, constant = (product_up(gain, size) for size in computed_size(source))
    exact_lanes = _times(gain, bounds_of(source), offset)
    bounds = rounding.rounded(exact_lanes, (slope, sum_up(constant, shift)), 20, source.shape)
    return rounding.finish(bounds, source.shape)


def add(rounding: Rounding) -> Signal:
    """Sums and differences of tensors, or of a tensor and a constant."""
    rounding.check_constants()
    offset, shape = rounding.at_zero(), rounding.alone().value.shape
    first, *others = (rounding.rule(rounding.copy(lambda s: s.value)), *rounding.lanes())
    bounds = (first.value.bound, *(lane.value.bound for lane in others))
    slope, constant = (
        rounding.alone(lambda signal, part=part: computed_size(signal.value)[part]).value.bound  # type: ignore[misc]
        for part in (0, 1)
    )
    inherited = (bounds[0], sum_up(bounds[1], offset), bounds[2], bounds[3])
    return rounding.finish(rounding.rounded(inherited, (slope, sum_up(constant, offset)), 6, shape), shape)


def reduce_sum(rounding: Rounding) -> Signal:
    """``sum`` and ``mean``."""
    given = rounding.call.bind("input", dim=None, keepdim=False, dtype=None)
    return _contraction(rounding, _reduced(rounding, given) + 2)


def average_pool(rounding: Rounding) -> Signal:
    """``avg_pool1d``, ``2d``, ``3d``."""
    given = rounding.call.bind(
        "input", "kernel_size", stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )
    return _contraction(rounding, math.prod(each(given["kernel_size"], int(rounding.call.name[8]))) + 4)


def adaptive_average_pool(rounding: Rounding) -> Signal:
    """``adaptive_avg_pool1d``, ``2d``, ``3d``."""
    (source,) = arguments(rounding.call)
    return _contraction(rounding, math.prod(source.value.shape[2:]) + 4)


def norm_pool(rounding: Rounding) -> Signal:
    """``lp_pool1d``, ``2d``, ``3d``."""
    given = rounding.call.bind("input", "norm_type", "kernel_size", stride=None, ceil_mode=False)
    return _norms(rounding, math.prod(each(given["kernel_size"], int(rounding.call.name[7]))))


def reduce_norm(rounding: Rounding) -> Signal:
    """Euclidean norms over dimensions."""
    order = "ord" if rounding.call.name == "linalg.vector_norm" else "p"
    given = rounding.call.bind("input", **{order: 2, "dim": None, "keepdim": False, "dtype": None})
    if given[order] not in (2, "fro"):
        rounding.refuse("expected a norm of order 2")
    return _norms(rounding, _reduced(rounding, given))


def _reduced(rounding: Rounding, given: dict[str, Any]) -> int:
    if given["dtype"] not in (None, rounding.dtype):
        rounding.refuse(f"expected sums in {rounding.dtype}, got {given['dtype']}")
    shape = rounding.call.value(given["input"]).shape
    return math.prod(shape[axis] for axis in other_dims(rounding.call, given["dim"], len(shape)))


def _norms(rounding: Rounding, count: int) -> Signal:
    """Roots of sums of squares: relative errors, and squares that underflow or overflow."""
    result = rounding.alone()
    (source,) = arguments(rounding.call)
    gain, shape = result.value.bound, result.value.shape
    slope, constant = computed_size(source.value)
    largest = sum_up(product_up(slope, rounding.walk.reach), constant)
    rounding.check_range(product_up(largest, largest, float(count)))
    size = (product_up(gain, slope), product_up(gain, constant))
    bounds = rounding.rounded(_times(gain, bounds_of(source.value), 0.0), size, count + 10, shape)
    lost = sqrt_up(product_up(float(math.prod(shape[1:])), 4.0 * (count + 10), rounding.tiny))
    return rounding.finish((*bounds[:3], sum_up(bounds[3], lost)), shape)


def convert(rounding: Rounding) -> Any:
    """Moves between devices, and to a finer type where the network may go over to one: exact."""
    result = rounding.rule(rounding.call)
    if result.precision not in (rounding.dtype, rounding.walk.finest):
        rounding.refuse(f"expected no conversion from {rounding.dtype} to {result.precision}")
    return result


ROUNDING_RULES: dict[str, RoundingRule] = {
    **dict.fromkeys((*rules_shape.LOOKS, *rules_shape.BLANKS, *rules_shape.MEASURES), plain),
    **dict.fromkeys(rules_pointwise.DROPOUTS, plain),
    **dict.fromkeys((*rules_shape.MOVES, "view_as", "reshape_as", "expand_as"), exact),
    **dict.fromkeys(rules_shape.CONVERSIONS, convert),
    **dict.fromkeys(_FILLS, exact),
    **dict.fromkeys(("relu", "abs", "absolute", "neg", "negative", "positive", "amax", "amin", "sort"), exact),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), exact),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), exact),
    **dict.fromkeys(("add", "sub", "rsub"), add),
    **dict.fromkeys(("mul", "div", "leaky_relu", "prelu"), scaling),
    "batch_norm": batch_norm,
    **dict.fromkeys(("linear", "linear_in_blocks"), linear),
    **dict.fromkeys(("matmul", "mm", "rmatmul", "addmm"), matmul),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv2d_in_blocks"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution),
    **dict.fromkeys(("sum", "mean"), reduce_sum),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), adaptive_average_pool),
    **dict.fromkeys(("lp_pool1d", "lp_pool2d", "lp_pool3d"), norm_pool),
    **dict.fromkeys(("norm", "linalg.vector_norm"), reduce_norm),
    **MORE_ROUNDING_RULES,
}
"""What is not in the table is refused."""
