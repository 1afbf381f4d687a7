"""Pooling and other reductions, and sorting."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.certificates.call import Call
from lipcert.certificates.norms import matrix_norm_upper_bound
from lipcert.certificates.rounding import UNIT_ROUNDOFF, product_up, sqrt_up, sum_up
from lipcert.certificates.rules_conv import each
from lipcert.certificates.rules_linear import CHOLESKY, other_dims, reduced_shape
from lipcert.certificates.rules_pointwise import extremum
from lipcert.certificates.signal import Signal, Term, Value, signals_in

_EXACT_TO = 1 + 16 * UNIT_ROUNDOFF  # entries of the small matrices below are quotients of small integers


def averages(call: Call) -> Iterator[Tensor]:
    """Yield the small matrices whose Kronecker product an average pooling is, one a dimension."""
    if call.name.startswith("adaptive"):
        given = call.bind("input", "output_size")
        value, dims = call.value(given["input"]), int(call.name[-2])
        for size, target in zip(_spatial(call, value, dims), call.pooled(value)[-dims:], strict=True):
            yield _matrix(size, F.adaptive_avg_pool1d, target)
        return
    given = call.bind(
        "input", "kernel_size", stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )
    value, dims = call.value(given["input"]), int(call.name[8])
    kernel, stride, padding = _window(given, dims)
    for size, k, s, p in zip(_spatial(call, value, dims), kernel, stride, padding, strict=True):
        yield _matrix(size, F.avg_pool1d, k, s, p, given["ceil_mode"], given["count_include_pad"])
    if given["divisor_override"] is not None:
        if given["ceil_mode"] or not given["count_include_pad"]:
            call.refuse("expected a divisor together with ceil_mode=False and count_include_pad=True")
        if given["divisor_override"] < 0:
            call.refuse("expected a positive divisor")
        yield torch.tensor([[math.prod(kernel) / given["divisor_override"]]], dtype=torch.float64)


def average_pool(call: Call) -> Signal:
    """``avg_pool1d``, ``2d``, ``3d``, adaptive or not: a Kronecker product of one small matrix a dimension."""
    gain, window = 1.0, 1
    for matrix in averages(call):
        gain = product_up(gain, matrix_norm_upper_bound(matrix), _EXACT_TO)
        window *= int((matrix != 0).sum(dim=1).max())
    (signal,) = signals_in((call.args, call.kwargs))
    value = call.value(signal)
    terms = (Term(value, call.replayed, call.replayed, window + 4),)
    return call.fresh(value, gain, call.pooled(value), "Kronecker product of matrix norms", terms=terms)


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
    """Norms of order 1, 2 and infinity over dimensions other than the batch."""
    order, default = "p" if call.name == "norm" else "ord", None if call.name == "linalg.norm" else 2
    given = call.bind("input", **{order: default, "dim": None, "keepdim": False, "dtype": None})
    value = call.value(given["input"])
    dims = other_dims(call, given["dim"], len(value.shape))
    chosen = given[order]
    is_matrix_norm = call.name == "linalg.norm" and len(dims) == 2
    chosen = 2 if chosen is None or (chosen == "fro" and (len(dims) == 2 or call.name == "norm")) else chosen
    if chosen not in (1, 2, math.inf) or (is_matrix_norm and given[order] not in (None, "fro")):
        call.refuse("expected a norm of order 1, 2 or infinity")
    shape = reduced_shape(value, dims, keepdim=given["keepdim"])
    count = math.prod(value.shape[axis] for axis in dims)
    gain = sqrt_up(float(count)) if chosen == 1 else 1.0
    return call.fresh(value, gain, shape, "norms of disjoint parts")


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


def select(call: Call) -> Any:
    """``topk``, ``kthvalue`` and ``median`` over a dimension: some elements of the sorted ones."""
    given = call.bind("input", *(() if call.name == "median" else ("k",)), **_SELECTIONS[call.name])
    value = call.value(given["input"])
    if given["dim"] is None:
        call.refuse("expected a dimension")
    dims = other_dims(call, given["dim"], len(value.shape))
    count = given["k"] if call.name == "topk" else 1
    shape = reduced_shape(value, dims, keepdim=call.name == "topk" or given["keepdim"])
    if call.name == "topk":
        shape[dims[0]] = count
    signal = call.fresh(value, 1.0, shape, "part of a sort, which never pulls apart")
    return getattr(torch.return_types, call.name)((signal, None))


_SELECTIONS: dict[str, dict[str, Any]] = {
    "topk": {"dim": -1, "largest": True, "sorted": True},
    "kthvalue": {"dim": -1, "keepdim": False},
    "median": {"dim": None, "keepdim": False},
}


def softmax(call: Call) -> Signal:
    """Softmax: by Gershgorin the Jacobian diag(p) - p p^T has no eigenvalue above max 2 p (1 - p) <= 1/2."""
    given = call.bind("input", dim=None, _stacklevel=3, dtype=None)
    value = call.value(given["input"])
    if given["dim"] is None:
        call.refuse("expected a dimension")
    dims = other_dims(call, given["dim"], len(value.shape))
    if call.name in ("softmax", "softmin"):
        return call.fresh(value, 0.5, value.shape, "Gershgorin")
    # I - 1 p^T is an oblique projection, of norm |1| |p| <= sqrt(n).
    gain = sqrt_up(float(value.shape[dims[0]]))
    return call.fresh(value, gain, value.shape, "norm of an oblique projection")


def fold(call: Call) -> Signal:
    """``fold``: adds up patches; a pixel is the sum of as many elements as there are patches that cover it."""
    given = call.bind("input", "output_size", "kernel_size", dilation=1, padding=0, stride=1)
    value = call.value(given["input"])
    if len(value.shape) != 3:
        call.refuse("expected a batch of patches")
    sums = call.replayed(torch.ones(1, *value.shape[1:]))
    terms = (Term(value, call.replayed, call.replayed, value.shape[2]),)
    overlap = int(sums.max())
    shape = (value.shape[0], *sums.shape[1:])
    return call.fresh(value, sqrt_up(float(overlap)), shape, f"sums of up to {overlap} elements", terms=terms)


def along(call: Call) -> Signal:
    """``cumsum`` and ``diff`` along a dimension."""
    given = call.bind("input", **({"n": 1, "dim": -1} if call.name == "diff" else {"dim": None, "dtype": None}))
    value = call.value(given["input"])
    (axis,) = other_dims(call, given["dim"], len(value.shape))
    if given.get("n", 1) != 1 or given.get("dtype") is not None:
        call.refuse("expected differences of order 1, or sums of the input's type")
    matrix = getattr(torch, call.name)(torch.eye(value.shape[axis], dtype=torch.float64), dim=0)
    shape = [matrix.shape[0] if at == axis else size for at, size in enumerate(value.shape)]
    terms = (Term(value, call.replayed, _of_absolutes(call), value.shape[axis]),)
    return call.fresh(value, matrix_norm_upper_bound(matrix), shape, CHOLESKY, terms=terms)


def _of_absolutes(call: Call) -> Callable[[Tensor], Tensor]:
    """The operation with the absolute values of its weights; a difference becomes a sum."""
    if call.name == "cumsum":
        return call.replayed

    def sums(inputs: Tensor) -> Tensor:
        dim = call.bind("input", n=1, dim=-1)["dim"]
        size = inputs.shape[dim] - 1
        return inputs.narrow(dim, 0, size) + inputs.narrow(dim, 1, size)

    return sums


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
