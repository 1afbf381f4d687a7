"""Spectral norms of convolutions, from above, with every rounding counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lipcert.certificates.norms import block_norm_upper_bound, scale_back, scale_to_one
from lipcert.certificates.rounding import UNIT_ROUNDOFF, gamma, product_up, sqrt_up, sum_up

# Phase (three quotients, their sum, times 2 pi) and cosine are off by less than 60 roundings; libm by an ulp.
_TWIDDLE_ERROR = 128 * UNIT_ROUNDOFF
_CHUNK_BYTES = 2**28


def zero_padded_norm_upper_bound(
    weight: Tensor,
    size: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> float:
    r"""Return an upper bound of the L2 norm of a zero-padded convolution.

    With n pixels and padding p, the operator is a crop of the circular convolution on any grid of at least n + p
    pixels, so that

    .. math:: \|K\|_2 \le \max_\omega \sigma_{\max}\big(\hat K(\omega)\big).

    A stride keeps every s-th output: the blocks of the s aliased frequencies stand side by side, divided by
    :math:`\sqrt s`. Groups are a block-diagonal operator: the largest group counts. Any number of dimensions.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        size: ``(*spatial)`` of the unpadded input, in pixels.
        stride: per dimension.
        padding: zeros before and after, per dimension.
        dilation: per dimension.
        groups: number of blocked connections.

    Returns:
        The bound, never below the exact norm.

    Raises:
        InputError: weights that are not finite.

    Example:
        >>> mean = torch.full((1, 1, 3), 1 / 3)
        >>> bound = zero_padded_norm_upper_bound(mean, [9], stride=[1], padding=[(1, 1)], dilation=[1])
        >>> 0.98 < bound < 1.0001
        True
    """
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    # Outputs that see nothing but padding are zero rows, so padding beyond the kernel's reach adds nothing.
    grid = [_multiple(n + min(max(pad), r), s) for n, pad, r, s in zip(size, padding, reach, stride, strict=True)]
    return grid_norm_upper_bound(weight, grid, stride=stride, dilation=dilation, groups=groups)


def circular_norm_upper_bound(
    weight: Tensor,
    size: Sequence[int],
    padded: Sequence[int],
    *,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> float:
    """Return an upper bound of the L2 norm of a circularly padded convolution, from its input before the padding.

    The operator is the circular convolution on the unpadded grid; a stride that does not divide the grid visits all
    multiples of their common divisor, and a padding wider than the kernel's reach returns rows more than once.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        size: ``(*spatial)`` before the padding.
        padded: ``(*spatial)`` after it.
        stride: per dimension.
        dilation: per dimension.
        groups: number of blocked connections.

    Returns:
        The bound, nearly exact where no row repeats.

    Raises:
        InputError: weights that are not finite.
    """
    decimation = [math.gcd(n, s) for n, s in zip(size, stride, strict=True)]
    repeats = 1
    for n, m, k, d, s, g in zip(size, padded, weight.shape[2:], dilation, stride, decimation, strict=True):
        rows = (m - d * (k - 1) - 1) // s + 1
        repeats *= -(-rows * g // n)
    circular = grid_norm_upper_bound(weight, size, stride=decimation, dilation=dilation, groups=groups)
    return product_up(sqrt_up(float(repeats)), circular)


def grid_norm_upper_bound(
    weight: Tensor, grid: Sequence[int], *, stride: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> float:
    """Return an upper bound of the norm of a circular convolution on a grid; nearly exact.

    Args:
        weight: ``(C_out, C_in / groups, *kernel)``.
        grid: pixels per dimension, multiples of the stride.
        stride: per dimension.
        dilation: per dimension.
        groups: number of blocked connections.

    Returns:
        The bound, within a relative 1e-6 of the exact norm.

    Raises:
        InputError: weights that are not finite.
    """
    assert all(n % s == 0 for n, s in zip(grid, stride, strict=True))
    scaled, exponent = scale_to_one(weight)
    if scaled is None:
        return 0.0
    blocks_of_group = scaled.reshape(groups, scaled.shape[0] // groups, scaled.shape[1], -1)
    taps = blocks_of_group.shape[-1]
    bound = max(
        block_norm_upper_bound(blocks)
        for blocks in _frequency_blocks(blocks_of_group, weight.shape[2:], grid, stride, dilation)
    )
    # Each entry of a block is a sum of `taps` products with cosines and sines that are themselves slightly off.
    relative = sum_up(gamma(4 * taps + 8), _TWIDDLE_ERROR)
    mass = blocks_of_group.abs().sum(dim=-1).square().sum(dim=(1, 2)).max()
    mass_norm = product_up(sqrt_up(float(mass)), 1 + gamma(4 * blocks_of_group[0].numel()))
    error = product_up(2.0, relative, mass_norm)
    aliases = math.prod(stride)
    return scale_back(
        product_up(sum_up(bound, product_up(sqrt_up(float(aliases)), error)), 1 + 4 * UNIT_ROUNDOFF), exponent
    )


def _frequency_blocks(
    weight: Tensor, kernel: Sequence[int], grid: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[Tensor]:
    """Yield chunks ``(B, C_out, C_in * aliases)`` of blocks over half of the reduced grid; the rest is conjugate."""
    groups, rows, columns, taps = weight.shape
    aliases = math.prod(stride)
    reduced = [n // s for n, s in zip(grid, stride, strict=True)]
    reduced[-1] = reduced[-1] // 2 + 1
    base = _lattice(reduced)
    shifts = _lattice(stride) * torch.tensor([n // s for n, s in zip(grid, stride, strict=True)])
    offsets = _lattice(kernel) * torch.tensor(dilation)
    flat = weight.reshape(-1, taps).T.contiguous()
    chunk = max(1, _CHUNK_BYTES // (16 * groups * rows * columns * aliases))
    for part in torch.split(base, chunk):
        turns = torch.zeros(len(part), aliases, taps, dtype=torch.float64)
        frequencies = part[:, None] + shifts[None]
        for dim, n in enumerate(grid):
            turns += (frequencies[..., dim, None] * offsets[:, dim]) % n / n
        angle = 2 * math.pi * (turns - turns.round()).reshape(-1, taps)
        spectrum = torch.complex(angle.cos() @ flat, angle.sin() @ flat)
        blocks = spectrum.reshape(len(part), aliases, groups, rows, columns).permute(2, 0, 3, 1, 4)
        yield blocks.reshape(groups * len(part), rows, aliases * columns) / math.sqrt(aliases)


def _lattice(shape: Sequence[int]) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape))


def _multiple(value: int, of: int) -> int:
    return -(-value // of) * of


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Return the zeros that ``padding="same"`` puts before and after, per dimension.

    Example:
        >>> same_padding([3, 2], [1, 1])
        [(1, 1), (0, 1)]
    """
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]
