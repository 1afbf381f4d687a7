"""Data sets whose rows are mappings with an image and a label, as Hugging Face's ``datasets`` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lipcert.data.base import Split
from lipcert.data.decode import decode_image, pixels_of
from lipcert.data.image_set import ImageSet
from lipcert.data.tensors import ImageTensors, Layout, as_tensor, image_set
from lipcert.errors import InputError

IMAGE_COLUMNS = ("image", "img", "images", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target")

_SPLITS: Mapping[str, Split] = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


def image_set_of_columns(
    dataset: Any,
    *,
    image: str | None = None,
    label: str | None = None,
    image_size: tuple[int, int] | None = None,
    grayscale: bool | None = None,
    layout: Layout | None = None,
) -> ImageSet:
    """Return the images and labels of a data set of rows.

    Args:
        dataset: yields mappings, one a row, such as a split of Hugging Face's ``datasets``.
        image: column of the images: of Pillow, encoded as PNG or JPEG, or arrays of one image each; by default the
            first of ``image``, ``img``, ``images`` and ``pixel_values`` that there is.
        label: column of the class numbers; by default the first of ``label``, ``labels``, ``fine_label``, ``target``.
        image_size: height and width to which images, other than arrays, are scaled and cropped.
        grayscale: one channel instead of three; by default what the first image is.
        layout: of arrays, where their shape leaves it open; see :func:`lipcert.data.image_set`.

    Raises:
        InputError: no rows, no such columns, or images and labels that cannot be used; names the row.

    Example:
        >>> rows = [{"image": Image.new("L", (4, 5)), "label": number} for number in range(3)]
        >>> found = image_set_of_columns(rows)
        >>> found.images.shape, found.labels.tolist()
        (torch.Size([3, 1, 5, 4]), [0, 1, 2])
    """
    images: list[Tensor] = []
    labels: list[Any] = []
    for number, row in enumerate(_rows(dataset)):
        image, label = _column(row, image, IMAGE_COLUMNS), _column(row, label, LABEL_COLUMNS)
        value = _opened(row[image])
        if grayscale is None:
            grayscale = isinstance(value, Image.Image) and value.mode in ("1", "L", "LA")
        layout = "channels_first" if isinstance(value, bytes | Image.Image) else layout
        images.append(_pixels(value, f"row {number}", size=image_size, grayscale=grayscale))
        labels.append(row[label])
        if images[-1].shape != images[0].shape or images[-1].dtype != images[0].dtype:
            expected = f"expected images like the first, {images[0].dtype} {tuple(images[0].shape)}"
            found = f"{images[-1].dtype} {tuple(images[-1].shape)}"
            raise InputError(f"{expected}, got {found} in row {number}; pass image_size to resize")
    if not images:
        raise InputError("expected at least one row of an image and a label, got none")
    return image_set(torch.stack(images), labels, layout=layout)


def data_of_columns(
    splits: Any, *, name: str = "images", columns: Mapping[str, Any] | None = None, **options: Any
) -> ImageTensors:
    """Return a data set of rows as a data module for training and audit.

    Args:
        splits: data sets by the names of their splits (train, validation, test), such as a ``DatasetDict``, or one
            alone, which is then split.
        name: of the data set.
        columns: arguments of :func:`image_set_of_columns`.
        **options: of :class:`~lipcert.data.ImageTensors`.

    Raises:
        InputError: as for :func:`image_set_of_columns`, or splits of other names only.
    """
    columns = dict(columns or {})
    by_name = splits if isinstance(splits, Mapping) else {"train": splits}
    found = {_SPLITS[key]: image_set_of_columns(value, **columns) for key, value in by_name.items() if key in _SPLITS}
    if "train" not in found:
        shown = ", ".join(map(str, by_name)) or "none"
        raise InputError(f"expected a split train, and validation and test if there are, got {shown}")
    names = options.pop("class_names", None) or _class_names(next(iter(by_name.values())), columns.get("label"))
    return ImageTensors(
        found["train"], test=found.get("test"), val=found.get("val"), name=name, class_names=names, **options
    )


def _rows(dataset: Any) -> Iterator[Mapping[str, Any]]:
    try:
        rows = iter(dataset)
    except TypeError:
        raise InputError(f"expected a data set that yields rows, got {type(dataset).__name__}") from None
    for row in rows:
        if not isinstance(row, Mapping):
            raise InputError(f"expected rows that are mappings of columns, got {type(row).__name__}")
        yield row


def _column(row: Mapping[str, Any], name: str | None, known: Sequence[str]) -> str:
    found = next((each for each in ((name,) if name is not None else known) if each in row), None)
    if found is None:
        wanted = repr(name) if name is not None else f"among {', '.join(known)}"
        raise InputError(f"expected a column {wanted}, got {', '.join(map(str, row)) or 'none'}")
    return found


def _opened(value: Any) -> Any:
    """Return the bytes of an image that is still encoded, anything else as it is."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    return value


def _pixels(value: Any, name: str, *, size: tuple[int, int] | None, grayscale: bool) -> Tensor:
    if isinstance(value, bytes):
        return torch.from_numpy(np.array(decode_image(value, name, size=size, grayscale=grayscale)))
    if isinstance(value, Image.Image):
        return torch.from_numpy(np.array(pixels_of(value, name, size=size, grayscale=grayscale)))
    return as_tensor(value, f"an image in {name}")


def _class_names(dataset: Any, label: str | None) -> tuple[str, ...] | None:
    """Return what a column of class labels is said to mean, where the data set says it."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return None
    feature = next((features[each] for each in ((label,) if label else LABEL_COLUMNS) if each in features), None)
    names = getattr(feature, "names", None)
    return None if names is None else tuple(map(str, names))
