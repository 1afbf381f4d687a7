"""Images and labels as named arrays in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from lipcert.data.base import ImageData, Split
from lipcert.data.image_set import ImageSet
from lipcert.data.lookup import find_path
from lipcert.data.npz import read_npz
from lipcert.data.tensors import Layout, class_names_of, image_set, part_of, with_test
from lipcert.errors import InputError

SUFFIXES = (".npz", ".safetensors")

_PARTS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
_IMAGES = {"x", "image", "images", "img", "imgs", "data", "inputs"}
_LABELS = {"y", "label", "labels", "target", "targets"}
_NAMES = ("class_names", "classes", "names")


class ImageArrays(ImageData):
    """Arrays in one ``.npz`` or ``.safetensors`` file; nothing in it is executed.

    Images and labels are found by their names: a part (train, val or test) and what it is, in any order, such as
    ``x_train`` and ``y_train``, ``test_images`` and ``test_labels``. Without parts, ``images`` and ``labels`` or ``x``
    and ``y`` are split into training, validation and test images by a fixed seed. ``class_names``, an array of strings,
    names the classes of an ``.npz`` file. For shapes and values see :func:`lipcert.data.image_set`.

    Args:
        path: the file; if there is none of that name, it is looked up in ``$LIPCERT_DATA``, ``/usr/share/datasets``
            and the user cache.
        layout: ``"channels_first"`` or ``"channels_last"``, where the shape leaves it open.
        test_size: number, or share if below 1, of images for the test split where the file has none.
        val_size: number, or share if below 1, of training images held out for validation where the file has none; 0
            for none.
        **options: of every data set, see :class:`~lipcert.data.ImageData`: ``batch_size``, ``eval_batch_size``,
            ``augment`` and ``seed``.

    Raises:
        InputError: a size is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        layout: Layout | None = None,
        test_size: int | float = 0.2,
        val_size: int | float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, root=None, **options)
        self.path = path
        self.layout: Layout | None = layout
        self.test_size = test_size
        self.name = Path(path).stem

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in the file; without any, the numbers from 0 to the largest label."""
        return self._content[1]

    @cached_property
    def _content(self) -> tuple[dict[Split, ImageSet], tuple[str, ...]]:
        path = find_path(self.path)
        arrays = read_arrays(path)
        names = next((arrays.pop(name) for name in _NAMES if name in arrays), None)
        parts: dict[Split, ImageSet] = {}
        for part, (images, labels) in arranged(arrays, path).items():
            try:
                parts[part] = image_set(arrays[images], arrays[labels], layout=self.layout)
            except InputError as error:
                raise InputError(f"{error} in {images} and {labels} of {path}") from error
        parts = with_test(parts, self.test_size)
        return parts, class_names_of(parts, _strings(names, path))

    def _has_val(self) -> bool:
        return "val" in self._content[0]

    def _read(self, part: Split) -> ImageSet:
        return part_of(self._content[0], part, str(self.path))


def read_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays or tensors of a file by name; pickled objects are refused.

    Raises:
        InputError: no such file, one of another kind, or a damaged one.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        raise InputError(f"expected a file of arrays, {' or '.join(SUFFIXES)}, got {path}")
    try:
        return dict(load_file(path)) if path.suffix == ".safetensors" else dict(read_npz(path))
    except Exception as error:  # what a damaged file makes a reader raise is not limited to a few types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"expected named arrays in {path}: {reason}") from None


def arranged(names: Sequence[str] | Mapping[str, Any], path: Path) -> dict[Split, tuple[str, str]]:
    """Return the names of images and labels by part, ``"train"`` for those without one.

    Args:
        names: of the arrays.
        path: where they are, for messages.

    Raises:
        InputError: images without labels, labels without images, two of a kind, or neither.

    Example:
        >>> arranged(["x_train", "y_train", "test_labels", "test_images"], Path("digits.npz"))
        {'train': ('x_train', 'y_train'), 'test': ('test_images', 'test_labels')}
    """
    found: dict[Split, dict[str, str]] = {}
    for name in names:
        words = {word for word in re.split(r"[^a-z]+", name.lower()) if word}
        parts = {_PARTS[word] for word in words & set(_PARTS)}
        kinds = [kind for kind, known in (("images", _IMAGES), ("labels", _LABELS)) if words & known]
        if len(parts) > 1 or len(kinds) != 1:
            continue
        of_part = found.setdefault(parts.pop() if parts else "train", {})
        if kinds[0] in of_part:
            raise InputError(f"expected one array of {kinds[0]} a part, got {of_part[kinds[0]]} and {name} in {path}")
        of_part[kinds[0]] = name
    if not found or any(len(of_part) < 2 for of_part in found.values()):
        shown = ", ".join(names) or "none"
        raise InputError(f"expected arrays such as x_train and y_train, or images and labels, got {shown} in {path}")
    return {part: (of_part["images"], of_part["labels"]) for part, of_part in found.items()}


def _strings(names: Any, path: Path) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, np.ndarray) or names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(f"expected class names as a list of strings in {path}")
    return tuple(names.tolist())
