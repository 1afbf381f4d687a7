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
        return self.ask(lambda: self.network(inputs), len(inputs))

    def ask(self, question: Callable[[], Tensor], images: int) -> Tensor:
        """Return what something else than its forward gives, counted as so many images, and so many if derived."""
        self.forward_passes += images
        if self.on_forward is not None:
            self.on_forward(images)
        answer = question()
        if answer.requires_grad:
            answer.register_hook(lambda _: self._count_backward(images))
        return answer

    def _count_backward(self, images: int) -> None:
        self.backward_passes += images
