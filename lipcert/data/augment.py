"""Random changes of training batches, whole tensors at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.errors import InputError


class Augmentation(ABC):
    """A random change of a batch that keeps its shape and the range [0, 1]."""

    @abstractmethod
    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Change a batch.

        Args:
            inputs: ``(N, C, H, W)`` float32 in [0, 1]; left as it is.
            generator: the only source of randomness.

        Returns:
            ``(N, C, H, W)`` float32 in [0, 1].
        """


class RandomHorizontalFlip(Augmentation):
    """Mirror each image left to right with probability ``p``.

    Args:
        p: probability, in [0, 1].

    Raises:
        InputError: ``p`` is no probability.

    Example:
        >>> import torch
        >>> RandomHorizontalFlip(p=1.0)(torch.tensor([[[[0.0, 1.0]]]]), torch.Generator())
        tensor([[[[1., 0.]]]])
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _probability(p)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Change a batch ``(N, C, H, W)``; see :class:`Augmentation`."""
        chosen = (torch.rand(len(inputs), generator=generator) < self.p).nonzero().flatten()
        return inputs.index_copy(0, chosen, inputs.index_select(0, chosen).flip(-1))


class RandomCrop(Augmentation):
    """Surround each image with zeros and cut a window of the old size at a random place.

    Args:
        padding: width of the border in pixels; the image is shifted by at most this much in each direction.
        p: probability that an image is cropped at all.

    Raises:
        InputError: ``padding`` < 1, or ``p`` is no probability.

    Example:
        >>> import torch
        >>> RandomCrop(padding=2)(torch.ones(8, 3, 6, 6), torch.Generator()).shape
        torch.Size([8, 3, 6, 6])
    """

    def __init__(self, padding: int = 2, *, p: float = 1.0) -> None:
        if padding < 1:
            raise InputError(f"expected padding >= 1, got {padding}")
        self.padding, self.p = padding, _probability(p)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Change a batch ``(N, C, H, W)``; see :class:`Augmentation`."""
        count, _, height, width = inputs.shape
        padded = F.pad(inputs, (self.padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p+1, 2p+1, H, W), a view
        corners = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
        if self.p < 1:
            corners[:, torch.rand(count, generator=generator) >= self.p] = self.padding
        top, left = corners
        return windows[torch.arange(count), :, top, left]


def _probability(p: float) -> float:
    if not 0 <= p <= 1:
        raise InputError(f"expected 0 <= p <= 1, got {p}")
    return p
