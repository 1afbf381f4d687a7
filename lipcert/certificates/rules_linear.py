"""Linear operations: matrices, convolutions, sums and means over dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lipcert.certificates.conv import circular_norm_upper_bound, same_padding, zero_padded_norm_upper_bound
from lipcert.certificates.norms import matrix_norm_upper_bound
from lipcert.certificates.rounding import product_up, sqrt_up, up
from lipcert.certificates.signal import Signal
from lipcert.certificates.walk import Call

CHOLESKY = "Cholesky-certified singular value"


def linear(call: Call) -> Signal:
    """``F.linear``."""
    given = call.bind("input", "weight", bias=None)
    value = call.value(given["input"])
    call.constants_only(given["bias"])
    weight = call.constant(given["weight"])
    gain = matrix_norm_upper_bound(weight)
    return call.fresh(value, gain, call.meta_shape(), CHOLESKY, "linear", value, weight)


def matmul(call: Call) -> Signal:
    """Products with a constant matrix, on either side."""
    given = call.bind("input", "other")
    if call.name == "rmatmul":
        given = {"input": given["other"], "other": given["input"]}
    left, right = given["input"], given["other"]
    varying, matrix = (left, call.constant(right)) if isinstance(left, Signal) else (right, call.constant(left))
    if matrix.ndim != 2:
        call.refuse("expected a product with a constant matrix")
    gain = matrix_norm_upper_bound(matrix)
    value = call.value(varying)
    shape = (
        (*value.shape[:-1], matrix.shape[1])
        if varying is left
        else (*value.shape[:-2], matrix.shape[0], value.shape[-1])
    )
    return call.fresh(value, gain, shape, CHOLESKY)


def addmm(call: Call) -> Signal:
    """``addmm(bias, input, matrix)``."""
    given = call.bind("bias", "input", "matrix", beta=1, alpha=1)
    call.constants_only(given["bias"], given["beta"], given["alpha"])
    value, matrix = call.value(given["input"]), call.constant(given["matrix"])
    gain = product_up(abs(float(given["alpha"])), matrix_norm_upper_bound(matrix))
    return call.fresh(value, gain, call.meta_shape(), CHOLESKY)


def convolution(call: Call) -> Signal:
    """``conv1d``, ``conv2d`` and ``conv3d``."""
    given = call.bind("input", "weight", bias=None, stride=1, padding=0, dilation=1, groups=1)
    value, weight = call.value(given["input"]), call.constant(given["weight"])
    call.constants_only(given["bias"])
    dims = int(call.name[4])
    kernel = weight.shape[2:]
    stride, dilation = _each(given["stride"], dims), _each(given["dilation"], dims)
    if isinstance(given["padding"], str):
        padding = same_padding(kernel, dilation) if given["padding"] == "same" else [(0, 0)] * dims
    else:
        padding = [(width, width) for width in _each(given["padding"], dims)]
    if len(value.shape) != dims + 2:
        call.refuse("expected a batch of inputs")
    gain = zero_padded_norm_upper_bound(
        weight, value.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=given["groups"]
    )
    source, method = value, "singular values over a padded frequency grid"
    total = product_up(value.gain, gain)
    if value.padding is not None and value.padding[0] == "circular" and not any(map(any, padding)):
        before = value.padding[1]
        exact = circular_norm_upper_bound(
            weight, before.shape[2:], value.shape[2:], stride=stride, dilation=dilation, groups=given["groups"]
        )
        if product_up(before.gain, exact) < total:
            source, gain, method = before, exact, "singular values over the circular frequency grid"
    return call.fresh(source, gain, call.meta_shape(), method)


def transposed_convolution(call: Call) -> Signal:
    """``conv_transpose1d``, ``2d`` and ``3d``: the adjoint of a convolution, of the same norm."""
    given = call.bind("input", "weight", bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    value, weight = call.value(given["input"]), call.constant(given["weight"])
    call.constants_only(given["bias"])
    dims = int(call.name[-2])
    shape = call.meta_shape()
    gain = zero_padded_norm_upper_bound(
        weight,
        shape[2:],
        stride=_each(given["stride"], dims),
        padding=[(width, width) for width in _each(given["padding"], dims)],
        dilation=_each(given["dilation"], dims),
        groups=given["groups"],
    )
    return call.fresh(value, gain, shape, "adjoint: singular values over a padded frequency grid")


def reduce_sum(call: Call) -> Signal:
    """``sum`` and ``mean`` over dimensions other than the batch."""
    given = call.bind("input", dim=None, keepdim=False, dtype=None)
    value = call.value(given["input"])
    dims = other_dims(call, given["dim"], len(value.shape))
    count = math.prod(value.shape[dim] for dim in dims)
    gain = sqrt_up(float(count)) if call.name == "sum" else up(1 / math.sqrt(count) * (1 + 2**-50))
    gain = 1.0 if count == 1 else gain
    shape = call.meta_shape()
    origin = ("mean", value, shape) if call.name == "mean" and given["keepdim"] else ()
    return call.fresh(value, gain, shape, f"{call.name} of {count} elements", *origin)


def other_dims(call: Call, dim: Any, count: int) -> tuple[int, ...]:
    """Return the dimensions that an operation runs over, none of them the batch."""
    chosen = range(count) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    dims = tuple(sorted(axis % count for axis in (chosen if len(chosen) else range(count))))
    if 0 in dims:
        call.refuse("expected an operation that keeps the samples of a batch apart")
    return dims


def _each(argument: Any, dims: int) -> list[int]:
    values = [int(item) for item in argument] if isinstance(argument, Sequence) else [int(argument)]
    return values * dims if len(values) == 1 else values
