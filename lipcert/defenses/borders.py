"""What lies beyond the border of an image: the image, mirrored."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(images: Tensor, before: int, after: int, *, dim: int) -> Tensor:
    """Return images with margins that repeat them backwards, edge pixels included; scipy.ndimage's ``"reflect"``.

    Args:
        images: any shape.
        before: rows or columns to add in front; may be more than there are.
        after: rows or columns to add behind.
        dim: along which.

    Example:
        >>> mirrored(torch.arange(3), 2, 4, dim=0).tolist()
        [1, 0, 0, 1, 2, 2, 1, 0, 0]
    """
    size = images.shape[dim]
    places = torch.arange(-before, size + after, device=images.device) % (2 * size)
    return images.index_select(dim, torch.minimum(places, 2 * size - 1 - places))
