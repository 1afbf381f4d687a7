"""CIFAR-10, from the files that its authors distribute."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lipcert.data.base import ImageData, Split
from lipcert.data.image_set import ImageSet
from lipcert.data.lookup import Download, find, places
from lipcert.data.safe_pickle import load_byte_arrays
from lipcert.errors import InputError

ROWS = 10_000  # images a file
_PIXELS = 3 * 32 * 32
_NAMES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
BINARY = tuple(f"cifar-10-batches-bin/{name}.bin" for name in _NAMES)
PICKLED = tuple(f"cifar-10-batches-py/{name}" for name in _NAMES)
BINARY_ARCHIVE = "cifar-10-binary.tar.gz"
PICKLED_ARCHIVE = "cifar-10-python.tar.gz"
MD5 = {
    BINARY_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530",
    PICKLED_ARCHIVE: "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class CIFAR10(ImageData):
    """CIFAR-10: 50,000 training and 10,000 test images, ``(3, 32, 32)``, ten classes.

    Looked up as ``cifar10`` and downloaded if found nowhere: the binary version, as folder ``cifar-10-batches-bin`` or
    archive, or else the Python version, as folder ``cifar-10-batches-py`` or archive. Archives and Python batches are
    checked by MD5, binary batches by length and labels. Pickles are read without running any code of theirs.

    Source: Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    """

    name = "cifar10"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def prepare_data(self) -> None:
        """Find the files, downloading them if need be; Lightning calls it on one process of each machine."""
        self._paths()

    def _paths(self) -> tuple[Path, ...]:
        download = Download(f"https://www.cs.toronto.edu/~kriz/{BINARY_ARCHIVE}", f"md5:{MD5[BINARY_ARCHIVE]}")
        layouts = (BINARY, (BINARY_ARCHIVE,), PICKLED, (PICKLED_ARCHIVE,))
        try:
            return find(self.name, layouts, self.root, downloads=[download])
        except InputError as error:
            copies = [path for place in places(self.name, self.root) for path in sorted(place.glob("*jpeg*.zip"))]
            if not copies:
                raise
            raise InputError(f"{error}; there is only a JPEG copy: read it by ImageFolder(path={copies[0]})") from None

    def _read(self, part: Split) -> ImageSet:
        paths = self._paths()
        chosen = slice(0, 5) if part == "train" else slice(5, 6)
        if len(paths) == 1:
            binary = paths[0].name == BINARY_ARCHIVE
            names = (BINARY if binary else PICKLED)[chosen]
            contents = _archived(paths[0], names)
        else:
            binary = paths[0].suffix == ".bin"
            names = tuple(map(str, paths[chosen]))
            contents = [_stored(path, None if binary else MD5[path.name]) for path in paths[chosen]]
        batches = [(_binary if binary else _pickled)(*pair) for pair in zip(contents, names, strict=True)]
        images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))


def _check_md5(found: str, expected: str, path: Path) -> None:
    if found != expected:
        raise InputError(f"expected content with md5 {expected}, got {found} in {path}")


def _stored(path: Path, md5: str | None) -> bytes:
    content = path.read_bytes()
    if md5 is not None:
        _check_md5(hashlib.md5(content, usedforsecurity=False).hexdigest(), md5, path)
    return content


def _archived(path: Path, names: Sequence[str]) -> list[bytes]:
    """The members of these names; nothing is extracted, and nothing is read unless the archive is the official one."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    _check_md5(digest.hexdigest(), MD5[path.name], path)
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.name in names and (stream := archive.extractfile(member)) is not None:
                    contents[member.name] = stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, KeyError) as error:
        raise InputError(f"expected a tar archive, got {path}: {error}") from None
    for name in names:
        if name not in contents:
            raise InputError(f"expected {name} in {path}, found none")
    return [contents[name] for name in names]


def _binary(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if len(content) != ROWS * (1 + _PIXELS):
        raise InputError(f"expected {ROWS * (1 + _PIXELS)} bytes, got {len(content)} in {name}")
    rows = np.frombuffer(content, np.uint8).reshape(ROWS, 1 + _PIXELS)
    return rows[:, 1:].reshape(ROWS, 3, 32, 32), rows[:, 0].astype(np.int64)


def _pickled(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        batch = load_byte_arrays(content)
    except pickle.UnpicklingError as error:
        raise InputError(f"expected a pickled batch of CIFAR-10, got {name}, which {error}") from None
    images, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(images, np.ndarray) or images.shape != (ROWS, _PIXELS):
        raise InputError(f"expected data of shape ({ROWS}, {_PIXELS}), got something else in {name}")
    if not isinstance(labels, list) or len(labels) != ROWS or not all(type(label) is int for label in labels):
        raise InputError(f"expected {ROWS} whole numbers as labels, got something else in {name}")
    return images.reshape(ROWS, 3, 32, 32), np.array(labels, dtype=np.int64)
