"""The views over which a network votes, made once more from what its settings say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.data.loader import seeded_generator
from lipcert.errors import InputError

Window = tuple[int, int, int, int]
"""First row, first column, height and width; what leaves the image goes on at the opposite edge."""

SMOOTHED, SPLITTING = "lipcert.networks.smoothed.SmoothedNetwork", "lipcert.networks.splitting.SplittingNetwork"
_CROPPED, _BY_TOKENS = "lipcert.networks.crops.CropNetwork", "lipcert.networks.vit.VisionTransformer"
_BANDS = "lipcert.certificates.ablations."
WHITE = 255
_OFF = WHITE * 2.0**-22  # a grey level over 255 is off by two roundings of float32, in grey levels


class Views(Protocol):
    """The views of images of one size.

    Attributes:
        count: V, how many there are.
        numbers: how many numbers a view has.
    """

    count: int
    numbers: int

    def logits(self, inputs: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """Return the logits ``(P, K)`` of some pairs of an image and a view, both ``(P,)`` int64."""


def views_of(network: nn.Module, image_shape: tuple[int, ...]) -> AblatedViews | SplitViews:
    """Return the views that a network votes over.

    Args:
        network: of one of the two classes that are known here by their names.
        image_shape: ``(C, H, W)``.

    Raises:
        InputError: another network, or other settings.
    """
    kind = path_of(network)
    if kind == SMOOTHED:
        return AblatedViews(network, image_shape)
    if kind == SPLITTING:
        return SplitViews(network, image_shape)
    raise InputError(f"expected a network that votes over views, got {kind}")


class AblatedViews:
    """Views of which each retains one window of the image.

    Args:
        network: of class ``SmoothedNetwork``.
        image_shape: ``(C, H, W)``.

    Attributes:
        windows: what each view retains.
        masks: ``(V, H, W)`` bool, the same by pixels.
    """

    def __init__(self, network: Any, image_shape: tuple[int, ...]) -> None:
        channels, *size = image_shape
        self.windows = windows_of(network.ablation, size[0], size[1])
        self.count = len(self.windows)
        self.masks = torch.zeros(self.count, *size, dtype=torch.bool)
        for mask, (top, left, height, width) in zip(self.masks, self.windows, strict=True):
            rows, columns = _arc(top, height, size[0]), _arc(left, width, size[1])
            mask[rows[:, None], columns] = True
        self.numbers = 2 * channels * size[0] * size[1]
        self._base, self._encoding, self._null = network.network, network.encoding, float(network.null)
        self._kind = path_of(self._base)

    def logits(self, inputs: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """Return the logits of pairs, see :class:`Views`."""
        if self._kind == _CROPPED:
            windows = torch.tensor([self.windows[number] for number in view.tolist()])
            return self._base(self._crops(inputs[image], windows), windows[:, :2])  # type: ignore[no-any-return]
        masks = self.masks[view][:, None]
        shown = self._encoded(inputs[image], masks)
        if self._kind == _BY_TOKENS:
            keep = F.max_pool2d(masks.float(), self._base.patch_size).flatten(1) > 0
            return self._base(shown, keep)  # type: ignore[no-any-return]
        return self._base(shown)  # type: ignore[no-any-return]

    def _crops(self, images: Tensor, windows: Tensor) -> Tensor:
        """Each image's window ``(P, C, h, w)``: the columns, then the rows, rolled to the front and cut there."""
        crops = []
        for image, (top, left, height, width) in zip(images, windows.tolist(), strict=True):
            crops.append(image.roll((-top, -left), (1, 2))[:, :height, :width])
        return torch.stack(crops)

    def _encoded(self, images: Tensor, masks: Tensor) -> Tensor:
        if self._encoding == "doubled":
            return torch.where(masks, torch.cat([images, 1 - images], dim=1), 0.0)
        shown = torch.where(masks, images, self._null)
        if self._encoding == "null":
            return shown
        if self._encoding == "mask":
            return torch.cat([shown, masks.to(images)], dim=1)
        raise InputError(f"expected views of the encodings null, doubled and mask, got {self._encoding}")


class SplitViews:
    """Views of 8-bit images by splitting noise: one view shows every pixel's side of its split point.

    Args:
        network: of class ``SplittingNetwork``.
        image_shape: ``(C, H, W)``.
    """

    def __init__(self, network: Any, image_shape: tuple[int, ...]) -> None:
        self.count = int(network.noise.levels)
        generator = seeded_generator(network.noise.seed, *image_shape)
        self._points = torch.randint(self.count, image_shape, generator=generator)
        self.numbers = self._points.numel()
        self._base = network.network

    def logits(self, inputs: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """Return the logits of pairs, see :class:`Views`."""
        levels = grey_levels(inputs[image])
        points = (self._points + view[:, None, None, None]) % self.count
        # In halves of a level, pixels are even and split points odd: none lies on one.
        low = 2 * levels - 1 - 2 * ((levels - points - 1) % self.count)
        high = low + 2 * self.count
        middle = (low.clamp(min=0) + high.clamp(max=2 * WHITE)).double() / (4 * WHITE)
        return self._base(middle.to(inputs.dtype))  # type: ignore[no-any-return]


def windows_of(ablation: object, height: int, width: int) -> list[Window]:
    """Return the windows that the views of an ablation retain, in order.

    Args:
        ablation: one of the four kinds, known by their names, with ``size``, ``stride`` and ``wrap``.
        height: of the images.
        width: of the images.

    Raises:
        InputError: another kind.
    """
    kind, settings = path_of(ablation).removeprefix(_BANDS), vars(ablation)
    (down, across), (step_down, step_across) = (_pair(settings[name]) for name in ("size", "stride"))
    wrap = bool(settings["wrap"])
    rows = list(_starts(height, down, step_down, wrap=wrap))
    columns = list(_starts(width, across, step_across, wrap=wrap))
    bands: list[Window] = [(0, left, height, across) for left in columns]
    across_bands: list[Window] = [(top, 0, down, width) for top in rows]
    known: dict[str, list[Window]] = {
        "ColumnAblation": bands,
        "RowAblation": across_bands,
        "ColumnAndRowAblation": [*bands, *across_bands],
        "BlockAblation": [(top, left, down, across) for top in rows for left in columns],
    }
    if kind not in known:
        raise InputError(f"expected views by {', '.join(known)}, got {kind}")
    return known[kind]


def grey_levels(inputs: Tensor) -> Tensor:
    """Return the grey levels of 8-bit images as int64.

    Raises:
        InputError: a value that is none.

    Example:
        >>> grey_levels(torch.tensor([0.0, 7 / 255, 1.0]))
        tensor([  0,   7, 255])
    """
    exact = inputs.double() * WHITE
    levels = exact.round().long()
    if not bool(((exact - levels).abs() <= _OFF).all()) or bool((levels < 0).any() | (levels > WHITE).any()):
        raise InputError("expected images of 8 bits, got values between two grey levels or out of [0, 1]")
    return levels


def path_of(instance: object) -> str:
    """Return where an object's class is defined, and its name.

    Example:
        >>> path_of(nn.ReLU())
        'torch.nn.modules.activation.ReLU'
    """
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def _starts(extent: int, size: int, stride: int, *, wrap: bool) -> Iterator[int]:
    start = 0
    while start < (extent if wrap else extent - size):
        yield start
        start += stride
    if not wrap:
        yield extent - size


def _arc(first: int, length: int, extent: int) -> Tensor:
    return torch.arange(first, first + length) % extent


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
