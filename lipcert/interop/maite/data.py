"""Labelled images as a MAITE data set and data loader."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.interop.batches import images_within
from lipcert.interop.inputs import UNIT, check_bounds
from lipcert.interop.maite.models import metadata_of

Array = NDArray[np.float32]
Batch = tuple[list[Array], list[Array], list[dict[str, Any]]]


class LabelledImages:
    """A split as a (fieldwise) data set: an image ``(C, H, W)``, a one-hot row ``(K,)`` and metadata with an ``id``.

    Args:
        images: the split.
        id: of the data set.
        class_names: one name a class, by the number of the class; none: no ``index2label``.
        num_classes: K; by default the number of names, or else the largest label plus 1.
        bounds: smallest and largest value of a pixel in what the data set returns.

    Raises:
        InputError: labels beyond K, or an unusable setting.

    Example:
        >>> images = ImageSet(torch.full((2, 1, 2, 2), 51, dtype=torch.uint8), torch.tensor([1, 0]))
        >>> image, target, metadata = LabelledImages(images)[0]
        >>> image.shape, target.tolist(), metadata
        ((1, 2, 2), [0.0, 1.0], {'id': 0})
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        id: str = "images",
        class_names: Sequence[str] = (),
        num_classes: int | None = None,
        bounds: Any = UNIT,
    ) -> None:
        if not isinstance(images, ImageSet):
            raise InputError(f"expected an ImageSet, got {type(images).__name__}")
        largest = int(images.labels.max())
        self.num_classes = num_classes or len(class_names) or largest + 1
        if largest >= self.num_classes or int(images.labels.min()) < 0:
            low = int(images.labels.min())
            raise InputError(f"expected labels from 0 to {self.num_classes - 1}, got {low} to {largest}")
        self.images = images
        self.bounds = check_bounds(bounds)
        self.metadata = metadata_of(id, class_names)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, ind: int, /) -> tuple[Array, Array, dict[str, Any]]:
        return self.get_input(ind), self.get_target(ind), self.get_metadata(ind)

    def get_input(self, ind: int, /) -> Array:
        """Return an image ``(C, H, W)`` float32 within the bounds."""
        return images_within(self.images.inputs(torch.tensor([self._place(ind)])), self.bounds)[0]

    def get_target(self, ind: int, /) -> Array:
        """Return the one-hot row ``(K,)`` float32 of an image's class."""
        target = np.zeros(self.num_classes, dtype=np.float32)
        target[int(self.images.labels[self._place(ind)])] = 1
        return target

    def get_metadata(self, ind: int, /) -> dict[str, Any]:
        """Return the image's ``id``, its position."""
        return {"id": self._place(ind)}

    def _place(self, ind: int) -> int:
        return range(len(self))[ind]


class Batches:
    """The items of a MAITE data set by batches, as a data loader.

    Args:
        dataset: any MAITE data set.
        batch_size: items a batch; the last one may have fewer.

    Raises:
        InputError: ``batch_size`` < 1, or a data set without length or items.

    Example:
        >>> images = ImageSet(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
        >>> [len(inputs) for inputs, targets, metadata in Batches(LabelledImages(images), batch_size=2)]
        [2, 2, 1]
    """

    def __init__(self, dataset: Any, *, batch_size: int = 100) -> None:
        if batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {batch_size}")
        check_dataset(dataset)
        self.dataset = dataset
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.dataset), self.batch_size):
            items = [self.dataset[place] for place in range(first, min(first + self.batch_size, len(self.dataset)))]
            inputs, targets, metadata = (list(part) for part in zip(*items, strict=True))
            yield inputs, targets, metadata


def check_dataset(dataset: Any) -> None:
    """Refuse what has no length or no items.

    Raises:
        InputError: it is no MAITE data set, or empty.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(f"expected a data set with a length and items, got {type(dataset).__name__}")
    if len(dataset) == 0:
        raise InputError("expected a data set of at least one item, got none")
