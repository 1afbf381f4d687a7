"""Float64 arithmetic whose results are never below the exact ones."""

from __future__ import annotations

import math

import torch


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of one operation in a floating-point type, rounded to nearest.

    Example:
        >>> unit_roundoff(torch.float32) == 2.0**-24
        True
    """
    return torch.finfo(dtype).eps / 2


UNIT_ROUNDOFF = unit_roundoff(torch.float64)
"""Largest relative error of one float64 operation, rounded to nearest."""


def up(value: float) -> float:
    """Return the next float64 above a result that was rounded once; exact zeros stay zero.

    Args:
        value: at least 0.
    """
    return math.nextafter(value, math.inf)


def sum_up(*terms: float) -> float:
    """Return an upper bound of the sum of non-negative numbers."""
    total = 0.0
    for term in terms:
        total = term if total == 0 else total if term == 0 else up(total + term)
    return total


def product_up(*factors: float) -> float:
    """Return an upper bound of the product of non-negative numbers; a factor of 0 or 1 costs nothing."""
    if 0.0 in factors:
        return 0.0
    product = 1.0
    for factor in factors:
        product = factor if product == 1 else product if factor == 1 else up(product * factor)
    return product


def sqrt_up(value: float) -> float:
    """Return an upper bound of a square root, exact where the root is.

    Example:
        >>> sqrt_up(9.0), sqrt_up(2.0) > math.sqrt(2.0)
        (3.0, True)
    """
    root = math.sqrt(value)
    exact = root.is_integer() and root < 2**26 and root * root == value
    return root if exact else up(root)


def root_sum_squares_up(*terms: float) -> float:
    """Return an upper bound of the Euclidean norm of non-negative numbers, without overflow or underflow."""
    largest = max(terms, default=0.0)
    if largest == 0 or math.isinf(largest) or sum(term > 0 for term in terms) == 1:
        return largest
    ratios = (min(up(term / largest), 1.0) for term in terms if term > 0)
    return product_up(largest, sqrt_up(sum_up(*(product_up(ratio, ratio) for ratio in ratios))))


def gamma(operations: int, unit: float = UNIT_ROUNDOFF) -> float:
    r"""Return an upper bound of the relative error that a number of roundings accumulates.

    .. math:: \gamma_n = \frac{n u}{1 - n u}

    A sum of n products, in any order and with or without fused operations, is off by at most
    :math:`\gamma_n \sum_i |a_i b_i|`.

    Args:
        operations: the number n of roundings.
        unit: unit roundoff u of the arithmetic.

    Returns:
        The bound, infinite where n u reaches 1.

    Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, Lemma 3.1.
    """
    accumulated = up(operations * unit)
    return up(accumulated / math.nextafter(1.0 - accumulated, 0.0)) if accumulated < 0.5 else math.inf
