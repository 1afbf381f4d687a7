"""Linear and convolution layers with an orthogonal weight, whose constraint is one word."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipcert.errors import InputError
from lipcert.layers.block_kernels import OrthogonalKernel
from lipcert.layers.blocked import BlockedConv2d, BlockedLinear, plain_conv2d, plain_linear
from lipcert.layers.constraints import ENGINES
from lipcert.layers.overlapping import AlmostOrthogonalKernel, OverlapScale
from lipcert.layers.polar import orthogonal_matrices
from lipcert.layers.pooling import pair

LinearConstraint = Literal["projection", "bjorck", "polar_express", "cholesky", "cayley", "bro", "aol"]
ConvConstraint = Literal["projection", "bjorck", "polar_express", "cholesky", "cayley", "bro", "aol", "rko", "aoc"]
Pair = int | tuple[int, int]


class OrthogonalLinear(BlockedLinear):
    r"""Linear layer with :math:`\|W\|_2 \le 1`, orthonormal rows, or columns if there are more rows.

    ``"projection"`` leaves the weight a plain parameter: nothing enters the graph, and
    :func:`~lipcert.layers.keep_orthogonal` (or lipcert's training) keeps it on the manifold. The other words are the
    parametrisations of :mod:`lipcert.layers.constraints`, which enter every forward pass; ``"aol"`` is orthogonal only
    as far as training makes it so.

    Args:
        in_features: n.
        out_features: m.
        bias: whether to learn a bias, which starts at zero.
        constraint: how the weight is kept orthogonal.

    Raises:
        InputError: an unknown constraint.

    Example:
        >>> layer = OrthogonalLinear(3, 2)
        >>> (layer.weight @ layer.weight.T).round(decimals=4).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, constraint: LinearConstraint = "projection"
    ) -> None:
        if constraint != "projection" and constraint not in ENGINES:
            raise InputError(f"expected a constraint among projection, {', '.join(ENGINES)}, got {constraint}")
        super().__init__(in_features, out_features, bias)
        self.constraint = constraint
        if constraint != "projection":
            parametrize.register_parametrization(self, "weight", ENGINES[constraint]())

    def reset_parameters(self) -> None:
        """Draw an orthogonal weight; the bias is zero."""
        _start(self, groups=1)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{super().extra_repr()}, constraint={self.constraint}"

    def vanilla_export(self) -> nn.Linear:
        """Return a plain layer with the weight that this one executes with."""
        return plain_linear(self)


class OrthogonalConv2d(BlockedConv2d):
    r"""Convolution of norm at most 1.

    Where windows do not overlap, kernel <= stride, the convolution is a matrix ``(C_out, C_in k1 k2)`` on patches, one
    a group, with orthonormal rows or columns: the words of :class:`OrthogonalLinear`. By default the stride is the
    kernel size. Overlapping windows have three: ``"aoc"`` composes an orthogonal kernel of orthonormal matrices that
    are kept by projection, ``"aol"`` rescales the kernel, and ``"rko"`` divides an orthonormal matrix, kept by
    projection, by the root of the number of windows that a pixel lies in. All hold for zero padding of any width.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: in pixels.
        stride: in pixels; None for the kernel size.
        padding: zeros on either side, in pixels.
        groups: number of blocked connections.
        bias: whether to learn a bias, which starts at zero.
        constraint: how the norm is kept.

    Raises:
        InputError: an unknown constraint, or one that guarantees nothing for windows that overlap.

    Example:
        >>> OrthogonalConv2d(3, 48, 4)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 48, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 1,
        *,
        stride: Pair | None = None,
        padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        constraint: ConvConstraint = "projection",
    ) -> None:
        kernel = pair(kernel_size)
        steps = kernel if stride is None else pair(stride)
        overlapping = kernel[0] > steps[0] or kernel[1] > steps[1]
        if constraint not in get_args(ConvConstraint):
            raise InputError(f"expected a constraint among {', '.join(get_args(ConvConstraint))}, got {constraint}")
        if overlapping and constraint not in ("aoc", "aol", "rko"):
            raise InputError(
                f"expected constraint aoc, aol or rko for windows that overlap, got {constraint} "
                f"with kernel size {kernel} and stride {steps}"
            )
        if constraint == "aoc" and (groups != 1 or kernel[0] < steps[0] or kernel[1] < steps[1]):
            raise InputError(
                f"expected one group and no stride above the kernel size for constraint aoc, got {groups} groups "
                f"with kernel size {kernel} and stride {steps}"
            )
        super().__init__(in_channels, out_channels, kernel, steps, padding, groups=groups, bias=bias)
        self.constraint = constraint
        engine = self._engine(constraint)
        if engine is not None:
            parametrize.register_parametrization(self, "weight", engine)

    def _engine(self, constraint: str) -> nn.Module | None:
        kernel, steps = pair(self.kernel_size), pair(self.stride)
        if constraint == "aol":
            return AlmostOrthogonalKernel(steps, self.groups)
        if constraint == "aoc":
            return OrthogonalKernel(kernel, steps)
        if constraint == "rko":
            with torch.no_grad():
                scale = OverlapScale(kernel, steps)
                self.weight.copy_(scale(self.weight))  # registering asks for the weight before the division
            return scale
        return None if constraint == "projection" else _OfPatches(constraint, self.groups, tuple(self.weight.shape))

    def reset_parameters(self) -> None:
        """Draw an orthogonal matrix for each group; the bias is zero."""
        _start(self, self.groups)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{super().extra_repr()}, constraint={self.constraint}"  # type: ignore[no-untyped-call]

    def vanilla_export(self) -> nn.Conv2d:
        """Return a plain layer with the weight that this one executes with."""
        return plain_conv2d(self)


class _OfPatches(nn.Module):
    """A constraint on matrices, applied to the matrices of a kernel."""

    def __init__(self, constraint: str, groups: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.engine, self.groups, self.shape = ENGINES[constraint](), groups, shape

    def forward(self, raw: Tensor) -> Tensor:
        weight: Tensor = self.engine(raw)
        return weight.reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        raw: Tensor = self.engine.right_inverse(weight.reshape(self.groups, self.shape[0] // self.groups, -1))
        return raw


def _start(layer: nn.Linear | nn.Conv2d, groups: int) -> None:
    shape = layer.weight.shape
    drawn = orthogonal_matrices(groups, shape[0] // groups, math.prod(shape[1:])).reshape(shape)
    with torch.no_grad():
        if parametrize.is_parametrized(layer, "weight"):
            layer.weight = drawn.to(layer.weight)
        else:
            layer.weight.copy_(drawn)
        if layer.bias is not None:
            layer.bias.zero_()
