"""Whatever HEART's parts take for data: batches, data sets, rows, arrays."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipcert.data.columns import IMAGE_COLUMNS, LABEL_COLUMNS
from lipcert.data.tensors import as_tensor
from lipcert.errors import InputError

Array = NDArray[np.float32]


def parts_of(data: Any) -> tuple[list[Any], list[Any] | None, list[Any]]:
    """Return images, targets (None if there are none) and metadata of whatever HEART takes.

    Args:
        data: see :meth:`JaticAttack.__call__`.

    Raises:
        InputError: nothing of that.

    Example:
        >>> images, targets, metadata = parts_of({"images": np.zeros((2, 1, 4, 4)), "labels": [0, 1]})
        >>> len(images), targets, metadata
        (2, [0, 1], [{}, {}])
    """
    if isinstance(data, Mapping) and "images" in data:
        images, targets, metadata = data["images"], data.get("labels"), data.get("metadata") or None
    elif isinstance(data, tuple) and len(data) == 3:
        images, targets, metadata = data
    elif isinstance(data, torch.Tensor | np.ndarray):
        images, targets, metadata = data if data.ndim == 4 else data[None], None, None
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        images, targets, metadata = _of_items([data[place] for place in range(len(data))])
    else:
        raise InputError(f"expected a batch, a data set or images, got {type(data).__name__}")
    arrays = [as_tensor(image, "images").to(torch.float32, copy=True).numpy() for image in images]
    if not arrays:
        raise InputError("expected at least one image, got none")
    entries = [{}] * len(arrays) if metadata is None else metadata
    return arrays, None if targets is None else list(targets), [{**(entry or {})} for entry in entries]


def _of_items(items: list[Any]) -> tuple[list[Any], list[Any] | None, list[Any] | None]:
    """Take items apart: tuples of MAITE or torch, rows of Hugging Face, or images alone."""
    images: list[Any] = []
    targets: list[Any] = []
    metadata: list[Any] = []
    for item in items:
        if isinstance(item, Mapping):
            images.append(next((item[name] for name in IMAGE_COLUMNS if name in item), None))
            targets.append(next((item[name] for name in LABEL_COLUMNS if name in item), None))
            metadata.append({})
        elif isinstance(item, tuple):
            images.append(item[0])
            targets.append(item[1] if len(item) > 1 else None)
            metadata.append(item[2] if len(item) > 2 else {})
        else:
            images.append(item)
            targets.append(None)
            metadata.append({})
    return images, None if any(target is None for target in targets) else targets, metadata


def id_or_random(id: str | None) -> str:
    """Return an id, drawn at random if there is none."""
    return str(uuid.uuid4()) if id is None else id
