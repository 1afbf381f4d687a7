"""Batches as others hand them over: sequences of arrays, one-hot rows or class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcert.attacks.task import check_images
from lipcert.data.tensors import as_tensor
from lipcert.errors import InputError
from lipcert.interop.inputs import UNIT, Bounds


def unit_images(images: Any, bounds: Bounds = UNIT) -> Tensor:
    """Return images in [0, 1].

    Args:
        images: N arrays ``(C, H, W)`` of numbers within ``bounds``, as a sequence or one array.
        bounds: smallest and largest value of a pixel.

    Returns:
        ``(N, C, H, W)`` float32, with memory of its own.

    Raises:
        InputError: no images, images of several shapes, or values out of bounds.

    Example:
        >>> unit_images([np.full((1, 1, 2), 51)], (0, 255)).unique()
        tensor([0.2000])
    """
    if isinstance(images, Tensor | np.ndarray):
        found = as_tensor(images, "images")
    else:
        parts = [as_tensor(image, "images") for image in images]
        shapes = sorted({tuple(part.shape) for part in parts})
        if len(shapes) != 1:
            raise InputError(f"expected images of one shape (C, H, W), got {', '.join(map(str, shapes)) or 'none'}")
        found = torch.stack(parts)
    if found.ndim != 4:
        raise InputError(f"expected images (C, H, W), got shape {tuple(found.shape[1:])}")
    found = found.to(torch.float32, copy=True)
    check_images(found, bounds, what="images")
    low, high = bounds
    return found if bounds == UNIT else found.sub_(low).div_(high - low).clamp_(0, 1)


def images_within(inputs: Tensor, bounds: Bounds) -> list[NDArray[np.float32]]:
    """Return images of [0, 1] in other units, one array ``(C, H, W)`` each."""
    low, high = bounds
    found = inputs if bounds == UNIT else (inputs * (high - low) + low).clamp_(low, high)
    return list(found.detach().cpu().numpy().copy())


def classes(targets: Sequence[Any] | Any, *, what: str = "targets") -> Tensor:
    """Return the classes ``(N,)`` int64 of targets or predictions, whichever form each of them has.

    Args:
        targets: N of them: class numbers, or scores or one-hot rows ``(K,)``, whose largest entry is the class.
        what: a word for the message.

    Raises:
        InputError: none, neither of both, or scores that are not numbers.

    Example:
        >>> classes([np.array([0.1, 0.9]), [1, 0]]).tolist(), classes([3, np.int64(4), np.array([5])]).tolist()
        ([1, 0], [3, 4, 5])
    """
    found = [_class(as_tensor(target, what), what) for target in targets]
    if not found:
        raise InputError(f"expected at least one of the {what}, got none")
    return torch.tensor(found, dtype=torch.int64)


def _class(target: Tensor, what: str) -> int:
    if target.numel() == 1 and target.ndim <= 1:
        number = float(target)
        if not number.is_integer():
            raise InputError(f"expected class numbers among the {what}, got {number:g}")
        return int(number)
    if target.ndim != 1 or target.numel() == 0:
        raise InputError(f"expected class numbers or rows (K,) as {what}, got shape {tuple(target.shape)}")
    if bool(target.isnan().any()):
        raise InputError(f"expected numbers as {what}, got nan")
    return int(target.argmax())


def scores(predictions: Sequence[Any] | Any) -> Tensor:
    """Return predictions, rows ``(K,)`` each, as one tensor ``(N, K)``.

    Raises:
        InputError: none, or rows of several lengths.
    """
    rows = [as_tensor(row, "predictions").to(torch.float32) for row in predictions]
    shapes = sorted({tuple(row.shape) for row in rows})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise InputError(f"expected predictions as rows (K,), got {', '.join(map(str, shapes)) or 'none'}")
    return torch.stack(rows)
