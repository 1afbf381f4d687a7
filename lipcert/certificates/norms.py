"""Spectral norms of matrices, from above, with every rounding counted."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from lipcert.certificates.rounding import UNIT_ROUNDOFF, gamma, product_up, sqrt_up, sum_up, up
from lipcert.errors import InputError

_EIGENVALUES_OF_ALL = 64
_ROUNDS = 12

Parameters = ParamSpec("Parameters")
Bound = TypeVar("Bound")

_known: ContextVar[dict[Any, Any] | None] = ContextVar("norms bounded so far", default=None)


@contextmanager
def each_norm_once() -> Iterator[None]:
    """Within, no operator's norm is bounded twice.

    An operator is known by the numbers in its weights, not by the tensor that holds them: after a change in place it is
    another one.

    Example:
        >>> weight = torch.eye(2)
        >>> with each_norm_once():
        ...     before, _, after = matrix_norm_upper_bound(weight), weight.mul_(3), matrix_norm_upper_bound(weight)
        >>> before < 1.001 < 2.999 < after
        True
    """
    if _known.get() is not None:
        yield
        return
    outside = _known.set({})
    try:
        yield
    finally:
        _known.reset(outside)


def bounded_once(norm: Callable[Parameters, Bound]) -> Callable[Parameters, Bound]:
    """Let a function of weights and settings take part in :func:`each_norm_once`."""

    @functools.wraps(norm)
    def known_or_bounded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Bound:
        known = _known.get()
        if known is None:
            return norm(*args, **kwargs)
        key = (norm, _content(args), _content(sorted(kwargs.items())))
        if key not in known:
            known[key] = norm(*args, **kwargs)
        return known[key]  # type: ignore[no-any-return]

    return known_or_bounded


def _content(item: Any) -> Any:
    if isinstance(item, Tensor):
        octets = item.detach().cpu().contiguous().flatten().view(torch.uint8)
        return item.shape, item.dtype, hashlib.sha256(octets.numpy().data).digest()
    return tuple(map(_content, item)) if isinstance(item, list | tuple) else item


@bounded_once
def matrix_norm_upper_bound(weight: Tensor) -> float:
    r"""Return an upper bound of a matrix's largest singular value.

    .. math:: \mu I - A^\top A \succeq 0 \;\Rightarrow\; \|A\|_2 \le \sqrt{\mu}

    The Cholesky factorisation proves positive definiteness; the rounding of the Gram matrix and of the factorisation
    are bounded beforehand and added. Never below the exact norm, and within a relative 1e-6 of it.

    Args:
        weight: ``(m, n)``, any real floating-point type.

    Returns:
        The bound, 0 for a zero or empty matrix.

    Raises:
        InputError: not a matrix of finite real numbers.

    Source: Rump (2006), Verification of positive definiteness, BIT 46; Higham (2002), Theorem 10.3.

    Example:
        >>> bound = matrix_norm_upper_bound(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> 4.0 <= bound < 4.00001
        True
    """
    if weight.ndim != 2:
        raise InputError(f"expected a matrix, got shape {tuple(weight.shape)}")
    scaled, exponent = scale_to_one(weight)
    if scaled is None:
        return 0.0
    return scale_back(block_norm_upper_bound(scaled[None]), exponent)


def scale_to_one(weight: Tensor) -> tuple[Tensor | None, int]:
    """Return a float64 copy divided by a power of two so that its largest entry lies in [0.5, 1), and the exponent.

    Nothing over- or underflows afterwards, whatever the size of the entries. None in place of an all-zero tensor.

    Raises:
        InputError: an entry is not a finite real number.
    """
    if not weight.is_floating_point():
        raise InputError(f"expected real floating-point weights, got {weight.dtype}")
    exact = weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(exact).all()):
        raise InputError("expected finite weights, got nan or infinity")
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    if largest == 0:
        return None, 0
    exponent = math.frexp(largest)[1]
    half = exponent // 2  # two steps: one factor may itself lie outside of float64
    return exact * 2.0**-half * 2.0 ** -(exponent - half), exponent


def scale_back(bound: float, exponent: int) -> float:
    """Return ``bound * 2**exponent``, rounded up.

    Raises:
        InputError: the result exceeds float64.
    """
    try:
        scaled = math.ldexp(bound, exponent)
    except OverflowError as error:
        raise InputError("expected a spectral norm within float64, got a larger one") from error
    return scaled if scaled > 2.0**-1000 else up(scaled)


def row_norms_upper_bound(rows: Tensor) -> Tensor:
    """Euclidean norms of ``(M, D)`` rows, each entry of which may carry one rounding, from above."""
    # Row by row a power of two brings the largest entry near 1, so that no square that matters under- or overflows.
    exponents = torch.frexp(rows.abs().amax(1)).exponent
    half = exponents // 2
    scaled = torch.ldexp(torch.ldexp(rows, -half[:, None]), (half - exponents)[:, None])
    norms = torch.linalg.vector_norm(scaled, dim=1) * (1 + gamma(rows.shape[1] + 8))
    restored = torch.ldexp(torch.ldexp(norms, half), exponents - half)
    return torch.where(norms > 0, torch.nextafter(restored, torch.tensor(math.inf, dtype=torch.float64)), 0)


def block_norm_upper_bound(blocks: Tensor) -> float:
    """Return an upper bound of the largest singular value over a batch of float64 or complex128 matrices.

    Args:
        blocks: ``(B, m, n)``, entries of size about 1.
    """
    adjoint = blocks.mH
    rows, columns = blocks.shape[-2:]
    gram = blocks @ adjoint if rows <= columns else adjoint @ blocks
    # |fl(A A*) - A A*| <= gamma |A||A|*, whose norm is at most the squared Frobenius norm; a complex product of sums
    # of n terms is covered by four times the roundings of a real one.
    size = float(torch.linalg.vector_norm(blocks, dim=(-2, -1)).max())
    frobenius = product_up(size, size, 1 + gamma(4 * rows * columns + 8))
    error = product_up(gamma(4 * (max(rows, columns) + 2)), frobenius)
    return sqrt_up(min(eigenvalue_upper_bound(gram, error), frobenius))


def eigenvalue_upper_bound(gram: Tensor, error: float) -> float:
    r"""Return an upper bound of the largest eigenvalue over a batch of positive semidefinite matrices.

    If the Cholesky factorisation of :math:`B = \mu I - G` succeeds, then :math:`R^* R = B + E` with
    :math:`|E| \le \gamma |R^*||R|`, whose norm is at most :math:`\gamma / (1 - \gamma)` times the trace of B, and that
    is at most :math:`n \mu`.

    Args:
        gram: ``(B, n, n)`` Hermitian, float64 or complex128, largest eigenvalue of size about 1; the lower triangle
            counts.
        error: bound of the spectral norm of what its entries are off by.
    """
    order = gram.shape[-1]
    traces = gram.diagonal(dim1=-2, dim2=-1).real.abs().sum(dim=-1)
    trace = sum_up(product_up(float(traces.max()), 1 + gamma(order + 2)), product_up(float(order), error))
    shift = _proved_shift(gram)
    if shift is None:
        return trace
    factor = gamma(4 * (order + 2))
    factorisation = product_up(up(factor / (1 - 2 * factor)), float(order), shift)
    subtraction = product_up(4 * UNIT_ROUNDOFF, shift)
    return min(sum_up(shift, factorisation, subtraction, error), trace)


def _proved_shift(gram: Tensor) -> float | None:
    """A number just above every eigenvalue, for which the Cholesky factorisation of ``shift - gram`` succeeds."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype)
    estimate = _largest_eigenvalue_estimate(gram)
    slack = 1e-7
    for _ in range(_ROUNDS):
        shift = estimate * (1 + slack)
        _, failed = torch.linalg.cholesky_ex(shift * identity - gram)
        gram = gram[failed > 0]
        if not len(gram):
            return shift
        estimate = max(estimate, float(torch.linalg.eigvalsh(gram).max()))
        slack *= 4
    return None


def _largest_eigenvalue_estimate(gram: Tensor) -> float:
    """A good guess, from below or above: what is proved does not depend on it."""
    order = gram.shape[-1]
    if len(gram) > _EIGENVALUES_OF_ALL:
        vectors = torch.ones(len(gram), order, 1, dtype=gram.dtype) + 0.5 * torch.arange(order)[:, None].cos()
        for _ in range(6):
            vectors = gram @ vectors
            sizes = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            vectors = vectors / sizes.clamp_min(1e-300)
        gram = gram[sizes.flatten().topk(8).indices]
    return float(torch.linalg.eigvalsh(gram)[..., -1].max())
