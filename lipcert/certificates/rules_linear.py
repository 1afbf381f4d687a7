"""Linear operations: matrices, sums and means over dimensions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.certificates.call import Call
from lipcert.certificates.norms import matrix_norm_upper_bound
from lipcert.certificates.rounding import product_up, sqrt_up, up
from lipcert.certificates.signal import Signal, Term, Value

CHOLESKY = "Cholesky-certified singular value"


def linear(call: Call) -> Signal:
    """``F.linear``."""
    given = call.bind("input", "weight", bias=None)
    value = call.value(given["input"])
    call.constants_only(given["bias"])
    weight = call.constant(given["weight"])
    if len(value.shape) < 2 or weight.ndim != 2:
        call.refuse("expected a batch of vectors and a matrix")
    call.fits(value.shape[-1], weight.shape[1])
    gain = matrix_norm_upper_bound(weight)
    return call.fresh(
        value,
        gain,
        (*value.shape[:-1], weight.shape[0]),
        CHOLESKY,
        "linear",
        value,
        weight,
        terms=_matrix_terms(value, weight),
    )


def addmm(call: Call) -> Signal:
    """``addmm(bias, input, matrix)``."""
    given = call.bind("bias", "input", "matrix", beta=1, alpha=1)
    call.constants_only(given["bias"], given["beta"], given["alpha"])
    value, matrix = call.value(given["input"]), call.constant(given["matrix"])
    if len(value.shape) != 2:
        call.refuse("expected a batch of vectors")
    call.fits(value.shape[-1], matrix.shape[0])
    gain = product_up(abs(float(given["alpha"])), matrix_norm_upper_bound(matrix))
    return call.fresh(value, gain, (*value.shape[:-1], matrix.shape[1]), CHOLESKY)


def reduce_sum(call: Call) -> Signal:
    """``sum`` and ``mean`` over dimensions other than the batch."""
    given = call.bind("input", dim=None, keepdim=False, dtype=None)
    value = call.value(given["input"])
    dims = other_dims(call, given["dim"], len(value.shape))
    count = math.prod(value.shape[dim] for dim in dims)
    gain = sqrt_up(float(count)) if call.name == "sum" else up(1 / math.sqrt(count) * (1 + 2**-50))
    gain = 1.0 if count == 1 else gain
    shape = reduced_shape(value, dims, keepdim=given["keepdim"])
    origin = ("mean", value, shape) if call.name == "mean" and given["keepdim"] else ()
    reduce = functools.partial(torch.sum if call.name == "sum" else torch.mean, dim=dims, keepdim=given["keepdim"])
    terms = (Term(value, reduce, reduce, count + 1),)
    return call.fresh(value, gain, shape, f"{call.name} of {count} elements", *origin, terms=terms)


def _matrix_terms(value: Value, weight: Tensor) -> tuple[Term, ...]:
    apply, absolute = (functools.partial(F.linear, weight=matrix) for matrix in (weight, weight.abs()))
    return (Term(value, apply, absolute, weight.shape[1]),)


def reduced_shape(value: Value, dims: Sequence[int], *, keepdim: bool) -> list[int]:
    """Return the shape that is left after a reduction over these dimensions."""
    sizes = [1 if axis in dims else size for axis, size in enumerate(value.shape)]
    return sizes if keepdim else [size for axis, size in enumerate(sizes) if axis not in dims]


def other_dims(call: Call, dim: Any, count: int) -> tuple[int, ...]:
    """Return the dimensions that an operation runs over, none of them the batch."""
    chosen = range(count) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    dims = tuple(sorted(axis % count for axis in (chosen if len(chosen) else range(count))))
    if 0 in dims:
        call.refuse("expected an operation that keeps the samples of a batch apart")
    return dims
