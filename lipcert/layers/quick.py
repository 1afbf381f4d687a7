"""Layers of an exported network exchanged for faster ones with the same values, for those who only search with it."""

from __future__ import annotations

import torch.nn as nn
from deel import torchlip
from torch import Tensor

from lipcert.layers.blocked import BlockedConv2d, BlockedLinear
from lipcert.layers.group_sort import sort_pairs
from lipcert.layers.pooling import pair, tiled, window_norms


def quickened(network: nn.Module) -> nn.Module:
    """Return the network with some layers exchanged, in place, for ones with shorter passes.

    Values of GroupSort2 and L2-norm pooling are the same to the bit, gradients up to rounding, but for windows of
    zeros, whose gradient is 0; they can be taken once only. Sums in blocks become plain ones, the same up to rounding.
    Layers with hooks or with a forward of their own are left alone, and so is everything where the exchanged layer
    would not apply. What is certified or verified must be the network as it is.

    Args:
        network: the caller's own copy.

    Example:
        >>> network = quickened(nn.Sequential(nn.LPPool2d(2, 2), torchlip.GroupSort2()))
        >>> [type(layer).__name__ for layer in network]
        ['_QuickNorms', '_QuickSort']
    """
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            setattr(parent, name, _exchanged(layer))
    return _exchanged(network)


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {BlockedLinear: nn.Linear, BlockedConv2d: nn.Conv2d}


def _exchanged(layer: nn.Module) -> nn.Module:
    if not _is_plain(layer):
        return layer
    if type(layer) in _PLAIN:
        layer.__class__ = _PLAIN[type(layer)]
        return layer
    if type(layer) is torchlip.GroupSort2 and layer._coefficient_lip == 1.0:
        return _QuickSort(layer).train(layer.training)
    if type(layer) is nn.LPPool2d and layer.norm_type == 2 and not layer.ceil_mode:
        kernel = pair(layer.kernel_size)
        if layer.stride is None or pair(layer.stride) == kernel:
            return _QuickNorms(layer, kernel).train(layer.training)
    return layer


def _is_plain(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return "forward" not in vars(layer) and not any(hooks)


class _QuickSort(nn.Module):
    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim < 2 or inputs.shape[1] % 2:
            return self.original(inputs)  # type: ignore[no-any-return]
        return sort_pairs(inputs)


class _QuickNorms(nn.Module):
    def __init__(self, original: nn.Module, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.original, self.kernel = original, kernel

    def forward(self, inputs: Tensor) -> Tensor:
        if not tiled(inputs, self.kernel):
            return self.original(inputs)  # type: ignore[no-any-return]
        return window_norms(inputs, self.kernel)
