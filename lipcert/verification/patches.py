"""A convolution whose windows do not overlap, as one matrix for all its patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.errors import InputError
from lipcert.verification.chain import Stretch
from lipcert.verification.dense import Dense, dense


@dataclass(frozen=True)
class Patches:
    """A linear stretch whose single layer that multiplies does the same to every patch of an image.

    No pixel is in two patches, and the other layers move entries or lose them: the matrix on a patch bounds the whole.

    Attributes:
        before: what comes before the convolution, without what it adds.
        kernel: side lengths of a patch.
        stride: distances of patches.
        patch: the matrix on a patch.
        after: what comes after the convolution.
    """

    before: Callable[[Tensor], Tensor]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    patch: Dense
    after: Callable[[Tensor], Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return what the matrix makes of inputs ``(N, ...)``, as ``(N, M)``."""
        images = self.before(inputs)
        columns = self.patch.matrix.T @ F.unfold(images, self.kernel, stride=self.stride)
        return self.after(columns.unflatten(2, self._grid(images.shape[2:]))).flatten(1)

    def _grid(self, size: Sequence[int]) -> list[int]:
        return [(n - k) // s + 1 for n, k, s in zip(size, self.kernel, self.stride, strict=True)]

    def norm_upper_bound(self) -> float:
        """Return an upper bound of the stretch's Lipschitz constant."""
        return self.patch.norm_upper_bound()

    def absolute_norm_upper_bound(self) -> float:
        """Return an upper bound of the Lipschitz constant of the stretch with the absolute values of all weights."""
        return self.patch.absolute_norm_upper_bound()


def linear_map(stretch: Stretch, input_shape: Sequence[int]) -> Dense | Patches:
    """Read a stretch as one matrix, on patches if that gives its norm, else on the whole input.

    Args:
        stretch: linear layers.
        input_shape: shape of one input to them.

    Raises:
        InputError: a matrix that would be too large, or a layer that does not move entries as it should.

    Example:
        >>> from lipcert.verification.chain import stretches
        >>> [stretch] = stretches(nn.Sequential(nn.Conv2d(3, 8, 2, stride=2)).eval())
        >>> linear_map(stretch, (3, 64, 64)).patch.matrix.shape
        torch.Size([12, 8])
    """
    layer = stretch.multiplying[0] if len(stretch.multiplying) == 1 else None
    if not isinstance(layer, nn.Conv2d) or not _windows_apart(layer):
        return dense(stretch, input_shape)
    place = stretch.layers.index(layer)
    before, after = (
        Stretch(stretch.name, layers, None, 1.0).linear_part()
        for layers in (stretch.layers[:place], stretch.layers[place + 1 :])
    )
    images = _moved(stretch.name, before, input_shape)
    if len(images) != 3:
        return dense(stretch, input_shape)
    kernel, stride = ((size[0], size[1]) for size in (layer.kernel_size, layer.stride))
    patch = dense(Stretch(stretch.name, (layer,), None, 1.0), (images[0], *kernel))
    patches = Patches(before, kernel, stride, patch, after)
    _moved(stretch.name, after, (layer.out_channels, *patches._grid(images[1:])))
    return patches


def _windows_apart(layer: nn.Conv2d) -> bool:
    apart = all(size <= step for size, step in zip(layer.kernel_size, layer.stride, strict=True))
    return apart and layer.padding in ((0, 0), "valid") and layer.dilation == (1, 1)


def _moved(name: str, layers: Callable[[Tensor], Tensor], input_shape: Sequence[int]) -> tuple[int, ...]:
    """Check on numbered entries that each goes to one place at most, and return the shape of the result."""
    numbers = torch.arange(1, math.prod(input_shape) + 1, dtype=torch.float64)
    result = layers(numbers.view(1, *input_shape))
    kept = result[result != 0]
    if len(kept.unique()) < len(kept) or not bool(torch.isin(kept, numbers).all()):
        raise InputError(f"expected layers that move entries or lose them around the convolution of {name}, got others")
    return tuple(result.shape[1:])
