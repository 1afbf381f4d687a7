"""Image files in one folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert.data.base import ImageData, Split, check_size, drawn, held_out
from lipcert.data.decode import decode_all, decode_image
from lipcert.data.file_tree import FileTree
from lipcert.data.image_set import ImageSet, ImageSource
from lipcert.data.lookup import find_path
from lipcert.data.metadata import arrange_by_metadata, in_order
from lipcert.errors import InputError

PARTS: Mapping[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}


class ImageFolder(ImageData):
    """PNG or JPEG files in one folder a class, or a zip archive of such folders.

    Either ``train/<class>/<file>``, ``test/<class>/<file>`` and, if wanted, ``val/<class>/<file>`` (or ``validation``);
    or just ``<class>/<file>``, which is split into training, validation and test images by a fixed seed. In place of
    class folders there may be tables, ``metadata.csv`` or ``metadata.jsonl``, with the columns ``file_name`` and
    ``label``. Classes are numbered in the order of their names, or of their numbers if all are. Images are decoded
    once and kept as bytes. Figures on JPEG copies of a data set are not figures on that data set.

    Files are sorted by class, and test and validation images are not: they come in an order that a constant seed draws,
    the same for the same files, so that the first N of them are a sample of all classes. :attr:`test_files` names them.

    Args:
        path: folder or zip archive; if there is none of that name, it is looked up in ``$LIPCERT_DATA``,
            ``/usr/share/datasets`` and the user cache.
        image_size: height and width, or one number for both; images are scaled to cover it and cropped around their
            centre. By default images are taken as they are and must all have one size.
        grayscale: one channel instead of three.
        test_size: number, or share if below 1, of images for the test split where there is no ``test`` folder.
        val_size: number, or share if below 1, of training images held out for validation where there is no ``val``
            folder; 0 for none.
        **options: of every data set, see :class:`~lipcert.data.ImageData`: ``batch_size``, ``eval_batch_size``,
            ``augment`` and ``seed``.

    Raises:
        InputError: a size is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image_size: int | tuple[int, int] | None = None,
        grayscale: bool = False,
        test_size: int | float = 0.2,
        val_size: int | float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, root=None, **options)
        check_size("test_size", test_size)
        if test_size == 0:
            raise InputError("expected test_size > 0, got 0")
        self.path = path
        self.test_size = test_size
        self.grayscale = grayscale
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if self.image_size is not None and min(self.image_size) < 1:
            raise InputError(f"expected image_size >= 1, got {image_size}")
        self.name = Path(path).stem

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders or labels, sorted."""
        return in_order({label for files in self._files.values() for _, label in files})

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the first image; reading fails if another has a different one."""
        with FileTree(find_path(self.path)) as tree:
            name = self._files["test"][0][0]
            image = decode_image(tree.read(name), name, size=self.image_size, grayscale=self.grayscale)
        channels, height, width = image.shape
        return channels, height, width

    @property
    def test_files(self) -> tuple[str, ...]:
        """Names of the files of the test images, in the order of the split: the file of index n in a report is [n]."""
        return tuple(name for name, _ in self._files["test"])

    @cached_property
    def _files(self) -> dict[str, list[tuple[str, str]]]:
        """Name and class of every file of every part."""
        path = find_path(self.path)
        with FileTree(path) as tree:
            files = arrange_by_metadata(tree, PARTS) or arrange(tree.names(), path)
        if "" in files:
            flat = files.pop("")
            kept, tested = held_out(len(flat), self.test_size, "test_size")
            files = {"train": [flat[n] for n in kept.tolist()], "test": [flat[n] for n in tested.tolist()]}
        else:
            _check_same_classes(files, path)
            for part in files.keys() - {"train"}:
                files[part] = [files[part][n] for n in drawn(len(files[part])).tolist()]
        return files

    def _has_val(self) -> bool:
        return "val" in self._files

    def source(self, which: Split) -> ImageSource:
        """One split, of which the test images are decoded a block at a time.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            InputError: the files cannot be found or used, or there is no such split.
        """
        return self._decoder("test") if which == "test" else self.split(which)

    def _decoder(self, part: Split) -> _Decoder:
        number = {label: n for n, label in enumerate(self.class_names)}
        names = [name for name, _ in self._files[part]]
        labels = torch.tensor([number[label] for _, label in self._files[part]])
        return _Decoder(find_path(self.path), names, labels, self.image_size, self.grayscale)

    def _read(self, part: Split) -> ImageSet:
        return self._decoder(part).block(0, len(self._files[part]))


@dataclass(frozen=True)
class _Decoder:
    """Files that are decoded when they are asked for.

    Attributes:
        path: folder or archive.
        names: of the N files.
        labels: ``(N,)`` int64.
        size: height and width; None for the images' own.
        grayscale: one channel instead of three.
    """

    path: Path
    names: Sequence[str]
    labels: Tensor
    size: tuple[int, int] | None
    grayscale: bool

    def __len__(self) -> int:
        return len(self.names)

    def block(self, begin: int, end: int) -> ImageSet:
        """Decode the images from one position up to another."""
        with FileTree(self.path) as tree:
            images = decode_all(tree, self.names[begin:end], size=self.size, grayscale=self.grayscale)
        return ImageSet(images, self.labels[begin:end])


def arrange(names: Sequence[str], path: Path) -> dict[str, list[tuple[str, str]]]:
    """Sort file names into parts and classes.

    Args:
        names: relative names with forward slashes; one folder around everything is passed over.
        path: where they are, for messages.

    Returns:
        For each part (``"train"``, ``"val"``, ``"test"``; or ``""`` if there are only classes) name and class of its
        files.

    Raises:
        InputError: no images, or files lie elsewhere than in class folders.

    Example:
        >>> arrange(["train/cat/1.png", "test/cat/2.png"], Path("pets"))
        {'train': [('train/cat/1.png', 'cat')], 'test': [('test/cat/2.png', 'cat')]}
    """
    if not names:
        raise InputError(f"expected PNG or JPEG files in {path}, found none")
    split = [name.split("/") for name in names]
    tops = {parts[0] for parts in split}
    if len(tops) == 1 and not tops & set(PARTS) and min(map(len, split)) > 2:
        split = [parts[1:] for parts in split]
    flat = not any(parts[0] in PARTS and len(parts) > 2 for parts in split)
    files: dict[str, list[tuple[str, str]]] = {}
    for name, parts in zip(names, split, strict=True):
        if len(parts) != (2 if flat else 3) or not (flat or parts[0] in PARTS):
            layout = "<class>/<file>" if flat else "train, val or test/<class>/<file>"
            raise InputError(f"expected images as {layout}, got {name} in {path}")
        files.setdefault("" if flat else PARTS[parts[0]], []).append((name, parts[-2]))
    return files


def _check_same_classes(files: dict[str, list[tuple[str, str]]], path: Path) -> None:
    for part in ("train", "test"):
        if part not in files:
            raise InputError(f"expected folders train and test, found no images in {part} of {path}")
    classes = {part: {label for _, label in found} for part, found in files.items()}
    for part, found in classes.items():
        if odd := sorted(found ^ classes["train"]):
            raise InputError(
                f"expected the same classes in train and {part} of {path}, got {odd[0]} in only one of them"
            )
