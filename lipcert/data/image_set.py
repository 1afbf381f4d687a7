"""Labelled images: in memory, or wherever they come from a block at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcert.errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N labelled images, kept as bytes where they are: a quarter of the memory of the floats that a network reads.

    Attributes:
        images: ``(N, C, H, W)``, uint8, or float32 in [0, 1] if the pixels are no 256th parts.
        labels: ``(N,)`` int64 class numbers.

    Raises:
        InputError: empty, types or shapes are not as above, or floats that are not in [0, 1].

    Example:
        >>> import torch
        >>> images = ImageSet(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> images.inputs(torch.tensor([1])).unique()
        tensor([0.2000])
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype not in (torch.uint8, torch.float32) or self.images.ndim != 4:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise InputError(f"expected images as uint8 or float32 of shape (N, C, H, W), got {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise InputError(f"expected labels as int64 of shape ({len(self.images)},), got {found}")
        if self.images.numel() == 0:
            raise InputError(f"expected at least one image of at least one pixel, got {tuple(self.images.shape)}")
        if self.images.is_floating_point():
            low, high = map(float, self.images.aminmax())  # nan if any is
            if not (low >= 0 and high <= 1):
                raise InputError(f"expected float images in [0, 1], got values from {low:g} to {high:g}")

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, indices: Tensor | None = None) -> Tensor:
        """The images as a network reads them.

        Args:
            indices: ``(M,)`` int64 positions; None for all images.

        Returns:
            ``(M, C, H, W)`` float32 in [0, 1].
        """
        images = self.images if indices is None else self.images.index_select(0, indices)
        return images.clone() if images.is_floating_point() else images.to(torch.float32).div_(255)

    def block(self, begin: int, end: int) -> ImageSet:
        """The images from one position up to another, not copied."""
        return ImageSet(self.images[begin:end], self.labels[begin:end])

    def pixels(self) -> Tensor:
        """The images ``(N, C, H, W)`` as bytes; floats are rounded to the nearest grey level."""
        return self.images if self.images.dtype == torch.uint8 else (self.images * 255).round().to(torch.uint8)

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at these ``(M,)`` int64 positions, copied."""
        return ImageSet(self.images.index_select(0, indices), self.labels.index_select(0, indices))

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 over the shape, the images as bytes or little-endian floats, and the labels as int64."""
        return sha256_of(tuple(self.images.shape), [self], [self.labels.numpy()])


def sha256_of(shape: Sequence[int], blocks: Iterable[ImageSet], labels: Iterable[NDArray[np.int64]]) -> str:
    """Return the checksum of images that are seen a block at a time.

    Args:
        shape: ``(N, C, H, W)`` of all of them.
        blocks: the images, in order.
        labels: their labels, in order; gone through when all images have been seen.
    """
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    for block in blocks:
        images = block.images.contiguous().numpy()
        digest.update(images.astype(images.dtype.newbyteorder("<"), copy=False).data)
    for part in labels:
        digest.update(np.ascontiguousarray(part).astype("<i8").data)
    return digest.hexdigest()


class ImageSource(Protocol):
    """N labelled images that are read a block at a time; an :class:`ImageSet` is one that holds them all."""

    def __len__(self) -> int:
        """Number of images."""

    def block(self, begin: int, end: int) -> ImageSet:
        """Read the images from one position up to another.

        Raises:
            InputError: they cannot be read.
        """
