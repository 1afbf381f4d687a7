"""A network that is handed nothing of a view but what it retains: the crop, and where it was cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.errors import InputError


class CropNetwork(nn.Module):
    """Convolutions over a crop of an image, each followed by a scale and a shift that depend on where it was cut.

    What a view does not retain is neither encoded nor computed: a band of 2 of 28 columns costs a fourteenth of the
    pixels. A side of the crop shorter than the kernel is covered by the first convolution at once; along the others all
    are padded with zeros.

    Args:
        input_shape: ``(C, H, W)`` of the images.
        crop: height and width of the crops; a side of None is that of the images, as in a band.
        num_classes: K.
        stages: of each convolution, the number of channels and the stride.
        kernel_size: of all convolutions, odd, in pixels.
        width: features of the hidden linear layer.

    Raises:
        InputError: sizes that do not fit.

    Example:
        >>> network = CropNetwork((1, 28, 28), crop=(None, 2)).eval()
        >>> network(torch.rand(3, 1, 28, 2), torch.tensor([[0, 0], [0, 5], [0, 27]])).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        crop: Sequence[int | None],
        num_classes: int = 10,
        *,
        stages: Sequence[tuple[int, int]] = ((64, 1), (96, 2), (128, 2)),
        kernel_size: int = 5,
        width: int = 256,
    ) -> None:
        super().__init__()
        channels, *sides = input_shape
        self.crop = _crop(sides, crop)
        if num_classes < 2 or width < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            expected = "at least 2 classes, an odd kernel and a positive width"
            raise InputError(f"expected {expected}, got {num_classes}, {kernel_size} and {width}")
        if not stages or min(min(stage) for stage in stages) < 1:
            raise InputError(f"expected stages of positive numbers of channels and strides, got {stages}")
        self.convolutions, self.norms, self.places = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        shape = list(self.crop)
        self.largest = channels * shape[0] * shape[1]
        for (before, _), (features, stride) in pairwise([(channels, 1), *stages]):
            kernel = [kernel_size if side >= kernel_size else side for side in shape]
            padding = [kernel_size // 2 if side >= kernel_size else 0 for side in shape]
            strides = [stride if side >= kernel_size else 1 for side in shape]
            self.convolutions.append(nn.Conv2d(before, features, kernel, strides, padding, bias=False))  # type: ignore[arg-type]
            self.norms.append(nn.BatchNorm2d(features))
            self.places.append(_Place(sides, 2 * features))
            shape = [-(-side // step) if side >= kernel_size else 1 for side, step in zip(shape, strides, strict=True)]
            self.largest = max(self.largest, features * shape[0] * shape[1])
        self.hidden = nn.Linear(stages[-1][0] * shape[0] * shape[1], width)
        self.places.append(_Place(sides, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, crops: Tensor, places: Tensor) -> Tensor:
        """Return logits.

        Args:
            crops: ``(M, C, h, w)``.
            places: ``(M, 2)`` int64, the row and the column of the image that each begins with.

        Returns:
            ``(M, K)``.

        Raises:
            InputError: crops of another size.
        """
        if crops.ndim != 4 or crops.shape[2:] != self.crop:
            expected = " x ".join(map(str, self.crop))
            raise InputError(f"expected crops (M, C, {expected}) for this network, got {tuple(crops.shape)}")
        hidden = crops
        for convolution, norm, place in zip(self.convolutions, self.norms, self.places[:-1], strict=True):
            scale, shift = place(places)[:, :, None, None].chunk(2, dim=1)
            hidden = F.relu(norm(convolution(hidden)) * (1 + scale) + shift)
        hidden = F.relu(self.hidden(hidden.flatten(1)) + self.places[-1](places))
        return self.head(hidden)  # type: ignore[no-any-return]


class _Place(nn.Module):
    """Features of a row plus features of a column."""

    def __init__(self, sides: Sequence[int], features: int) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(0.05 * torch.randn(side, features)) for side in sides)

    def forward(self, places: Tensor) -> Tensor:
        """Return the features ``(M, F)`` of rows and columns ``(M, 2)``."""
        return self.rows[places[:, 0]] + self.columns[places[:, 1]]


def crop_size(windows: Tensor) -> tuple[int, int]:
    """Return the height and width of windows ``(V, 4)``.

    Raises:
        InputError: they are not of one size.
    """
    sizes = windows[:, 2:].unique(dim=0).tolist()
    if len(sizes) != 1:
        raise InputError(f"expected views of one size for a network of crops, got {len(sizes)} sizes")
    height, width = sizes[0]
    return height, width


def cut(inputs: Tensor, windows: Tensor) -> Tensor:
    """Return the crops of images that views retain; a window that leaves the image goes on at the opposite edge.

    Args:
        inputs: ``(N, C, H, W)``.
        windows: ``(S, 4)`` of one size, first row, first column, height and width: the same views of all images; or
            ``(N, 1, 4)``, one view of each image.

    Returns:
        ``(N, S, C, h, w)``, or ``(N, 1, C, h, w)``.

    Example:
        >>> image = torch.arange(6.0).view(1, 1, 2, 3)
        >>> cut(image, torch.tensor([[0, 1, 2, 2], [0, 2, 2, 2]])).tolist()
        [[[[[1.0, 2.0], [4.0, 5.0]]], [[[2.0, 0.0], [5.0, 3.0]]]]]
    """
    height, width = crop_size(windows.flatten(0, -2))
    per_image = windows.expand(len(inputs), *windows.shape[-2:])
    row = torch.arange(height, device=inputs.device)[:, None]
    column = torch.arange(width, device=inputs.device)
    rows = (per_image[..., 0, None, None] + row) % inputs.shape[2]
    columns = (per_image[..., 1, None, None] + column) % inputs.shape[3]
    image = torch.arange(len(inputs), device=inputs.device).view(-1, 1, 1, 1)
    return inputs.movedim(1, -1)[image, rows, columns].movedim(-1, 2)


def crop_view_logits(network: CropNetwork, inputs: Tensor, windows: Tensor, *, elements_at_once: int) -> Tensor:
    """Return the logits of views of images, ``(N, S, K)``.

    Args:
        network: takes crops of the windows' size.
        inputs: ``(N, C, H, W)`` in [0, 1].
        windows: ``(S, 4)``, of the views.
        elements_at_once: numbers in the largest layer's output for the views that are passed together.
    """
    at_once = max(1, elements_at_once // network.largest)
    rows = []
    for images in inputs.split(max(1, at_once // len(windows))):
        parts = [
            network(cut(images, some).flatten(0, 1), some[:, :2].repeat(len(images), 1)).view(
                len(images), len(some), -1
            )
            for some in windows.split(at_once)
        ]
        rows.append(torch.cat(parts, dim=1))
    return torch.cat(rows)


def _crop(sides: Sequence[int], crop: Sequence[int | None]) -> tuple[int, int]:
    if len(sides) != 2 or len(crop) != 2:
        raise InputError(f"expected images (C, H, W) and a height and a width of crops, got sides {sides} and {crop}")
    height, width = (side if one is None else one for side, one in zip(sides, crop, strict=True))
    if not (1 <= height <= sides[0] and 1 <= width <= sides[1]):
        raise InputError(f"expected crops within images of {sides[0]} x {sides[1]}, got {height} x {width}")
    return height, width
