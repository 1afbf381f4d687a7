"""Neighbouring pixels brought together without a kernel: shifts, for orthogonal 1 x 1 convolutions to mix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lipcert.errors import InputError

_DIRECTIONS = ((2, 1), (2, -1), (3, 1), (3, -1))


class SpatialShift(nn.Module):
    r"""Moves four groups of channels by some pixels down, up, right and left; the rest stays.

    With :math:`k = \lfloor C / 5 \rfloor` channels a direction, after the first :math:`C - 4 k`, and shift s,

    .. math:: y_{c, i, j} = x_{c, i - s, j},\quad x_{c, i + s, j},\quad x_{c, i, j - s},\quad x_{c, i, j + s}

    Indices wrap around the image: a permutation of the pixels, hence an isometry; or what leaves the image is lost and
    zeros come in: 1-Lipschitz. Between orthogonal 1 x 1 convolutions, several of them see as far as a larger kernel.
    In eval mode plain torch operations run.

    Args:
        shift: s >= 1, in pixels, less than height and width.
        wrap: whether indices wrap around.

    Shapes: ``(N, C, H, W)`` to the same, C >= 5.

    Source: Wu et al. (2018), arXiv 1711.08141 (shifts in place of kernels).

    Example:
        >>> SpatialShift()(torch.arange(20.0).reshape(1, 5, 2, 2))[0, 1].tolist()
        [[6.0, 7.0], [4.0, 5.0]]
    """

    def __init__(self, shift: int = 1, *, wrap: bool = True) -> None:
        super().__init__()
        if shift < 1:
            raise InputError(f"expected a shift >= 1, got {shift}")
        self.shift, self.wrap = shift, wrap

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the shifted channels."""
        if inputs.ndim != 4 or inputs.shape[1] < 5 or min(inputs.shape[2:]) <= self.shift:
            smallest = self.shift + 1
            raise InputError(
                f"expected images (N, C, H, W) with C >= 5, H and W >= {smallest}, got {tuple(inputs.shape)}"
            )
        if self.training:
            return _Shift.apply(inputs, self.shift, self.wrap)  # type: ignore[no-any-return, no-untyped-call]
        kept, *moved = inputs.split(_sizes(inputs.shape[1]), dim=1)
        parts = [self._moved(part, axis, sign) for part, (axis, sign) in zip(moved, _DIRECTIONS, strict=True)]
        return torch.cat([kept, *parts], dim=1)

    def _moved(self, part: Tensor, axis: int, sign: int) -> Tensor:
        offset = sign * self.shift
        if self.wrap:
            return torch.roll(part, offset, axis)
        widths = [0, 0, offset, -offset] if axis == 2 else [offset, -offset, 0, 0]
        return F.pad(part, widths)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"shift={self.shift}, wrap={self.wrap}"


class _Shift(torch.autograd.Function):
    """One pass over the memory there, and the adjoint, the opposite shift, back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, shift: int, wrap: bool) -> Tensor:
        ctx.settings = (shift, wrap)
        return _shifted(inputs, shift, wrap=wrap)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        shift, wrap = ctx.settings
        return _shifted(gradient, -shift, wrap=wrap), None, None


def _sizes(channels: int) -> list[int]:
    moved = channels // 5
    return [channels - 4 * moved, *[moved] * 4]


def _shifted(inputs: Tensor, shift: int, *, wrap: bool) -> Tensor:
    result = torch.empty_like(inputs)
    sizes = _sizes(inputs.shape[1])
    kept, *targets = result.split(sizes, dim=1)
    same, *sources = inputs.split(sizes, dim=1)
    kept.copy_(same)
    for target, source, (axis, sign) in zip(targets, sources, _DIRECTIONS, strict=True):
        _copy_moved(target, source, axis, sign * shift, wrap=wrap)
    return result


def _copy_moved(target: Tensor, source: Tensor, axis: int, offset: int, *, wrap: bool) -> None:
    edge, rest = abs(offset), source.shape[axis] - abs(offset)
    first, second = (edge, 0) if offset > 0 else (0, edge)  # where the bulk goes, where it comes from
    target.narrow(axis, first, rest).copy_(source.narrow(axis, second, rest))
    entering, leaving = (0, rest) if offset > 0 else (rest, 0)
    if wrap:
        target.narrow(axis, entering, edge).copy_(source.narrow(axis, leaving, edge))
    else:
        target.narrow(axis, entering, edge).zero_()
