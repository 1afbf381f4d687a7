"""L2-norm pooling with one pass back."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from deel import torchlip
from torch import Tensor
from torch.autograd.function import once_differentiable


class L2NormPool2d(torchlip.ScaledL2NormPool2d):  # type: ignore[misc]
    r"""Norms of disjoint windows: torchlip's layer, value for value, with a shorter backward pass.

    .. math:: y_w = \sqrt{\sum_{i \in w} x_i^2}, \qquad \partial y_w / \partial x_i = x_i / y_w

    The gradient of a window of zeros is 0. In eval mode, and for windows that do not tile the image, torchlip's own
    code runs; ``torch.nn.LPPool2d`` is what is exported.

    Shapes: ``(N, C, H, W)`` to ``(N, C, H // kernel, W // kernel)``.

    Example:
        >>> L2NormPool2d((2, 2))(torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]])).item()
        5.0
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the windows' norms."""
        kernel = pair(self.kernel_size)
        if self.training and self._coefficient_lip == 1.0 and tiled(inputs, kernel):
            return window_norms(inputs, kernel)
        return super().forward(inputs)  # type: ignore[no-any-return]


def pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """Return a size for height and width.

    Example:
        >>> pair(2), pair((2, 3))
        ((2, 2), (2, 3))
    """
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def tiled(inputs: Tensor, kernel: tuple[int, int]) -> bool:
    """Return whether windows of this size tile images ``(N, C, H, W)``."""
    return inputs.ndim == 4 and inputs.shape[2] % kernel[0] == 0 and inputs.shape[3] % kernel[1] == 0


def window_norms(inputs: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Return the L2 norms of windows that tile images ``(N, C, H, W)``, with one pass back.

    Example:
        >>> window_norms(torch.tensor([[[[3.0, 4.0]]]]), (1, 2)).item()
        5.0
    """
    return _WindowNorms.apply(inputs, kernel)  # type: ignore[no-any-return, no-untyped-call]


class _WindowNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kernel: tuple[int, int]) -> Tensor:
        # The same operations in the same order as LPPool2d, so that training and deployment agree to the bit.
        norms = _window_means(inputs.square(), kernel).mul_(kernel[0] * kernel[1]).sqrt_()
        ctx.save_for_backward(inputs, norms)
        ctx.kernel = kernel
        return norms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        inputs, norms = ctx.saved_tensors
        numbers = torch.finfo(norms.dtype)
        smallest = math.sqrt(numbers.tiny * numbers.eps)  # no root of a positive number is below
        return _spread(gradient / norms.clamp_min(smallest), ctx.kernel).mul_(inputs), None


def _window_means(values: Tensor, kernel: tuple[int, int]) -> Tensor:
    """What ``avg_pool2d`` returns; its code for the CPU is several times slower than sums of slices."""
    if values.device.type != "cpu" or values.dtype.itemsize < 4:
        return F.avg_pool2d(values, kernel)
    height, width = kernel
    total: Tensor | None = None
    for row in range(height):
        for column in range(width):
            part = values[:, :, row::height, column::width]
            total = part.clone(memory_format=torch.contiguous_format) if total is None else total.add_(part)
    assert total is not None
    return total.div_(height * width)


def _spread(values: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Repeat the value of each window over the window."""
    batch, channels, rows, columns = values.shape
    height, width = kernel
    result = values.new_empty(batch, channels, rows, height, columns, width)
    for column in range(width):
        result[:, :, :, 0, :, column] = values
    result[:, :, :, 1:] = result[:, :, :, :1]
    return result.view(batch, channels, rows * height, columns * width)
