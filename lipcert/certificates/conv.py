"""Spectral norms of convolutions, from above, with every rounding counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lipcert.certificates.norms import bounded_once, eigenvalue_upper_bound, scale_back, scale_to_one
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


@bounded_once
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
    taps = scaled.reshape(groups, scaled.shape[0] // groups, scaled.shape[1], -1).permute(0, 3, 1, 2)
    taps, offsets = _polyphase(taps, _lattice(weight.shape[2:]) * torch.tensor(dilation), stride)
    if taps.shape[2] > taps.shape[3]:
        taps = taps.mT
    # Every entry of a Gram matrix is a sum of products of weights, cosines and sines: at most this many roundings, each
    # relative to the same sum over absolute values, whose norm is at most the squared norm of the summed taps.
    count, length = taps.shape[1], taps.shape[3]
    relative = sum_up(gamma(4 * (length + count**2 + 8)), 2 * _TWIDDLE_ERROR)
    mass = float(taps.abs().sum(dim=1).square().sum(dim=(1, 2)).max())
    error = product_up(2.0, relative, mass, 1 + gamma(4 * taps[0].numel()))
    reduced = [n // s for n, s in zip(grid, stride, strict=True)]
    largest = max(eigenvalue_upper_bound(grams, error) for grams in _grams(taps, offsets, reduced))
    return scale_back(sqrt_up(largest), exponent)


def _polyphase(taps: Tensor, offsets: Tensor, stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Turn a strided convolution into one of stride 1 whose channels are the phases of the input.

    Args:
        taps: ``(groups, taps, C_out, C_in)``.
        offsets: ``(taps, dims)``, the pixel that each tap looks at.
        stride: per dimension.
    """
    steps = torch.tensor(stride)
    moved, position = torch.unique(offsets // steps, dim=0, return_inverse=True)
    weights = torch.tensor([math.prod(stride[axis + 1 :]) for axis in range(len(stride))])
    phase = ((offsets % steps) * weights).sum(dim=1)
    groups, _, rows, columns = taps.shape
    phased = torch.zeros(groups, len(moved), math.prod(stride), rows, columns, dtype=torch.float64)
    phased[:, position, phase] = taps
    return phased.permute(0, 1, 3, 2, 4).reshape(groups, len(moved), rows, -1), moved


def _grams(taps: Tensor, offsets: Tensor, grid: Sequence[int]) -> Iterator[Tensor]:
    r"""Yield chunks ``(B, n, n)`` of the Gram matrices over half of the grid's frequencies; the rest is conjugate.

    .. math:: \hat K \hat K^*(\omega) = \sum_{q, r} K_q K_r^\top e^{i \omega (q - r)}
    """
    groups, count, order, _ = taps.shape
    differences = (offsets[:, None] - offsets[None]).reshape(count**2, -1)
    shifts, place = torch.unique(differences, dim=0, return_inverse=True)
    lags = torch.zeros(groups, len(shifts), order, order, dtype=torch.float64)
    for tap, targets in zip(taps.unbind(1), place.reshape(count, count), strict=True):
        lags.index_add_(1, targets, tap[:, None] @ taps.mT)
    half = len(shifts) // 2  # sorted and symmetric: the middle one is zero, lag -d is the transpose of lag d
    flat = lags[:, half + 1 :].transpose(0, 1)
    even, odd = ((flat + sign * flat.mT).reshape(half, groups * order**2) for sign in (1, -1))
    centre = lags[:, half].reshape(1, -1)
    frequencies = _lattice([*grid[:-1], grid[-1] // 2 + 1] if half else [1])  # a single tap is alike at all of them
    for part in torch.split(frequencies, max(1, _CHUNK_BYTES // (16 * groups * order**2))):
        turns = torch.zeros(len(part), half, dtype=torch.float64)
        for axis, n in enumerate(grid if half else ()):
            turns += ((part[:, axis, None] * shifts[half + 1 :, axis]) % n).double() / n
        angle = 2 * math.pi * (turns - turns.round())
        grams = torch.complex(angle.cos() @ even + centre, angle.sin() @ odd)
        yield grams.reshape(-1, order, order)


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
