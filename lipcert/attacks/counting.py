"""A network's stand-in that counts what is asked of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch.nn as nn
from torch import Tensor

from lipcert.layers.quick import quickened


class CountedNetwork(nn.Module):
    """A copy of a network, in eval mode and without parameter gradients, that counts images forward and backward.

    The copy is what makes an attack harmless: attack libraries call ``backward()`` on a loss and would leave gradients
    in the parameters of the network that is audited. Some of its layers are exchanged for faster ones with the same
    values, see :func:`lipcert.layers.quick.quickened`.

    Args:
        network: what is copied.
        on_forward: called with the number of images of every forward pass.

    Attributes:
        forward_passes: images pushed forward so far.
        backward_passes: images pushed backward so far.
    """

    def __init__(self, network: nn.Module, on_forward: Callable[[int], object] | None = None) -> None:
        super().__init__()
        self.network = quickened(copy.deepcopy(network)).requires_grad_(False)
        self.eval()
        self.on_forward = on_forward
        self.forward_passes = 0
        self.backward_passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's logits ``(N, K)``."""
        self.forward_passes += len(inputs)
        if self.on_forward is not None:
            self.on_forward(len(inputs))
        logits: Tensor = self.network(inputs)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward_passes += len(gradient)
