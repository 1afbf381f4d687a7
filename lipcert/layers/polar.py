"""Iterations towards the polar factor of a matrix: the nearest one with orthonormal rows or columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CONVERGED = 1e-13
_MOST_STEPS = 60
_STARTED = 1.5


def orthogonal_matrices(count: int, rows: int, columns: int) -> Tensor:
    """Return random matrices ``(count, rows, columns)`` in float64 with orthonormal rows or columns, uniform.

    Example:
        >>> matrix = orthogonal_matrices(1, 2, 3)[0]
        >>> (matrix @ matrix.T).round(decimals=6).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    tall = torch.randn(count, max(rows, columns), min(rows, columns), dtype=torch.float64)
    any_sign, triangle = torch.linalg.qr(tall)
    factor: Tensor = any_sign * triangle.diagonal(dim1=1, dim2=2).sign()[:, None, :]
    return factor if rows >= columns else factor.mT


def newton_schulz(matrices: Tensor) -> Tensor:
    r"""Return W (3/2 I - 1/2 Wᵀ W) of a batch of matrices, scaled down first where that would not converge.

    The step converges to the polar factor for singular values in :math:`(0, \sqrt 3)` and diverges above
    :math:`\sqrt 5`. The largest eigenvalue of the Gram matrix is estimated by a few products with four vectors;
    where it exceeds 1.5 the Gram matrix is divided down to 1.5.

    Args:
        matrices: ``(B, m, n)``, float32 or float64.

    Returns:
        ``(B, m, n)``; zeros for zeros.

    Example:
        >>> round(newton_schulz(torch.tensor([[[1.1]]])).item(), 4)
        0.9845
    """
    tall = matrices if matrices.shape[1] >= matrices.shape[2] else matrices.mT
    gram = tall.mT @ tall
    excess = (_eigenvalue_estimate(gram) / _STARTED).clamp_min(1.0)
    scaled = tall * excess.rsqrt()
    step = torch.baddbmm(scaled, scaled, gram / excess, beta=1.5, alpha=-0.5)
    return step if tall is matrices else step.mT


def polar_factor(matrix: Tensor) -> Tensor:
    """Return the polar factor of one finite matrix in float64, on its own device.

    Newton-Schulz steps from a proved scale, which double the digits of a matrix that is nearly orthonormal; a singular
    value decomposition where they do not arrive.

    Args:
        matrix: ``(m, n)``, any floating-point type.

    Returns:
        ``(m, n)`` float64 with orthonormal rows or columns, whichever are fewer.

    Example:
        >>> polar_factor(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).round(decimals=9).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    tall = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT).double()
    identity = torch.eye(tall.shape[1], dtype=torch.float64, device=tall.device)
    size = float(norm_squared_upper_bound(tall.mT @ tall))
    shrink = size if 0 < size < 1 else max(1.0, size / _STARTED)
    factor = tall / math.sqrt(shrink)
    for _ in range(_MOST_STEPS):
        gram = factor.mT @ factor
        if bool(torch.linalg.matrix_norm(gram - identity) < _CONVERGED * len(identity)):
            break
        factor = 1.5 * factor - 0.5 * (factor @ gram)
    else:
        left, _, right = torch.linalg.svd(tall, full_matrices=False)
        factor = left @ right
    return factor if matrix.shape[0] >= matrix.shape[1] else factor.mT


def is_orthonormal(matrix: Tensor) -> bool:
    r"""Return whether a matrix is as near to orthonormal as the rounding of its type lets it be.

    .. math:: \|W^\top W - I\|_F \le 1.1\, \epsilon \sqrt n

    on the smaller side, n, which every orthonormal matrix satisfies after rounding to a type of precision
    :math:`\epsilon`.

    Args:
        matrix: ``(m, n)``.

    Example:
        >>> is_orthonormal(torch.eye(3)), is_orthonormal(1.001 * torch.eye(3))
        (True, False)
    """
    tall = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT).double()
    identity = torch.eye(tall.shape[1], dtype=torch.float64, device=tall.device)
    distance = torch.linalg.matrix_norm(tall.mT @ tall - identity)
    return bool(distance <= 1.1 * torch.finfo(matrix.dtype).eps * math.sqrt(len(identity)))


def norm_squared_upper_bound(gram: Tensor) -> Tensor:
    r"""Return an upper bound of the squared norms of matrices, from their Gram matrices.

    .. math:: \sigma_{\max}^2 \le \min\big(\|G\|_\infty,\ \|G\|_F,\ 1 + \|G - I\|_F\big)

    True in exact arithmetic, and near 1 for matrices that are nearly orthonormal.

    Args:
        gram: ``(..., n, n)``.

    Returns:
        ``(..., 1, 1)``.

    Example:
        >>> norm_squared_upper_bound(torch.diag(torch.tensor([1.0, 4.0]))).item()
        4.0
    """
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    distance = torch.linalg.matrix_norm(gram - identity, keepdim=True)
    size = _trace(gram)
    frobenius = size * torch.linalg.matrix_norm(gram / size, keepdim=True)
    rows = torch.linalg.matrix_norm(gram, ord=torch.inf, keepdim=True)
    return torch.minimum(torch.minimum(rows, frobenius), 1 + distance)


def _eigenvalue_estimate(gram: Tensor) -> Tensor:
    """About the largest eigenvalue ``(B, 1, 1)``, never above it by more than rounding."""
    unit = _trace(gram)
    positions = torch.arange(1, gram.shape[-1] + 1, dtype=gram.dtype, device=gram.device)
    phases = 1 + 0.7 * torch.arange(4, dtype=gram.dtype, device=gram.device)  # made there: a copy would wait
    vectors = torch.cos(positions[:, None] * phases).expand(len(gram), -1, -1)
    for _ in range(5):
        vectors = gram @ (vectors / unit)
    longer = gram @ (vectors / unit)
    before = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    after = torch.linalg.vector_norm(longer, dim=1, keepdim=True)
    growth = after / before.clamp_min(torch.finfo(gram.dtype).tiny)
    estimate: Tensor = growth.amax(dim=2, keepdim=True) * unit
    return estimate


def _trace(gram: Tensor) -> Tensor:
    """No entry of a Gram matrix is larger ``(..., 1, 1)``: quotients by it neither over- nor underflow as a whole."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    return trace.clamp_min(torch.finfo(gram.dtype).tiny)
