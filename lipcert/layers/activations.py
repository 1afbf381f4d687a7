"""Gradient-norm-preserving activations on channels: each element is compared with one other, or with none."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lipcert.errors import InputError
from lipcert.layers.swaps import as_bits, bits_where_less, swap_into


class MaxMin(nn.Module):
    r"""Larger and smaller of each pair of channels: GroupSort2 up to an order of the channels, on contiguous halves.

    .. math:: y_j = \max(x_j, x_{j + C/2}), \qquad y_{j + C/2} = \min(x_j, x_{j + C/2})

    1-Lipschitz, and its Jacobian is a permutation. At a tie the gradient is that of the identity, and -0 is below
    0. In eval mode plain torch operations run, which :func:`lipcert.lipschitz_upper_bound` recognises as a sort.

    Shapes: ``(N, C, ...)`` to the same, C even.

    Source: Anil, Lucas & Grosse (2019), arXiv 1811.05381.

    Example:
        >>> MaxMin()(torch.tensor([[3.0, 1.0, 2.0, 5.0]]))
        tensor([[3., 5., 2., 1.]])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return maxima, then minima."""
        _check_even(inputs.shape[1])
        if self.training:
            return _MaxMin.apply(inputs)  # type: ignore[no-any-return, no-untyped-call]
        first, second = inputs.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


class _MaxMin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        first, second = inputs.chunk(2, dim=1)
        result = torch.empty_like(inputs)
        larger, smaller = result.chunk(2, dim=1)
        torch.maximum(first, second, out=larger)
        torch.minimum(first, second, out=smaller)
        ctx.save_for_backward(bits_where_less(first, second))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        larger, smaller = gradient.chunk(2, dim=1)
        result = torch.empty_like(gradient)
        first, second = result.chunk(2, dim=1)
        swap_into(larger, smaller, ctx.saved_tensors[0], out=(first, second))
        return result


class HalfAbs(nn.Module):
    r"""Absolute value on the first share of the channels, nothing on the others.

    .. math:: y_j = |x_j| \text{ for } j < \beta C, \qquad y_j = x_j \text{ otherwise}

    1-Lipschitz, and its Jacobian is diagonal with entries 1 and -1. With :math:`\beta = 1/2` it is MaxMin between two
    rotations of each pair, without a second operand. The gradient at 0 is that of the identity, at -0 its negative.

    Args:
        share: :math:`\beta` in [0, 1]; the number of channels is rounded down.

    Shapes: ``(N, C, ...)`` to the same.

    Example:
        >>> HalfAbs()(torch.tensor([[-3.0, 1.0, -2.0, 5.0]]))
        tensor([[ 3.,  1., -2.,  5.]])
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise InputError(f"expected a share in [0, 1], got {share}")
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the folded and the other channels."""
        count = int(self.share * inputs.shape[1])
        if self.training:
            return _HalfAbs.apply(inputs, count)  # type: ignore[no-any-return, no-untyped-call]
        folded, kept = inputs.split([count, inputs.shape[1] - count], dim=1)
        return torch.cat([folded.abs(), kept], dim=1)

    def extra_repr(self) -> str:
        """Return the share."""
        return f"share={self.share}"


class _HalfAbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, count: int) -> Tensor:
        folded = inputs[:, :count]
        result = inputs.clone()
        torch.abs(folded, out=result[:, :count])
        bits = as_bits(folded)
        ctx.save_for_backward(bits & torch.iinfo(bits.dtype).min)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (signs,) = ctx.saved_tensors
        result = gradient.clone()
        as_bits(result[:, : signs.shape[1]]).bitwise_xor_(signs)
        return result, None


class HouseHolder(nn.Module):
    r"""A reflection of each pair of channels, on one side of a line through the origin whose angle is learned.

    .. math:: y = z - 2 \min(\langle v, z \rangle, 0)\, v, \qquad v = (\sin\tfrac\theta2, -\cos\tfrac\theta2)

    for pairs :math:`z = (x_j, x_{j + C/2})`. 1-Lipschitz, and its Jacobian is orthogonal. With :math:`\theta = \pi/2`,
    where training starts, this is :class:`MaxMin`. In eval mode, and when exported, pairs are turned so that the
    reflection is an absolute value, and turned back: three operations with a known bound.

    Args:
        channels: C, even.

    Shapes: ``(N, C, ...)`` to the same.

    Source: Singla, Singla & Feizi (2022), arXiv 2108.04062, order 1.

    Example:
        >>> HouseHolder(4)(torch.tensor([[3.0, 1.0, 2.0, 5.0]])).round(decimals=4).tolist()
        [[3.0, 5.0, 2.0, 1.0]]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        _check_even(channels)
        self.angle = nn.Parameter(torch.full((channels // 2,), math.pi / 2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the pairs, reflected where they are on the far side of their line."""
        if not self.training:
            return _reflected_pairs(inputs, self._turns())
        half = (0.5 * self.angle).view(-1, *[1] * (inputs.ndim - 2))
        sine, cosine = half.sin(), half.cos()
        first, second = inputs.chunk(2, dim=1)
        beyond = (first * sine - second * cosine).clamp_max(0.0) * 2
        return torch.cat([first - beyond * sine, second + beyond * cosine], dim=1)

    def vanilla_export(self) -> nn.Module:
        """Return the same reflections with fixed turns."""
        return PairReflections(self._turns().detach().clone())

    def _turns(self) -> Tensor:
        sine, cosine = (0.5 * self.angle).sin(), (0.5 * self.angle).cos()
        return torch.stack([sine, -cosine, cosine, sine], dim=1).reshape(-1, 2, 1)


class PairReflections(nn.Module):
    """What :class:`HouseHolder` is deployed as.

    Args:
        turns: ``(C, 2, 1)``, for each pair the line's normal and its direction.
    """

    def __init__(self, turns: Tensor) -> None:
        super().__init__()
        self.turns = nn.Parameter(turns)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the reflected pairs, ``(N, C, ...)`` as the inputs."""
        return _reflected_pairs(inputs, self.turns)


def _reflected_pairs(inputs: Tensor, turns: Tensor) -> Tensor:
    pairs = inputs.unflatten(1, (2, -1)).transpose(1, 2).reshape(inputs.shape[0], inputs.shape[1], -1)
    count = len(turns) // 2
    turned = F.conv1d(pairs, turns, groups=count).unflatten(1, (-1, 2))
    folded = torch.stack([turned[:, :, 0].abs(), turned[:, :, 1]], dim=2).flatten(1, 2)
    back = turns.view(count, 2, 2).transpose(1, 2).reshape(-1, 2, 1)
    outputs: Tensor = F.conv1d(folded, back, groups=count).unflatten(1, (-1, 2)).transpose(1, 2)
    return outputs.reshape(inputs.shape)


def _check_even(channels: int) -> None:
    if channels % 2:
        raise InputError(f"expected an even number of channels, got {channels}")
