"""Images beside their adversarial examples, as PNG data that lies inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from lipcert.harness.result import GalleryItem

_DIVERGING = "RdBu_r"


@dataclass(frozen=True, slots=True)
class Picture:
    """One gallery item, ready to be shown.

    Attributes:
        item: what it shows.
        image: the input as a ``data:`` address.
        adversarial: the adversarial example as a ``data:`` address.
        difference: their signed difference as a ``data:`` address; of several channels the one that changed most.
        scale: the largest absolute change, at which the difference's colours end.
    """

    item: GalleryItem
    image: str
    adversarial: str
    difference: str
    scale: float


def picture(item: GalleryItem) -> Picture:
    """The item's three images.

    Example:
        >>> black, grey = np.zeros((1, 2, 2), np.float32), np.full((1, 2, 2), 0.25, np.float32)
        >>> shown = picture(GalleryItem(0, 3, 5, 0.1, 0.5, "gradient", black, grey))
        >>> shown.scale, shown.image[:22]
        (0.25, 'data:image/png;base64,')
    """
    change = item.adversarial.astype(np.float64) - item.image.astype(np.float64)
    scale = float(np.abs(change).max(initial=0.0))
    return Picture(
        item=item,
        image=_png(_pixels(item.image)),
        adversarial=_png(_pixels(item.adversarial)),
        difference=_png(_diverging(_largest_channel(change), scale)),
        scale=scale,
    )


def colour_bar() -> str:
    """The difference map's colours from the largest decrease to the largest increase, as a ``data:`` address."""
    return _png(_diverging(np.linspace(-1, 1, 129)[None, :], 1.0))


def _pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``(C, H, W)`` in [0, 1] to grey ``(H, W)`` or colour ``(H, W, 3)`` bytes."""
    shown = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image.mean(axis=0)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def _largest_channel(change: NDArray[np.float64]) -> NDArray[np.float64]:
    channel = np.abs(change).argmax(axis=0, keepdims=True)
    largest: NDArray[np.float64] = np.take_along_axis(change, channel, axis=0)[0]
    return largest


def _diverging(change: NDArray[np.float64], scale: float) -> NDArray[np.uint8]:
    """Colours that are white at no change and symmetric around it."""
    unit = change / scale if scale > 0 else np.zeros_like(change)
    colours: NDArray[np.uint8] = colormaps[_DIVERGING]((unit + 1) / 2, bytes=True)[..., :3]
    return colours


def _png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
