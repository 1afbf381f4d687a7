"""Arrays in ``.npy`` files, of which a block is read at a time: more images than the memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipcert.data.arrays import arranged
from lipcert.data.base import ImageData, Split
from lipcert.data.image_set import ImageSet, ImageSource
from lipcert.data.lookup import find_path
from lipcert.data.tensors import MOST_CLASSES, Layout, class_numbers, image_set
from lipcert.errors import InputError

NAMES = "class_names"
_LABELS_AT_ONCE = 1 << 20


class StreamedArrays(ImageData):
    """Arrays in a folder of ``.npy`` files, read a block at a time where that is enough; nothing in it is executed.

    Images and labels of each part are found by the names of their files, such as ``test_images.npy`` and
    ``test_labels.npy``, as :class:`~lipcert.data.ImageArrays` finds arrays; training also needs ``train_images.npy``
    and ``train_labels.npy``, which are held in memory then. ``class_names.npy``, an array of strings, names the
    classes. For shapes and values see :func:`lipcert.data.image_set`.

    Args:
        path: the folder; if there is none of that name, it is looked up in ``$LIPCERT_DATA``, ``/usr/share/datasets``
            and the user cache.
        layout: ``"channels_first"`` or ``"channels_last"``, where the shape leaves it open.
        val_size: number, or share if below 1, of training images held out for validation where there are no others; 0
            for none.
        **options: of every data set, see :class:`~lipcert.data.ImageData`: ``batch_size``, ``eval_batch_size``,
            ``augment`` and ``seed``.

    Raises:
        InputError: a size is out of range.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "test_images.npy", np.zeros((5, 1, 6, 6), dtype=np.uint8))
        >>> np.save(folder / "test_labels.npy", np.arange(5))
        >>> images = StreamedArrays(folder).source("test")
        >>> len(images), images.block(3, 5).labels.tolist()
        (5, [3, 4])
    """

    def __init__(
        self,
        path: str | Path,
        *,
        layout: Layout | None = None,
        val_size: int | float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, root=None, **options)
        self.path = path
        self.layout: Layout | None = layout
        self.name = Path(path).resolve().name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in the folder; without any, the numbers from 0 to the largest label."""
        return self._class_names

    def source(self, which: Split) -> ImageSource:
        """One split; read a block at a time if it has files of its own.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            InputError: the files cannot be found or used, or there is no such split.
        """
        return self._part(which) if which == "test" else self.split(which)

    @cached_property
    def _parts(self) -> dict[Split, tuple[Path, Path]]:
        """Files of images and labels by part."""
        folder = find_path(self.path)
        files = {file.stem: file for file in sorted(folder.glob("*.npy")) if file.stem != NAMES}
        found = arranged(files, folder)
        return {part: (files[images], files[labels]) for part, (images, labels) in found.items()}

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        file = find_path(self.path) / f"{NAMES}.npy"
        if file.exists():
            names = _mapped(file)
            if names.ndim != 1 or names.dtype.kind != "U":
                raise InputError(f"expected class names as a list of strings in {file}")
            return tuple(names.tolist())
        largest = max(
            int(class_numbers(block).max()) for _, labels in self._parts.values() for block in _blocks(labels)
        )
        if largest >= MOST_CLASSES:
            raise InputError(f"expected labels below {MOST_CLASSES:,}, got {largest}; name the classes in {NAMES}.npy")
        return tuple(map(str, range(largest + 1)))

    def _part(self, part: Split) -> _Arrays:
        if part not in self._parts:
            raise InputError(f"expected {part} images in {self.path}, found only {' and '.join(self._parts)}")
        images, labels = self._parts[part]
        return _Arrays(images, labels, self.layout, self.num_classes)

    def _has_val(self) -> bool:
        return "val" in self._parts

    def _read(self, part: Split) -> ImageSet:
        arrays = self._part(part)
        return arrays.block(0, len(arrays))


@dataclass(frozen=True)
class _Arrays:
    """A file of images and a file of labels.

    Attributes:
        images: ``(N, ...)``, see :func:`lipcert.data.image_set`.
        labels: of the same length.
        layout: of the images.
        classes: number of classes.
    """

    images: Path
    labels: Path
    layout: Layout | None
    classes: int

    def __len__(self) -> int:
        images, labels = len(_mapped(self.images)), len(_mapped(self.labels))
        if images != labels:
            raise InputError(f"expected as many labels as images, got {labels} and {images} in {self.labels}")
        return images

    def block(self, begin: int, end: int) -> ImageSet:
        """Read the images from one position up to another; the files are closed again."""
        try:
            found = image_set(_mapped(self.images)[begin:end], _mapped(self.labels)[begin:end], layout=self.layout)
        except InputError as error:
            raise InputError(f"{error} in {self.images.name} from {begin}") from error
        largest = int(found.labels.max())
        if int(found.labels.min()) < 0 or largest >= self.classes:
            raise InputError(f"expected labels from 0 to {self.classes - 1}, got others in {self.labels} from {begin}")
        return found


def _blocks(path: Path) -> Iterator[NDArray[Any]]:
    for begin in range(0, len(_mapped(path)), _LABELS_AT_ONCE):
        yield _mapped(path)[begin : begin + _LABELS_AT_ONCE]


def _mapped(path: Path) -> NDArray[Any]:
    """Return an array whose numbers stay in the file until they are looked at.

    It is opened anew for each block: pages that were read count as memory until the file is closed.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what a damaged file makes a reader raise is not limited to a few types
        raise InputError(f"expected an array in {path}: {' '.join(str(error).split())}") from None
    if found.ndim == 0 or len(found) == 0:
        raise InputError(f"expected at least one entry in {path}, got an array of shape {found.shape}")
    return found
