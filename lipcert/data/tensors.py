"""Images that are arrays or tensors already: made sure of, and given to training and audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lipcert.data.base import ImageData, Split, check_size, held_out
from lipcert.data.image_set import ImageSet
from lipcert.errors import InputError

Layout = Literal["channels_first", "channels_last"]

_CHANNELS = (1, 3, 4)
MOST_CLASSES = 1_000_000  # unless they are named: every class gets a name, and every network a logit for it


class ImageTensors(ImageData):
    """Images in memory as a data module.

    Args:
        train: training images.
        test: test images; drawn from the training images by a fixed seed if None.
        val: validation images; drawn likewise, see ``val_size``, if None.
        name: of the data set.
        class_names: one name a class; by default the numbers from 0 to the largest label.
        test_size: number, or share if below 1, of images for the test split where there is none.
        val_size: number, or share if below 1, of training images held out where there are no others; 0 for none.
        **options: of every data set, see :class:`~lipcert.data.ImageData`: ``batch_size``, ``eval_batch_size``,
            ``augment`` and ``seed``.

    Raises:
        InputError: images of several shapes, or a size is out of range.

    Example:
        >>> images = ImageSet(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.arange(20) % 2)
        >>> data = ImageTensors(images, val_size=0.25)
        >>> [len(data.split(which)) for which in ("train", "val", "test")], data.class_names
        ([12, 4, 4], ('0', '1'))
    """

    def __init__(
        self,
        train: ImageSet,
        *,
        test: ImageSet | None = None,
        val: ImageSet | None = None,
        name: str = "images",
        class_names: Sequence[str] | None = None,
        test_size: int | float = 0.2,
        val_size: int | float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, root=None, **options)
        self.name = name
        parts: dict[Split, ImageSet] = {"train": train}
        parts |= {"test": test} if test is not None else {}
        parts |= {"val": val} if val is not None else {}
        self._parts = with_test(parts, test_size)
        self._class_names = class_names_of(self._parts, class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in the order of the labels."""
        return self._class_names

    def _has_val(self) -> bool:
        return "val" in self._parts

    def _read(self, part: Split) -> ImageSet:
        return part_of(self._parts, part, self.name)


def part_of(parts: Mapping[Split, ImageSet], part: Split, name: str) -> ImageSet:
    """Return a part of a data set, or say that it has none.

    Raises:
        InputError: there is no such part.
    """
    if part not in parts:
        raise InputError(f"expected {part} images in {name}, found only {' and '.join(parts)}")
    return parts[part]


def with_test(parts: dict[Split, ImageSet], test_size: int | float) -> dict[Split, ImageSet]:
    """Return the parts of a data set, a test part among them: drawn from the training images if there is none.

    Raises:
        InputError: neither of both, images of several shapes, or a test size out of range.
    """
    if "test" not in parts:
        part_of(parts, "train", "a data set without test images")
        check_size("test_size", test_size)
        kept, tested = held_out(len(parts["train"]), test_size, "test_size")
        parts = {**parts, "train": parts["train"].subset(kept), "test": parts["train"].subset(tested)}
    shapes = {part: tuple(images.images.shape[1:]) for part, images in parts.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"expected images of one shape (C, H, W), got {', '.join(map(str, shapes.values()))}")
    return parts


def class_names_of(parts: dict[Split, ImageSet], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return one name a class, by default its number.

    Raises:
        InputError: a label that can hardly be the number of a class.
    """
    if names is not None:
        return tuple(map(str, names))
    largest = max(int(images.labels.max()) for images in parts.values())
    if largest >= MOST_CLASSES:
        raise InputError(f"expected labels below {MOST_CLASSES:,}, got {largest}; pass the names of the classes")
    return tuple(map(str, range(largest + 1)))


def image_set(images: Any, labels: Any, *, layout: Layout | None = None) -> ImageSet:
    """Return labelled images from arrays.

    Args:
        images: ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``, C of 1, 3 or 4; integers from 0 to 255, or floats
            in [0, 1], as a tensor or whatever numpy makes an array of.
        labels: ``(N,)`` or ``(N, 1)`` class numbers, or ``(N, K)`` one-hot rows.
        layout: where the channels are; needed only where both the first and the last could be.

    Returns:
        The images as uint8 or float32, ``(N, C, H, W)``.

    Raises:
        InputError: other shapes, types, values or numbers of labels.

    Example:
        >>> found = image_set(np.zeros((2, 8, 8, 3)), [[0, 1], [1, 0]])
        >>> found.images.shape, found.labels.tolist()
        (torch.Size([2, 3, 8, 8]), [1, 0])
    """
    pixels = _channels_first(as_tensor(images, "images"), layout)
    if not pixels.is_floating_point() and pixels.dtype != torch.uint8:
        low, high = map(int, pixels.aminmax()) if pixels.numel() else (0, 0)
        if low < 0 or high > 255:
            raise InputError(f"expected integer images from 0 to 255, got values from {low} to {high}")
        pixels = pixels.to(torch.uint8)
    dtype = torch.float32 if pixels.is_floating_point() else torch.uint8
    return ImageSet(pixels.to(dtype).contiguous(), class_numbers(labels))


def as_tensor(values: Any, what: str) -> Tensor:
    """Return real numbers as a tensor on the CPU, without gradients.

    Args:
        values: a tensor, or whatever numpy makes an array of.
        what: a word for the message.

    Raises:
        InputError: no numbers.
    """
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
    else:
        try:
            array = np.asarray(values)
            tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
        except Exception as error:  # ragged lists, objects, types that torch does not have
            raise InputError(f"expected {what} as an array of numbers: {' '.join(str(error).split())}") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"expected {what} as real numbers, got {tensor.dtype}")
    return tensor


def class_numbers(labels: Any) -> Tensor:
    """Return the classes ``(N,)`` int64 of labels ``(N,)``, ``(N, 1)`` or one-hot ``(N, K)``.

    Raises:
        InputError: other shapes or values.

    Example:
        >>> class_numbers([[0.0, 1.0], [1.0, 0.0]]).tolist(), class_numbers([[3], [4]]).tolist()
        ([1, 0], [3, 4])
    """
    found = as_tensor(labels, "labels")
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim == 2:
        if not bool((((found == 0) | (found == 1)).all(1) & (found.sum(1) == 1)).all()):
            raise InputError(f"expected one-hot labels (N, K) with a single 1 in each row, got {tuple(found.shape)}")
        return found.argmax(1)
    if found.ndim != 1 or not bool((found == found.to(torch.int64)).all()):
        shown = f"{found.dtype} {tuple(found.shape)}"
        raise InputError(f"expected class numbers (N,) or one-hot labels (N, K), got {shown}")
    return found.to(torch.int64)


def _channels_first(images: Tensor, layout: Layout | None) -> Tensor:
    if layout is not None and layout not in get_args(Layout):
        raise InputError(f"expected a layout among {', '.join(get_args(Layout))}, got {layout!r}")
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim != 4:
        raise InputError(f"expected images (N, H, W), (N, C, H, W) or (N, H, W, C), got {tuple(images.shape)}")
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if layout is None and first == last:
        raise InputError(
            f"expected 1, 3 or 4 channels either first or last, got {tuple(images.shape[1:])}; say which by layout"
        )
    is_last = last if layout is None else layout == "channels_last"
    return images.permute(0, 3, 1, 2) if is_last else images
