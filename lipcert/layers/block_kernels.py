"""Kernels that overlap and are orthogonal: products of one matrix and of projectors shifted against one another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.layers.polar import orthogonal_matrices


class OrthogonalKernel(nn.Module):
    r"""Kernel of an orthogonal convolution, for any stride that is at most the kernel size.

    With z the shift by one pixel, down or to the right, T is a matrix A on disjoint patches of the stride's size after
    blocks of two taps,

    .. math:: T = A \prod_i \big(P_i + (I - P_i)\, z_i\big), \qquad P_i = U_i^\top U_i

    as many as the kernel is larger than the stride, down and to the right in turn. With orthonormal rows of every U
    each block is orthogonal on an infinite grid: T has orthonormal rows, or columns if it has more outputs than inputs,
    as A has. A finite image with zero padding is a crop of it on both sides, of norm at most 1. With stride 1 and more
    outputs than inputs the blocks come after A, on the side that has more channels.

    Its parameters are A and every U, which are to be kept orthonormal: :func:`lipcert.layers.keep_orthogonal` finds
    them. Composing the kernel costs less than a thousandth of convolving a batch with it.

    Args:
        kernel_size: ``(k_1, k_2)``.
        stride: ``(s_1, s_2)``, no larger.

    Source: Li et al. (2019), arXiv 1911.00937 (BCOP); Boissin et al. (2025), arXiv 2501.07930 (AOC: strides by a matrix
        on patches). Kept by projection here, where these orthonormalise in every forward pass.

    Example:
        >>> kernel = OrthogonalKernel((3, 1), (1, 1))
        >>> up, down = torch.eye(2).split(1)
        >>> kernel(torch.eye(2).view(2, 2, 1, 1), up, down)[:, :, :, 0].permute(2, 0, 1).tolist()
        [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    """

    def __init__(self, kernel_size: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = (stride[0], stride[1])
        counts = [k - s for k, s in zip(kernel_size, stride, strict=True)]
        turns = itertools.zip_longest(*([axis] * count for axis, count in zip((2, 3), counts, strict=True)))
        self.axes = [axis for turn in turns for axis in turn if axis is not None]

    def forward(self, matrix: Tensor, *projectors: Tensor) -> Tensor:
        """Return the kernel ``(C_out, C_in, k_1, k_2)``.

        Args:
            matrix: A as ``(C_out, C_in, s_1, s_2)``.
            projectors: every U as ``(C // 2, C)``, C the channels of the side that the blocks are on.
        """
        outputs_have_more = self._outputs_have_more(matrix)
        with torch.autocast(matrix.device.type, enabled=False):
            kernel = matrix.transpose(0, 1) if outputs_have_more else matrix
            for axis, rows in zip(self.axes, projectors, strict=True):
                kernel = _with_block(kernel, rows, axis)
        return kernel.transpose(0, 1) if outputs_have_more else kernel

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return random parameters for a kernel of this shape: a start, not an inverse."""
        outputs, inputs = weight.shape[:2]
        area = self.stride[0] * self.stride[1]
        matrix = orthogonal_matrices(1, outputs, inputs * area).view(outputs, inputs, *self.stride)
        channels = outputs if self._outputs_have_more(matrix) else inputs
        projectors = orthogonal_matrices(len(self.axes), max(1, channels // 2), channels)
        return tuple(part.to(weight) for part in (matrix, *projectors))

    def _outputs_have_more(self, matrix: Tensor) -> bool:
        return self.stride == (1, 1) and matrix.shape[0] > matrix.shape[1]


def _with_block(kernel: Tensor, rows: Tensor, axis: int) -> Tensor:
    """The kernel after ``P + (I - P) z`` on its input channels: one tap more along an axis."""
    channels_last = kernel.transpose(1, 3)
    kept = ((channels_last @ rows.mT) @ rows).transpose(1, 3)
    before, after = ((0, 1), (1, 0)) if axis == 3 else ((0, 0, 0, 1), (0, 0, 1, 0))
    return F.pad(kept, before) + F.pad(kernel - kept, after)
