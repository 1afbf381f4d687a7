"""Residual branches that are known to fit together with the identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipcert.certificates.norms import matrix_norm_upper_bound
from lipcert.certificates.rounding import product_up, sum_up, up
from lipcert.certificates.signal import Value

MONOTONE = ("relu", "relu6", "tanh", "sigmoid", "hardtanh")
"""Elementwise functions with slopes in [0, 1]."""

_ROUNDED = 2.0**-30  # far more than the few roundings to an entry of the kernels below
_AMBIGUOUS = 2.0**-22  # a factor that float32 and float64 read differently


def residual_upper_bound(first: Value, second: Value, sign: float) -> tuple[float, str] | None:
    r"""Return a bound of ``first + sign * second`` as a function of the network's input, None if nothing is known.

    Known are a convolution of the first value, which together with the identity is one convolution, and steps

    .. math:: x - A^\top F \sigma(A x + b), \qquad 0 \le \sigma' \le 1, \quad F \ge 0 \text{ diagonal},

    of Lipschitz constant at most :math:`\max(1, \|F^{1/2} A\|_2^2 - 1)`: two results differ by a symmetric matrix
    between the identity and :math:`I - A^\top F A`, times the difference of the inputs.

    Args:
        first: the skip connection.
        second: the branch.
        sign: the factor of the branch.

    Source: Meunier et al. (2022), arXiv 2110.12690; Araujo et al. (2023), arXiv 2303.03169, theorem 1.
    """
    if first.shape != second.shape or first.lanes or first.bound == 0:
        return None
    factor, branch, slack = _without_factor(second)
    if not branch.is_whole or branch.shape != second.shape or factor.numel() != 1:
        return None
    multiple = sign * float(factor)
    kind = branch.anchor.origin[0] if branch.anchor.origin else None
    if kind == "convolution":
        return _identity_and_convolution(first, branch, multiple, slack)
    return _step(first, branch, multiple, slack) if kind in ("adjoint", "linear") and multiple < 0 else None


def _without_factor(value: Value) -> tuple[Tensor, Value, float]:
    """The constant factor of a value, what it multiplies, and by how much the factor may be off, relatively."""
    factor, slack = torch.ones((), dtype=torch.float64), _ROUNDED
    while value.origin[:1] in (("times",), ("neg",)):
        if value.origin[0] == "neg":
            factor = -factor
        else:
            factor = factor * value.origin[2]
            slack += 0.0 if value.origin[3] else _AMBIGUOUS
        value = value.origin[1]
    return factor, value, slack


def _same(first: Value, second: Value) -> bool:
    """Whether two values are the same apart from constants that were added."""
    if first is second:
        return True
    return first.anchor is second.anchor and first.exact and second.exact and torch.equal(first.index, second.index)


def _identity_and_convolution(first: Value, branch: Value, multiple: float, slack: float) -> tuple[float, str] | None:
    _, source, weight, (zeros, stride, dilation, _groups), norm = branch.anchor.origin
    widths: tuple[int, ...] = ()
    if source.origin[:1] == ("pad",):
        _, _, source, widths = source.origin
    kernel = weight.shape[2:]
    pads = [(widths[2 * at], widths[2 * at + 1]) for at in reversed(range(len(widths) // 2))][-len(kernel) :]
    pads = [(0, 0)] * (len(kernel) - len(pads)) + pads
    centred = all(
        2 * (pad[0] + zero[0]) == d * (k - 1) and pad[0] + zero[0] == pad[1] + zero[1]
        for pad, zero, d, k in zip(pads, zeros, dilation, kernel, strict=True)
    )
    too_many = len(widths) > 2 * len(kernel)
    if not _same(source, first) or too_many or not centred or any(k % 2 == 0 for k in kernel) or set(stride) != {1}:
        return None
    identity = torch.zeros_like(weight)
    channels = torch.arange(weight.shape[0])
    identity[(channels, channels % weight.shape[1], *[k // 2 for k in kernel])] = 1.0
    bound = norm(multiple * weight + identity)
    apart = sum_up(first.bound, product_up(abs(multiple), branch.bound))
    return sum_up(bound, product_up(slack, apart)), "one convolution together with the identity"


def _step(first: Value, branch: Value, multiple: float, slack: float) -> tuple[float, str] | None:
    back, hidden, adjoint, *rest = branch.anchor.origin
    diagonal, active, more = _without_factor(_unpadded(hidden))
    if active.shape != hidden.shape or active.origin[:1] not in [(name,) for name in MONOTONE]:
        return None
    before = active.origin[1]
    origin: tuple[Any, ...] = before.anchor.origin if before.is_whole else ()
    if origin[:1] != (("convolution",) if back == "adjoint" else ("linear",)) or not _same(origin[1], first):
        return None
    weight = origin[2]
    transposed = adjoint if back == "adjoint" else adjoint.mT
    if weight.shape != transposed.shape or not torch.equal(weight, transposed):
        return None
    if back == "adjoint" and rest[0] != origin[3]:
        return None
    rows = _rows(diagonal * -multiple, active.shape, dim=1 if back == "adjoint" else -1)
    if rows is None:
        return None
    scaled = weight * rows.sqrt().reshape(-1, *[1] * (weight.ndim - 1))
    gain = matrix_norm_upper_bound(scaled) if back == "linear" else up(origin[4](scaled) / first.bound)
    steepest = product_up(gain, gain, 1 + slack + more)
    return product_up(first.bound, max(1.0, up(steepest - 1))), "step against a gradient: between -1 and 1"


def _unpadded(value: Value) -> Value:
    while value.origin[:1] == ("pad",) and not any(value.origin[3]):
        value = value.origin[2]
    return value


def _rows(factor: Tensor, shape: tuple[int, ...], dim: int) -> Tensor | None:
    """A factor of at least 0 that depends on the channel alone, one number each."""
    every = factor.expand(1, *shape[1:]).movedim(dim, 0).flatten(1)
    rows = every[:, 0]
    return rows if bool((every == rows[:, None]).all()) and bool((rows >= 0).all()) else None
