"""One rectangle a sample: where it lies in a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor


def window(corners: Tensor, size: tuple[int, int], channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the index of one rectangle a sample in images ``(N, C, H, W)``.

    Args:
        corners: ``(N, 2)`` int64, first rows and columns.
        size: height and width.
        channels: C.

    Returns:
        Indices that are broadcast: ``images[index]`` has the shape ``(N, C, height, width)``.

    Example:
        >>> images = torch.arange(18).view(2, 1, 3, 3)
        >>> images[window(torch.tensor([[0, 1], [2, 0]]), (1, 2), 1)].flatten(1).tolist()
        [[1, 2], [15, 16]]
    """
    device = corners.device
    samples = torch.arange(len(corners), device=device)[:, None, None, None]
    rows = (corners[:, :1] + torch.arange(size[0], device=device))[:, None, :, None]
    columns = (corners[:, 1:] + torch.arange(size[1], device=device))[:, None, None, :]
    return samples, torch.arange(channels, device=device)[:, None, None], rows, columns
