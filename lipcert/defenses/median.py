"""The median of each pixel's neighbourhood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.defenses.base import Gradient, Transformation
from lipcert.defenses.borders import mirrored
from lipcert.errors import InputError

CHUNK = 1 << 16  # pixels at a time: what the caches hold


class MedianFilter(Transformation):
    """Replaces each pixel by the median of a square window around it, in each channel by itself.

    Beyond the border the image is mirrored, edge pixels included. A window of even size lies half a pixel to the upper
    left, and its median is the upper one of the two in the middle, both as in ``scipy.ndimage.median_filter``. The
    exact gradient leads to the pixels that are the medians.

    Args:
        size: side of the window, in pixels, at least 2.
        gradient: ``"exact"`` or ``"straight-through"``.
        seed: of no account.

    Raises:
        InputError: a setting is out of range.

    Source: Xu et al. (2018), "Feature squeezing", arXiv 1704.01155, on spatial smoothing.

    Example:
        >>> MedianFilter(3)(torch.tensor([0.1, 0.9, 0.2, 0.3]).view(1, 1, 1, 4)).flatten().tolist()
        [0.10000000149011612, 0.20000000298023224, 0.30000001192092896, 0.30000001192092896]
    """

    def __init__(self, size: int = 3, *, gradient: Gradient | None = None, seed: int = 0) -> None:
        super().__init__(gradient=gradient, seed=seed)
        if size < 2:
            raise InputError(f"expected size >= 2, got {size}")
        self.size = size

    def transform(self, inputs: Tensor, draw: int) -> Tensor:
        """Return filtered images ``(N, C, H, W)``."""
        if self.size == 3:
            return torch.cat([_median_of_nine(part) for part in inputs.split(max(1, CHUNK // inputs[0].numel()))])
        before, after = self.size // 2, (self.size - 1) // 2
        padded = mirrored(mirrored(inputs, before, after, dim=2), before, after, dim=3)
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)
        return windows.kthvalue(self.size**2 // 2 + 1, dim=-1).values


def _median_of_nine(images: Tensor) -> Tensor:
    """Return medians of windows of three by three: the columns, which windows share, are sorted once."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    width, pixels = padded.shape[3], padded.flatten()
    # Neighbours are shifts of the whole batch in a row, which is quick; across borders they mean nothing and are cut.
    low, middle, high = _sorted(pixels[: -2 * width], pixels[width:-width], pixels[2 * width :])
    of_low = torch.maximum(torch.maximum(low[:-2], low[1:-1]), low[2:])
    of_high = torch.minimum(torch.minimum(high[:-2], high[1:-1]), high[2:])
    of_middle = _median_of_three(middle[:-2], middle[1:-1], middle[2:])
    return _median_of_three(of_low, of_middle, of_high).as_strided(images.shape, padded.stride())


def _sorted(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    rest = torch.minimum(high, third)
    return torch.minimum(low, rest), torch.maximum(low, rest), torch.maximum(high, third)


def _median_of_three(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return torch.maximum(low, torch.minimum(high, third))
