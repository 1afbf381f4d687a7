r"""Linear maps whose long sums are added up in blocks, so that fewer roundings lie on the way to each result.

A sum of n products in any order is off by at most :math:`\gamma_n \sum_i |a_i b_i|`. Added up in blocks of m, whose
results are then added up one by one, it is off by :math:`\gamma_{m + n / m}` times the same: a certificate for the
network as it executes keeps more of its radius. The single products are the same, and so is the time to within a few
per cent, because each block is one call of the library.

Each function takes part in ``__torch_function__`` as a whole. So an analysis of the network meets one operation here.

Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, section 4.2; Blanchard, Higham & Mary (2020), A
class of fast and accurate summation algorithms, SIAM J. Sci. Comput. 42 (3).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

BLOCKS = 8
_SHORT = 256  # shorter sums cost a certificate next to nothing
_Pair = int | tuple[int, int]


def linear_in_blocks(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what ``F.linear`` does, with sums of more than 256 products added up in 8 blocks.

    Args:
        input: ``(..., n)``.
        weight: ``(m, n)``.
        bias: ``(m,)``.

    Returns:
        ``(..., m)``.

    Example:
        >>> import torch
        >>> inputs, weight = torch.ones(2, 512), torch.ones(3, 512)
        >>> linear_in_blocks(inputs, weight).tolist() == F.linear(inputs, weight).tolist()
        True
    """
    if type(input) is not Tensor and has_torch_function_unary(input):
        return handle_torch_function(linear_in_blocks, (input,), input, weight, bias)
    (inputs, columns), *others = _blocks(input, weight, dim=-1)
    result = F.linear(inputs, columns, bias)
    for inputs, columns in others:
        result += F.linear(inputs, columns)
    return result


def conv2d_in_blocks(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair | str = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return what ``F.conv2d`` does, with sums of more than 256 products added up in at most 8 blocks of channels.

    Of several groups each adds up its sums as ``F.conv2d`` does.

    Args:
        input: ``(N, C_in, H, W)``.
        weight: ``(C_out, C_in / groups, k1, k2)``.
        bias: ``(C_out,)``.
        stride: in pixels.
        padding: zeros on either side, in pixels, or a word that ``F.conv2d`` knows.
        dilation: in pixels.
        groups: number of blocked connections.

    Returns:
        ``(N, C_out, H', W')``.

    Example:
        >>> import torch
        >>> inputs, weight = torch.ones(2, 64, 5, 5), torch.ones(3, 64, 3, 3)
        >>> conv2d_in_blocks(inputs, weight).tolist() == F.conv2d(inputs, weight).tolist()
        True
    """
    if type(input) is not Tensor and has_torch_function_unary(input):
        return handle_torch_function(conv2d_in_blocks, (input,), input, weight, bias, stride, padding, dilation, groups)
    if groups > 1:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    (inputs, kernels), *others = _blocks(input, weight, dim=1)
    result = F.conv2d(inputs, kernels, bias, stride, padding, dilation)
    for inputs, kernels in others:
        result += F.conv2d(inputs, kernels, None, stride, padding, dilation)
    return result


def _blocks(input: Tensor, weight: Tensor, dim: int) -> list[tuple[Tensor, Tensor]]:
    size = block_size(weight)
    return list(zip(input.split(size, dim), weight.split(size, 1), strict=True))


def is_long(weight: Tensor) -> bool:
    """Whether each result is a sum of so many products that blocks pay."""
    return weight[0].numel() > _SHORT


def block_size(weight: Tensor) -> int:
    """Return how many of its input features or channels, at most, a weight ``(C_out, C_in, ...)`` sums up at a time."""
    return -(-weight.shape[1] // BLOCKS) if is_long(weight) else weight.shape[1]


def roundings_in_blocks(weight: Tensor, bias: Tensor | None, groups: int = 1) -> int:
    """Return how many roundings lie on the longest way to a result, in any order within a block, fused or not.

    A product is rounded once, and by each addition to its block's sum: no more often than the block has products.
    The first block holds the bias; the sums of the others are added to its own, one by one.

    Example:
        >>> import torch
        >>> roundings_in_blocks(torch.ones(1, 512), None)
        71
    """
    size = block_size(weight) if groups == 1 else weight.shape[1]
    others = -(-weight.shape[1] // size) - 1
    return size * weight[0, 0].numel() + (bias is not None) + others
