"""Pooling and other reductions, and sorting."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.certificates.call import Call
from lipcert.certificates.norms import matrix_norm_upper_bound
from lipcert.certificates.rounding import UNIT_ROUNDOFF, product_up, sqrt_up, sum_up
from lipcert.certificates.rules_conv import each
from lipcert.certificates.rules_linear import other_dims, reduced_shape
from lipcert.certificates.rules_pointwise import extremum
from lipcert.certificates.signal import Signal, Term, Value

_EXACT_TO = 1 + 16 * UNIT_ROUNDOFF  # entries of the small matrices below are quotients of small integers


def average_pool(call: Call) -> Signal:
    """``avg_pool1d``, ``2d``, ``3d``: a Kronecker product of one small matrix a dimension."""
    given = call.bind(
        "input", "kernel_size", stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )
    value, dims = call.value(given["input"]), int(call.name[8])
    kernel, stride, padding = _window(given, dims)
    gain = 1.0
    for size, k, s, p in zip(_spatial(call, value, dims), kernel, stride, padding, strict=True):
        matrix = _matrix(size, F.avg_pool1d, k, s, p, given["ceil_mode"], given["count_include_pad"])
        gain = product_up(gain, matrix_norm_upper_bound(matrix), _EXACT_TO)
    if given["divisor_override"] is not None:
        if given["ceil_mode"] or not given["count_include_pad"]:
            call.refuse("expected a divisor together with ceil_mode=False and count_include_pad=True")
        gain = product_up(gain, math.prod(kernel) / abs(given["divisor_override"]), _EXACT_TO)
    terms = (Term(value, call.replayed, call.replayed, math.prod(kernel) + 4),)
    return call.fresh(value, gain, call.pooled(value), "Kronecker product of matrix norms", terms=terms)


def adaptive_average_pool(call: Call) -> Signal:
    """``adaptive_avg_pool1d``, ``2d``, ``3d``."""
    given = call.bind("input", "output_size")
    value, dims = call.value(given["input"]), int(call.name[-2])
    shape = call.pooled(value)
    gain = 1.0
    for size, target in zip(_spatial(call, value, dims), shape[-dims:], strict=True):
        matrix = _matrix(size, F.adaptive_avg_pool1d, target)
        gain = product_up(gain, matrix_norm_upper_bound(matrix), _EXACT_TO)
    terms = (Term(value, call.replayed, call.replayed, math.prod(value.shape[2:]) + 4),)
    return call.fresh(value, gain, shape, "Kronecker product of matrix norms", terms=terms)


def interpolate(call: Call) -> Signal:
    """Nearest and linear resampling: a Kronecker product of one small matrix a dimension."""
    given = call.bind(
        *("input",),
        **{"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None},
        **{"recompute_scale_factor": None, "antialias": False},
    )
    value, gain = call.value(given["input"]), 1.0
    dims = len(value.shape) - 2
    if given["mode"] not in ("nearest", "nearest-exact", "linear", "bilinear", "trilinear") or given["antialias"]:
        call.refuse("expected nearest or linear interpolation without antialias")
    mode = given["mode"] if given["mode"].startswith("nearest") else "linear"
    settings = {"align_corners": given["align_corners"], "recompute_scale_factor": given["recompute_scale_factor"]}
    for axis, size in enumerate(value.shape[2:]):
        target = {key: _each_of(given[key], dims)[axis] for key in ("size", "scale_factor")}
        resample = functools.partial(F.interpolate, **target, **settings, mode=mode)
        # Which pixel is the nearest can depend on the type that coordinates are computed in. The weights of linear
        # interpolation are a few roundings of numbers in [0, 1].
        matrices = [_matrix(size, resample), _matrix(size, resample, dtype=torch.float32)]
        norm = max(map(matrix_norm_upper_bound, matrices))
        gain = product_up(gain, sum_up(norm, 2**-40 * math.sqrt(matrices[0].numel())))
    return call.fresh(value, gain, call.pooled(value), "Kronecker product of matrix norms")


def max_pool(call: Call) -> Signal:
    """``max_pool1d``, ``2d``, ``3d``: root of the largest number of windows that share an element."""
    given = call.bind("input", "kernel_size", stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)
    if given["return_indices"]:
        call.refuse("expected max pooling without indices")
    value, dims = call.value(given["input"]), int(call.name[8])
    kernel, stride, padding = _window(given, dims)
    shape, overlap = call.pooled(value), 1
    dilation = each(given["dilation"], dims)
    for size, out, k, s, p, d in zip(
        _spatial(call, value, dims), shape[-dims:], kernel, stride, padding, dilation, strict=True
    ):
        seen = torch.arange(out)[:, None] * s + torch.arange(k) * d - p
        overlap *= int(torch.bincount(seen[(seen >= 0) & (seen < size)]).max())
    return call.fresh(value, sqrt_up(float(overlap)), shape, f"windows share an element up to {overlap} times")


def adaptive_max_pool(call: Call) -> Signal:
    """``adaptive_max_pool1d``, ``2d``, ``3d``."""
    given = call.bind("input", "output_size", return_indices=False)
    if given["return_indices"]:
        call.refuse("expected max pooling without indices")
    value, dims = call.value(given["input"]), int(call.name[-2])
    shape = call.pooled(value)
    overlap = 1
    for size, target in zip(_spatial(call, value, dims), shape[-dims:], strict=True):
        matrix = _matrix(size, F.adaptive_avg_pool1d, target)
        overlap *= int((matrix != 0).sum(dim=0).max())
    return call.fresh(value, sqrt_up(float(overlap)), shape, f"windows share an element up to {overlap} times")


def norm_pool(call: Call) -> Signal:
    """``lp_pool1d``, ``2d``, ``3d`` with p = 2.

    In a window cut off by ``ceil_mode`` torch scales the norm up to the full window's size; that is counted.
    """
    given = call.bind("input", "norm_type", "kernel_size", stride=None, ceil_mode=False)
    if given["norm_type"] != 2:
        call.refuse("expected a pooling norm of 2")
    value, dims, gain = call.value(given["input"]), int(call.name[7]), 1.0
    kernel, stride, _ = _window({**given, "padding": 0}, dims)
    for size, k, s in zip(_spatial(call, value, dims), kernel, stride, strict=True):
        matrix = _matrix(size, F.avg_pool1d, k, s, 0, given["ceil_mode"])
        weight = float((matrix * k).sum(dim=0).max())
        gain = product_up(gain, weight if weight == round(weight) else weight * _EXACT_TO)
    return call.fresh(value, sqrt_up(gain), call.pooled(value), "root of the largest weight of an element")


def reduce_norm(call: Call) -> Signal:
    """Euclidean norms over dimensions other than the batch."""
    order = "ord" if call.name == "linalg.vector_norm" else "p"
    given = call.bind("input", **{order: 2, "dim": None, "keepdim": False, "dtype": None})
    if given[order] not in (2, 2.0, "fro"):
        call.refuse("expected a norm of order 2")
    return _contraction(call, given, "norms of disjoint parts")


def extreme(call: Call) -> Any:
    """``amax``, ``amin``, ``logsumexp``, and ``max`` and ``min`` over a dimension, whose indices are not for use."""
    if call.name in ("max", "min"):
        if any(isinstance(item, Tensor) for item in (*call.args[1:], *call.kwargs.values())):
            call.name = {"max": "maximum", "min": "minimum"}[call.name]
            return extremum(call)
        given = call.bind("input", "dim", keepdim=False)
        signal = _contraction(call, given, "one element of disjoint parts")
        return_type = getattr(torch.return_types, call.name)
        return return_type((signal, None))
    return _contraction(call, call.bind("input", dim=(), keepdim=False), "gradient of norm at most 1")


def sort(call: Call) -> Any:
    """``sort`` along a dimension: a permutation that depends on the input but is 1-Lipschitz."""
    given = call.bind("input", dim=-1, descending=False, stable=None)
    value = call.value(given["input"])
    other_dims(call, given["dim"], len(value.shape))
    signal = call.fresh(value, 1.0, value.shape, "sorting never pulls apart")
    return torch.return_types.sort((signal, None))  # type: ignore[arg-type]


def softmax(call: Call) -> Signal:
    """Softmax: by Gershgorin the Jacobian diag(p) - p p^T has no eigenvalue above max 2 p (1 - p) <= 1/2."""
    given = call.bind("input", dim=None, _stacklevel=3, dtype=None)
    value = call.value(given["input"])
    if given["dim"] is None:
        call.refuse("expected a dimension")
    dims = other_dims(call, given["dim"], len(value.shape))
    if call.name == "softmax":
        return call.fresh(value, 0.5, value.shape, "Gershgorin")
    # I - 1 p^T is an oblique projection, of norm |1| |p| <= sqrt(n).
    gain = sqrt_up(float(value.shape[dims[0]]))
    return call.fresh(value, gain, value.shape, "norm of an oblique projection")


def _contraction(call: Call, given: dict[str, Any], method: str) -> Signal:
    value = call.value(given["input"])
    dims = other_dims(call, given["dim"], len(value.shape))
    shape = reduced_shape(value, dims, keepdim=given["keepdim"])
    kind = {"max": "larger", "amax": "larger", "min": "smaller", "amin": "smaller"}.get(call.name)
    pairs = kind is not None and math.prod(value.shape[axis] for axis in dims) == 2
    return call.fresh(value, 1.0, shape, method, *((kind, dims, value) if pairs else ()))


def _window(given: dict[str, Any], dims: int) -> tuple[list[int], list[int], list[int]]:
    kernel = each(given["kernel_size"], dims)
    stride = given["stride"]
    chosen = kernel if stride is None or stride == [] or stride == () else each(stride, dims)
    return kernel, chosen, each(given["padding"], dims)


def _spatial(call: Call, value: Value, dims: int) -> tuple[int, ...]:
    if len(value.shape) != dims + 2:
        call.refuse("expected a batch of inputs")
    return value.shape[2:]


def _matrix(size: int, pool: Callable[..., Tensor], *settings: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """The matrix of a linear map on one dimension, by feeding the identity."""
    return pool(torch.eye(size, dtype=dtype)[:, None], *settings)[:, 0].T


def _each_of(argument: Any, dims: int) -> list[Any]:
    return list(argument) if isinstance(argument, Sequence) else [argument] * dims
