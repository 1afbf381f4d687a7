"""Spectral norms from above, by a symmetric eigenvalue decomposition with its residual or in exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

RATIONAL_ENTRIES = 64
# A Frobenius norm is the root of a sum of fewer than 2^32 squares; this factor covers the rounding of that sum.
_SUMMED = 1 + 1e-6
_UNIT = 2.0**-53


def spectral_norm_upper_bound(matrix: Tensor) -> float:
    """Return an upper bound of the largest singular value of a float64 matrix.

    Exact rational arithmetic proves it for at most 64 entries, an eigenvalue decomposition for more.

    Args:
        matrix: ``(m, n)``, finite.

    Example:
        >>> spectral_norm_upper_bound(torch.tensor([[3.0, 0.0], [4.0, 0.0]])) < 5.00000001
        True
    """
    return rational_norm_bound(matrix) if matrix.numel() <= RATIONAL_ENTRIES else eigenvalue_norm_bound(matrix)


def accumulated(roundings: int) -> float:
    """Return the relative error of a sum of that many rounded terms, gamma in Higham (2002), chapter 3, from above."""
    return roundings * _UNIT / (1 - roundings * _UNIT) * (1 + 4 * _UNIT)


def eigenvalue_norm_bound(matrix: Tensor) -> float:
    r"""Return an upper bound from an approximate decomposition of the Gram matrix, whatever its quality.

    .. math:: \|A\|_2^2 \le \max_i |d_i| \, (1 + \|V^\top V - I\|_F) + \|G - V D V^\top\|_F + \|G - A^\top A\|_F

    The first two Frobenius norms are computed, their own rounding and the last one are bounded beforehand.

    Args:
        matrix: ``(m, n)`` float64, finite.

    Source: Weyl's inequality; Rump (2010), Verification methods, Acta Numerica 19, section 13.

    Example:
        >>> bound = eigenvalue_norm_bound(torch.diag(torch.tensor([1.0, 7.0])))
        >>> 7.0 <= bound < 7.0000001
        True
    """
    largest = float(matrix.abs().max()) if matrix.numel() else 0.0
    if largest == 0:
        return 0.0
    exponent = math.frexp(largest)[1]
    scaled = torch.ldexp(
        torch.ldexp(matrix.double(), torch.tensor(-(exponent // 2))), torch.tensor(exponent // 2 - exponent)
    )
    gram = scaled @ scaled.T if scaled.shape[0] <= scaled.shape[1] else scaled.T @ scaled
    order, terms = len(gram), max(scaled.shape)
    values, vectors = torch.linalg.eigh(gram)
    sizes = vectors.square().sum(0)
    size = float(scaled.square().sum())
    residual = float(torch.linalg.matrix_norm(gram - (vectors * values) @ vectors.T))
    residual += accumulated(order + 3) * float((values.abs() * sizes).sum()) + accumulated(terms + 1) * size
    departure = float(torch.linalg.matrix_norm(vectors.T @ vectors - torch.eye(order, dtype=torch.float64)))
    departure += accumulated(order + 2) * float(sizes.sum())
    square = (float(values.abs().max()) * (1 + departure * _SUMMED) + residual * _SUMMED) * (1 + 2.0**-48)
    return _scaled_root(Fraction(square), exponent)


def rational_norm_bound(matrix: Tensor) -> float:
    r"""Return an upper bound proved without any rounding: :math:`\mu I - A^\top A` has positive pivots.

    Args:
        matrix: ``(m, n)`` float64, finite, small.

    Example:
        >>> bound = rational_norm_bound(torch.tensor([[1e200, 0.0], [0.0, 1e-200]], dtype=torch.float64))
        >>> 1e200 <= bound < 1.0000001e200
        True
    """
    largest = float(matrix.abs().max()) if matrix.numel() else 0.0
    if largest == 0:
        return 0.0
    exponent = math.frexp(largest)[1]
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    exact = [[Fraction(entry) / Fraction(2) ** exponent for entry in row] for row in rows.tolist()]
    gram = [[sum((a * b for a, b in zip(left, right, strict=True)), Fraction()) for right in exact] for left in exact]
    approximate = torch.tensor([[float(entry) for entry in row] for row in gram], dtype=torch.float64)
    estimate = Fraction(float(torch.linalg.eigvalsh(approximate)[-1]))
    slack = Fraction(1, 10**9)
    while not _positive_definite(gram, estimate * (1 + slack)):
        slack *= 4
    return _scaled_root(estimate * (1 + slack), exponent)


def _positive_definite(gram: list[list[Fraction]], shift: Fraction) -> bool:
    """Whether all pivots of ``shift * I - gram`` are positive."""
    rest = [[(shift if i == j else 0) - entry for j, entry in enumerate(row)] for i, row in enumerate(gram)]
    for k, pivot_row in enumerate(rest):
        if pivot_row[k] <= 0:
            return False
        for row in rest[k + 1 :]:
            factor = row[k] / pivot_row[k]
            for j in range(k, len(row)):
                row[j] -= factor * pivot_row[j]
    return True


def _scaled_root(square: Fraction, exponent: int) -> float:
    root = math.sqrt(float(square))
    while Fraction(root) ** 2 < square:
        root = math.nextafter(root, math.inf)
    return math.nextafter(math.ldexp(root, exponent), math.inf)
