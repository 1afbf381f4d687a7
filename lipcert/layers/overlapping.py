"""Kernels that overlap: rescaled so that the convolution with zero padding has norm at most 1."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AlmostOrthogonalKernel(nn.Module):
    r"""Almost-orthogonal rescaling of two-dimensional kernels, for any stride and zero padding.

    With T the convolution on an infinite grid, output channels are rescaled by

    .. math:: d_o = \Big(\sum_{o', \Delta} \big|(T T^\top)_{(o, p), (o', p + \Delta)}\big|\Big)^{-1/2}

    or, if they are more than the input channels times the stride's area, input channels by the same sum over
    :math:`T^\top T`, the largest over the stride's phases. By Gershgorin's theorem the rescaled T has norm at most 1; a
    finite image with zero padding is a crop of it on both sides.

    Args:
        stride: ``(vertical, horizontal)``.
        groups: number of blocked connections.

    Source: Prach & Lampert (2022), arXiv 2208.03160, theorem 2; strides and the side of the outputs are added here.

    Example:
        >>> AlmostOrthogonalKernel((1, 1))(torch.full((1, 1, 1, 2), -2.0)).flatten().tolist()
        [-0.5, -0.5]
    """

    def __init__(self, stride: Sequence[int], groups: int = 1) -> None:
        super().__init__()
        self.stride, self.groups = tuple(stride), groups

    def forward(self, raw: Tensor) -> Tensor:
        """Return the rescaled kernels ``(C_out, C_in / groups, k1, k2)``."""
        outputs, inputs = raw.shape[0] // self.groups, raw.shape[1]
        tiny = torch.finfo(raw.dtype).tiny
        if outputs <= inputs * math.prod(self.stride):
            factors = self._output_sums(raw).view(self.groups, outputs, 1, 1, 1)
        else:
            factors = self._input_sums(raw).view(self.groups, 1, inputs, 1, 1)
        rescaled: Tensor = raw.unflatten(0, (self.groups, -1)) * factors.clamp_min(tiny).rsqrt()
        return rescaled.view_as(raw)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the kernel itself."""
        return weight

    def _output_sums(self, raw: Tensor) -> Tensor:
        """Sums over all overlaps with all output channels: windows lie whole strides apart."""
        kernel = raw.shape[2:]
        padding = [s * -(-(k - 1) // s) for k, s in zip(kernel, self.stride, strict=True)]
        others = _batch_of_others(raw, self.groups)
        products = F.conv2d(others, raw, stride=self.stride, padding=padding, groups=self.groups)
        sums: Tensor = products.abs().sum(dim=(0, 2, 3))
        return sums

    def _input_sums(self, raw: Tensor) -> Tensor:
        """Sums over all input pixels that share an output: a pixel sees the taps of its phase."""
        padding = [k - 1 for k in raw.shape[2:]]
        swapped = raw.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        others = _batch_of_others(swapped, self.groups)
        sums = []
        for row, column in itertools.product(*map(range, self.stride)):
            seen = torch.zeros_like(swapped)
            seen[:, :, row :: self.stride[0], column :: self.stride[1]] = swapped[
                :, :, row :: self.stride[0], column :: self.stride[1]
            ]
            sums.append(F.conv2d(others, seen, padding=padding, groups=self.groups).abs().sum(dim=(0, 2, 3)))
        return torch.stack(sums).amax(dim=0)


class OverlapScale(nn.Module):
    r"""Division by the root of how many windows a pixel lies in.

    .. math:: W / \sqrt{\lceil k_1 / s_1 \rceil \lceil k_2 / s_2 \rceil}

    If the kernel as a matrix ``(C_out, C_in k_1 k_2)`` has norm at most 1, so has the convolution with zero padding.

    Args:
        kernel_size: ``(k_1, k_2)``.
        stride: ``(s_1, s_2)``.

    Source: Serrurier et al. (2021), arXiv 2006.06520, appendix; Li et al. (2019), arXiv 1911.00937 (RKO).

    Example:
        >>> OverlapScale((3, 3), (1, 1))(torch.tensor([[3.0]])).item()
        1.0
    """

    def __init__(self, kernel_size: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.windows = math.prod(-(-k // s) for k, s in zip(kernel_size, stride, strict=True))

    def forward(self, raw: Tensor) -> Tensor:
        """Return the scaled kernel."""
        return raw / math.sqrt(self.windows)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the kernel before the division."""
        return weight * math.sqrt(self.windows)


def _batch_of_others(kernels: Tensor, groups: int) -> Tensor:
    """``(groups * m, n, k1, k2)`` as images ``(m, groups * n, k1, k2)``."""
    images: Tensor = kernels.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)
    return images
