"""How a view shows the network which pixels it does not retain."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lipcert.errors import InputError

Encoding = Literal["null", "doubled", "mask"]


def encoded_channels(channels: int, encoding: Encoding) -> int:
    """Return how many channels the views of images with so many have.

    Raises:
        InputError: an unknown encoding.

    Example:
        >>> [encoded_channels(3, encoding) for encoding in ("null", "doubled", "mask")]
        [3, 6, 4]
    """
    if encoding not in get_args(Encoding):
        raise InputError(f"expected an encoding among {', '.join(get_args(Encoding))}, got {encoding!r}")
    return {"null": channels, "doubled": 2 * channels, "mask": channels + 1}[encoding]


def encoded_views(inputs: Tensor, masks: Tensor, *, encoding: Encoding = "doubled", null: float = 0.0) -> Tensor:
    """Return views of images, in which nothing but the retained pixels can be told.

    - ``"null"``: pixels that are not retained have the value ``null``, which an image may have as well;
    - ``"doubled"``: channels are (x, 1 - x), and (0, 0) where a pixel is not retained, which no image has;
    - ``"mask"``: one channel more, 1 where pixels are retained; the others as with ``"null"``.

    Views are formed for the masks handed in: take a part of them for a part of the views. Whatever normalises them
    later is the network's own.

    Args:
        inputs: ``(N, C, H, W)`` in [0, 1].
        masks: ``(V, H, W)`` bool, the same views of all images; or ``(N, V, H, W)``, views of each image.
        encoding: one of the three.
        null: value of a pixel that is not retained; of no account when doubled.

    Returns:
        ``(N, V, C', H, W)`` of the inputs' type, with C' as :func:`encoded_channels` says.

    Raises:
        InputError: an unknown encoding, or masks that do not fit the images.

    Source: Levine and Feizi (2020), arXiv 2002.10733, section 3 (doubled); Salman et al. (2021), arXiv 2110.07719,
    section 2 (null).

    Example:
        >>> image, mask = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2), torch.tensor([[[True, False]]])
        >>> [encoded_views(image, mask, encoding=name).flatten().tolist() for name in ("null", "doubled", "mask")]
        [[0.25, 0.0], [0.25, 0.0, 0.75, 0.0], [0.25, 0.0, 1.0, 0.0]]
    """
    encoded_channels(1, encoding)
    per_image = (masks if masks.ndim == 4 else masks[None]) if masks.ndim in (3, 4) else masks
    fits = inputs.ndim == per_image.ndim == 4 and masks.dtype == torch.bool and per_image.shape[2:] == inputs.shape[2:]
    if not fits or len(per_image) not in (1, len(inputs)):
        expected = "masks (V, H, W) or (N, V, H, W) of type bool for images (N, C, H, W)"
        raise InputError(f"expected {expected}, got {tuple(masks.shape)} {masks.dtype} for {tuple(inputs.shape)}")
    retained, pixels = per_image[:, :, None], inputs[:, None]
    if encoding == "doubled":
        return _shown(torch.cat([pixels, 1 - pixels], dim=2), retained, 0.0)
    shown = _shown(pixels, retained, null)
    if encoding == "null":
        return shown
    return torch.cat([shown, retained.to(inputs).expand(len(inputs), -1, -1, -1, -1)], dim=2)


def _shown(pixels: Tensor, retained: Tensor, null: float) -> Tensor:
    """Return the retained pixels, and a value in place of the others."""
    if null == 0 and pixels.device.type == "cpu" and bool(pixels.isfinite().all()):
        return pixels * retained.to(pixels)  # a third of the time of a selection, which is not vectorised there
    return torch.where(retained, pixels, null)
