"""GroupSort2 without index tensors."""

from __future__ import annotations

from typing import Any

import torch
from deel import torchlip
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipcert.layers.swaps import bits_where_less, swap_into


class GroupSort2(torchlip.GroupSort2):  # type: ignore[misc]
    """Sorts neighbouring pairs of channels: torchlip's layer, value for value, several times faster in training.

    torchlip takes minimum and maximum along an axis, which keeps indices and scatters gradients. Here the two halves
    of each pair are compared as a whole and one mask a pair is kept. In eval mode, and for a coefficient other than 1,
    torchlip's own code runs; it is also what is exported.

    Shapes: ``(N, C, ...)`` to the same, C even.

    Example:
        >>> GroupSort2()(torch.tensor([[3.0, 1.0, 2.0, 5.0]]))
        tensor([[1., 3., 2., 5.]])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sorted pairs."""
        if self.training and self._coefficient_lip == 1.0 and inputs.shape[1] % 2 == 0:
            return sort_pairs(inputs)
        return super().forward(inputs)  # type: ignore[no-any-return]

    def vanilla_export(self) -> torchlip.GroupSort2:
        """Return torchlip's layer."""
        return torchlip.GroupSort2(k_coef_lip=self._coefficient_lip)


def sort_pairs(inputs: Tensor) -> Tensor:
    """Return neighbouring pairs of channels ``(N, C, ...)``, C even, in ascending order, with one pass back.

    Example:
        >>> sort_pairs(torch.tensor([[3.0, 1.0]])).tolist()
        [[1.0, 3.0]]
    """
    return _SortPairs.apply(inputs)  # type: ignore[no-any-return, no-untyped-call]


class _SortPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        pairs = inputs.unflatten(1, (-1, 2))
        first, second = pairs.unbind(2)
        sorted_pairs = torch.empty_like(pairs)
        torch.minimum(first, second, out=sorted_pairs[:, :, 0])
        torch.maximum(first, second, out=sorted_pairs[:, :, 1])
        ctx.save_for_backward(bits_where_less(second, first))
        return sorted_pairs.flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        to_smaller, to_larger = gradient.unflatten(1, (-1, 2)).unbind(2)
        result = torch.empty_like(gradient.unflatten(1, (-1, 2)))
        first, second = result.unbind(2)
        swap_into(to_smaller, to_larger, ctx.saved_tensors[0], out=(first, second))
        return result.flatten(1, 2)
