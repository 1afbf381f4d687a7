"""Norms of small convolutions from their dense matrix, for any padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.certificates.norms import block_norm_upper_bound, bounded_once, scale_back, scale_to_one
from lipcert.certificates.rounding import gamma, product_up, sqrt_up, sum_up

_LARGEST_MATRIX = 12_000_000


@bounded_once
def dense_norm_upper_bound(
    weight: Tensor,
    positions: Tensor,
    *,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    multiplications: float = 1e9,
) -> float | None:
    """Return an upper bound of the norm of a convolution after a padding, None where its matrix is too large.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        positions: int64 ``(*padded)``: 1 + position of the input pixel that each padded pixel copies, 0 for a zero.
        stride: per dimension.
        dilation: per dimension.
        groups: number of blocked connections.
        multiplications: what the Gram matrix may cost.

    Returns:
        The bound, within a relative 1e-6 of the exact norm.

    Raises:
        InputError: weights that are not finite.

    Example:
        >>> replicated = torch.tensor([1, 1, 2, 3, 3])
        >>> bound = dense_norm_upper_bound(torch.ones(1, 1, 3), replicated, stride=[1], dilation=[1])
        >>> 3.0 <= bound < 3.0001
        True
    """
    scaled, exponent = scale_to_one(weight)
    if scaled is None:
        return 0.0
    kernel, pixels = weight.shape[2:], int(positions.max())
    counts = [
        (n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(positions.shape, dilation, kernel, stride, strict=True)
    ]
    outputs = math.prod(counts)
    blocks = scaled.reshape(groups, scaled.shape[0] // groups, scaled.shape[1], -1)
    rows, columns = outputs * blocks.shape[1], pixels * blocks.shape[2]
    if rows * columns > _LARGEST_MATRIX or groups * rows * columns * min(rows, columns) > multiplications:
        return None
    bound = max(block_norm_upper_bound(_matrix(block, positions, kernel, counts, stride, dilation)) for block in blocks)
    # Where a padding repeats a pixel, several weights add up to one entry.
    mass = sqrt_up(float(blocks.abs().sum(dim=(2, 3)).square().sum(dim=1).max()))
    error = product_up(gamma(2 * blocks.shape[-1] + 2), sqrt_up(float(outputs)), 2.0, mass)
    return scale_back(sum_up(bound, error), exponent)


def _matrix(
    weight: Tensor,
    positions: Tensor,
    kernel: Sequence[int],
    counts: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The matrix ``(1, rows, columns)`` of one group ``(C_out, C_in, taps)``."""
    outputs, pixels = math.prod(counts), int(positions.max())
    matrix = torch.zeros(outputs, pixels + 1, *weight.shape[:2], dtype=torch.float64)
    every = torch.arange(outputs)
    for tap, offset in enumerate(
        torch.cartesian_prod(*(torch.arange(k) for k in kernel)).reshape(-1, len(kernel)).tolist()
    ):
        seen = positions[
            tuple(
                slice(o * d, o * d + (m - 1) * s + 1, s)
                for o, d, m, s in zip(offset, dilation, counts, stride, strict=True)
            )
        ]
        matrix[every, seen.flatten()] += weight[..., tap]
    return matrix[:, 1:].permute(0, 2, 1, 3).reshape(1, outputs * weight.shape[0], -1)
