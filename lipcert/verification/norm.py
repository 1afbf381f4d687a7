"""Spectral norms from above: an eigenvalue decomposition with its residual, a positive vector, exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

RATIONAL_ENTRIES = 64
# A Frobenius norm is the root of a sum of fewer than 2^32 squares; this factor covers the rounding of that sum.
_SUMMED = 1 + 1e-6
_UNIT = 2.0**-53
_ITERATIONS = 1000
_SMALLEST = 1e-100


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
    scaled, exponent = _scaled(matrix, largest)
    gram = _gram(scaled)
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


def nonnegative_norm_upper_bound(matrix: Tensor) -> float:
    r"""Return an upper bound of the largest singular value of a matrix without negative entries.

    .. math:: \|A\|_2^2 \le \max_i \frac{(A^\top A v)_i}{v_i} \quad \text{for every } v > 0

    The power method gives v; the bound holds for any. Sums without negative terms have small relative errors. At most
    64 entries are treated in exact rationals.

    Args:
        matrix: ``(m, n)`` float64, finite, no entry below 0.

    Source: Collatz (1942), Wielandt (1950); Horn and Johnson (2013), Matrix Analysis, theorem 8.1.26.

    Example:
        >>> bound = nonnegative_norm_upper_bound(torch.full((20, 5), 3.0))
        >>> 30.0 <= bound < 30.0000001
        True
    """
    if matrix.numel() <= RATIONAL_ENTRIES:
        return rational_norm_bound(matrix)
    largest = float(matrix.max())
    if largest == 0:
        return 0.0
    scaled, exponent = _scaled(matrix, largest)
    gram = _gram(scaled)
    vector, square = torch.ones(len(gram), dtype=torch.float64), math.inf
    for _ in range(_ITERATIONS):
        image = gram @ vector
        square = min(square, float((image / vector).max()))
        if square * float(vector @ vector) <= float(vector @ image) * (1 + 1e-9):
            break
        vector = (image / image.max()).clamp_min(_SMALLEST)
    # The last term is more than all that underflows: the scaled entries are at most 1, those of v at least 1e-100.
    square = square * (1 + 2 * accumulated(sum(scaled.shape) + 4)) + 2.0**-400
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


def _scaled(matrix: Tensor, largest: float) -> tuple[Tensor, int]:
    """Return the matrix divided by a power of two above its largest entry, and the exponent; two steps, for range."""
    exponent = math.frexp(largest)[1]
    halves = (-(exponent // 2), exponent // 2 - exponent)
    first = torch.ldexp(matrix.double(), torch.tensor(halves[0]))
    return torch.ldexp(first, torch.tensor(halves[1])), exponent


def _gram(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def _scaled_root(square: Fraction, exponent: int) -> float:
    root = math.sqrt(float(square))
    while Fraction(root) ** 2 < square:
        root = math.nextafter(root, math.inf)
    return math.nextafter(math.ldexp(root, exponent), math.inf)
