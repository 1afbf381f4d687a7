"""Networks as they are published, and as adaptive attacks see them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError


class AveragedNetwork(nn.Module):
    """The mean of a network's logits on an image and on what transformations make of it.

    What fools the mean by a wide margin fools the network on each of them, so that their answers agree: feature
    squeezing, which flags images on whose squeezed copies the network thinks otherwise, sees nothing.

    Args:
        network: gives logits ``(N, K)``.
        transformations: each maps images ``(N, C, H, W)`` to images, with a gradient.

    Raises:
        InputError: no transformation.

    Source: after He et al. (2017), arXiv 1706.04701, section 3, who attack all squeezers at once.

    Example:
        >>> network = AveragedNetwork(nn.Flatten(), [nn.Identity(), nn.Softshrink(1.0)])
        >>> network(torch.tensor([[[[0.5, 1.0]]]])).tolist()
        [[0.3333333432674408, 0.6666666865348816]]
    """

    def __init__(self, network: nn.Module, transformations: Sequence[nn.Module]) -> None:
        super().__init__()
        if not transformations:
            raise InputError("expected at least one transformation, got none")
        self.network = network
        self.transformations = nn.ModuleList(transformations)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)``."""
        images = [inputs, *(transformation(inputs) for transformation in self.transformations)]
        return torch.stack([self.network(image) for image in images]).mean(0)


class PublishedNetwork(nn.Sequential):
    """A network whose answers are changed before anyone sees them.

    Args:
        network: gives logits ``(N, K)``.
        post_processing: maps logits to what is published ``(N, K)``.

    Example:
        >>> PublishedNetwork(nn.Flatten(), nn.Softmax(1))(torch.zeros(1, 1, 1, 2)).tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, network: nn.Module, post_processing: nn.Module) -> None:
        super().__init__(network, post_processing)
