"""Readers of images: IDX, CIFAR-10 and image folders."""

import functools
import gzip
import hashlib
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guard import Victim
from mutations import confused, damaged
from PIL import Image

from lipcert.data import CIFAR10, ImageArrays, ImageFolder, cifar10
from lipcert.data.decode import decode_image
from lipcert.data.idx import read_idx
from lipcert.data.safe_pickle import load_byte_arrays

ROWS = 3


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(256, size=shape, dtype=np.uint8)


def _from(seeds: tuple[bytes, ...]) -> Any:
    return lambda rng: damaged(rng, rng.choice(seeds), seeds)


# IDX

_IDX = tuple(
    bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape) + _noise(*shape).tobytes() for shape in ((3, 4, 5), (1, 1, 1))
)


def _read_idx(name: str) -> Any:
    def read(folder: Path, content: bytes) -> torch.Tensor:
        (folder / name).write_bytes(content)
        return read_idx(folder / name, dimensions=3)

    return read


def _idx_complaint(content: bytes, found: torch.Tensor) -> str | None:
    again = bytes([0, 0, 8, 3]) + struct.pack(">3I", *found.shape) + found.numpy().tobytes()
    return None if again == content else "a tensor that is not what the file says"


def _gzip_complaint(content: bytes, found: torch.Tensor) -> str | None:
    return _idx_complaint(gzip.decompress(content), found)


def _make_gzip(rng: random.Random) -> bytes:
    if rng.random() < 0.5:  # damaged inside
        return gzip.compress(damaged(rng, rng.choice(_IDX), _IDX), mtime=0)
    seeds = tuple(gzip.compress(content, mtime=0) for content in _IDX)
    return damaged(rng, rng.choice(seeds), seeds)


# CIFAR-10: as many rows a file as the archive has members, so that inputs stay small

_PIXELS, _LABELS = _noise(ROWS, 3072), [3, 1, 2]
_BINARY = b"".join(bytes([label]) + image.tobytes() for image, label in zip(_PIXELS, _LABELS, strict=True))
_PICKLES = tuple(pickle.dumps({b"data": _PIXELS, b"labels": _LABELS, b"batch_label": b"x"}, n) for n in (2, 3, 4, 5))


def _read_cifar(layout: str) -> Any:
    def read(folder: Path, content: bytes) -> tuple[torch.Tensor, torch.Tensor]:
        before, sums = cifar10.ROWS, dict(cifar10.MD5)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        cifar10.ROWS = ROWS
        cifar10.MD5.update(dict.fromkeys(cifar10.MD5, digest))  # what a checksum would have caught is to be read
        try:
            names = [cifar10.BINARY_ARCHIVE] if layout == "archive" else getattr(cifar10, layout)
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
            images = CIFAR10(root=folder).split("test")
            return images.images, images.labels
        finally:
            cifar10.ROWS = before
            cifar10.MD5.update(sums)

    return read


def _cifar_complaint(content: bytes, found: tuple[torch.Tensor, torch.Tensor]) -> str | None:
    images, labels = found
    if tuple(images.shape) != (ROWS, 3, 32, 32) or not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
        return f"images {tuple(images.shape)}, labels {labels.tolist()}"
    rows = b"".join(
        bytes([label]) + image.numpy().tobytes() for image, label in zip(images, labels.tolist(), strict=True)
    )
    return None if rows == content or len(rows) != len(content) else "rows that are not what the file says"


@functools.cache
def _archives() -> tuple[bytes, ...]:
    made = []
    for mode in ("w", "w:gz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            for name in (*cifar10.BINARY[4:], "../escaped", "/absolute"):
                member = tarfile.TarInfo(name)
                member.size = len(_BINARY)
                archive.addfile(member, io.BytesIO(_BINARY))
        made.append(buffer.getvalue())
    return tuple(made)


def _make_archive(rng: random.Random) -> bytes:
    plain, packed = _archives()
    if rng.random() < 0.5:
        return gzip.compress(damaged(rng, plain, (plain,)), 1, mtime=0)
    return damaged(rng, packed, (packed,))


def _archive_complaint(content: bytes, found: tuple[torch.Tensor, torch.Tensor]) -> str | None:
    return _cifar_complaint(b"", found)  # a tar archive has no checksum of its members


def _read_pickle(folder: Path, content: bytes) -> Any:
    return load_byte_arrays(content)


def _pickle_complaint(content: bytes, found: Any) -> str | None:
    for value in found.values():
        if isinstance(value, np.ndarray) and (value.dtype != np.uint8 or value.nbytes > len(content)):
            return f"an array {value.dtype} of {value.nbytes} bytes"
    return None


# Arrays

_ARRAYS = {
    **{"x_train": _noise(2, 1, 5, 5), "y_train": np.array([0, 1])},
    **{"x_test": _noise(2, 1, 5, 5), "y_test": np.array([1, 0], dtype=np.uint8)},
}


@functools.cache
def _npz() -> tuple[bytes, ...]:
    made = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **_ARRAYS)
        made.append(buffer.getvalue())
    return tuple(made)


def _make_npz(rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return damaged(rng, rng.choice(_npz()), _npz())
    with zipfile.ZipFile(io.BytesIO(_npz()[0])) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(files))
    if rng.random() < 0.3:  # one digit of a shape, and the other headers that are text
        place = rng.randrange(10, 80)
        files[name] = files[name][:place] + rng.choice(b"0139-(),'Of").to_bytes() + files[name][place + 1 :]
    files[name] = damaged(rng, files[name], tuple(files.values())) if rng.random() < 0.7 else files[name]
    return _zipped(files, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _read_npz(folder: Path, content: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    (folder / "x.npz").write_bytes(content)
    data = ImageArrays(folder / "x.npz", val_size=0)
    parts = [data.split("train"), data.split("test")]
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])


def _npz_complaint(content: bytes, found: tuple[torch.Tensor, torch.Tensor]) -> str | None:
    images, labels = found
    if len(images) != len(labels) or images.dtype != torch.uint8 or not bool(images.isfinite().all()):
        return f"images {images.dtype} {tuple(images.shape)}, labels {tuple(labels.shape)}"
    return None if images.numel() <= 1032 * len(content) else f"{images.numel()} pixels"


# Image files


def _images() -> dict[str, bytes]:
    picture = np.kron(_noise(3, 2, 3), np.ones((4, 6, 1), dtype=np.uint8))
    files = {}
    for mode, kind, options in (
        *(("RGB", "JPEG", {}), ("L", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "JPEG", {"progressive": True})),
        *(("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {})),
    ):
        buffer = io.BytesIO()
        Image.fromarray(picture).convert(mode).save(buffer, kind, **options)
        files[f"{mode}{len(files)}.{kind.lower()}"] = buffer.getvalue()
    return files


_IMAGES = _images()
_SHAPE = (3, 12, 12)


def _read_image(folder: Path, content: bytes) -> np.ndarray:
    return decode_image(content, "x.png", size=None)


def _image_complaint(content: bytes, found: np.ndarray) -> str | None:
    if found.dtype != np.uint8 or found.ndim != 3 or len(found) != 3:
        return f"{found.dtype} {found.shape}"
    for good in _IMAGES.values():  # what lacks more than the mark of its end is no whole picture
        if len(content) < len(good) - 12 and good.startswith(content):
            same = decode_image(good, "x.png").shape == found.shape and (decode_image(good, "x.png") == found).all()
            return None if same else f"{len(content)} of {len(good)} bytes of a picture"
    return None


def _zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


_FILES = {f"{label}/{n}.jpg": _IMAGES["RGB0.jpeg"] for label in ("cat", "dog") for n in range(2)}
_TREE = {f"{part}/{name}": content for part in ("train", "test") for name, content in _FILES.items()}
_ZIPS = (_zipped(_FILES), _zipped(_TREE), _zipped(_FILES, zipfile.ZIP_DEFLATED))
_NAMES = (
    "../cat/0.jpg",
    "/cat/0.jpg",
    "cat/../../0.jpg",
    "cat\\..\\0.jpg",
    "cat/0.jpg/",
    "a" * 300 + "/0.jpg",
    "é/\x00.jpg",
)


def _make_zip(rng: random.Random) -> bytes:
    if rng.random() < 0.7:
        return damaged(rng, rng.choice(_ZIPS), _ZIPS)
    files = dict(rng.choice((_FILES, _TREE)))
    for _ in range(rng.randrange(1, 3)):
        name = rng.choice(list(files))
        if rng.random() < 0.5:
            files[rng.choice(_NAMES)] = files.pop(name)
        else:
            files[name] = damaged(rng, files[name], tuple(_IMAGES.values()))
    return _zipped(files, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _read_zip(folder: Path, content: bytes) -> torch.Tensor:
    (folder / "pets.zip").write_bytes(content)
    data = ImageFolder(folder / "pets.zip", test_size=1, val_size=0)
    return torch.cat([data.split("train").images, data.split("test").images])


def _zip_complaint(content: bytes, found: torch.Tensor) -> str | None:
    return None if tuple(found.shape[1:]) == _SHAPE[:1] + tuple(found.shape[2:]) and len(found) <= 8 else "other images"


def _make_folder(rng: random.Random) -> bytes:
    seeds = tuple(_IMAGES.values())
    return damaged(rng, rng.choice(seeds), seeds)


def _read_folder(folder: Path, content: bytes) -> torch.Tensor:
    for name, good in _TREE.items():
        (folder / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pets" / name).write_bytes(good)
    (folder / "pets" / "train" / "cat" / "0.jpg").write_bytes(content)
    return ImageFolder(folder / "pets", val_size=0).split("train").images


def _folder_complaint(content: bytes, found: torch.Tensor) -> str | None:
    return _image_complaint(content, found[0].numpy()) or (
        None if tuple(found.shape) == (4, *_SHAPE) else "other images"
    )


# Tables of labels beside image files


_TABLES = (
    b"file_name,label\n" + b"".join(b"%d.jpg,%s\n" % (n, b"cat" if n % 2 else b"dog") for n in range(4)),
    b"".join(json.dumps({"file_name": f"{n}.jpg", "label": n % 2}).encode() + b"\n" for n in range(4)),
)


def _make_table(rng: random.Random) -> bytes:
    content = rng.choice(_TABLES)
    if rng.random() < 0.5:
        return damaged(rng, content, _TABLES)
    rows = confused(rng, [json.loads(line) for line in _TABLES[1].splitlines()])
    return b"\n".join(json.dumps(row).encode() for row in (rows if isinstance(rows, list) else [rows]))


def _read_table(folder: Path, content: bytes) -> torch.Tensor:
    (folder / "pets").mkdir(exist_ok=True)
    for n in range(4):
        (folder / "pets" / f"{n}.jpg").write_bytes(_IMAGES["RGB0.jpeg"])
    for name in ("metadata.csv", "metadata.jsonl"):
        (folder / "pets" / name).unlink(missing_ok=True)
    name = "metadata.jsonl" if content[:1] in (b"{", b"[") else "metadata.csv"
    (folder / "pets" / name).write_bytes(content)
    data = ImageFolder(folder / "pets", test_size=2, val_size=0)
    return torch.cat([data.split("train").labels, data.split("test").labels])


def _table_complaint(content: bytes, found: torch.Tensor) -> str | None:
    return (
        None if 2 <= len(found) <= 4 and 0 <= int(found.min()) <= int(found.max()) < 4 else f"labels {found.tolist()}"
    )


DATA_VICTIMS = (
    Victim("idx", _from(_IDX), _read_idx("x-idx3-ubyte"), _idx_complaint),
    Victim("idx-gz", _make_gzip, _read_idx("x-idx3-ubyte.gz"), _gzip_complaint),
    Victim("cifar10-binary", _from((_BINARY,)), _read_cifar("BINARY"), _cifar_complaint),
    Victim(
        "cifar10-pickle", _from(_PICKLES), _read_cifar("PICKLED"), lambda content, found: _cifar_complaint(b"", found)
    ),
    Victim("cifar10-archive", _make_archive, _read_cifar("archive"), _archive_complaint),
    Victim("byte-arrays", _from(_PICKLES), _read_pickle, _pickle_complaint, (pickle.UnpicklingError,)),
    Victim("npz", _make_npz, _read_npz, _npz_complaint),
    Victim("image", _make_folder, _read_image, _image_complaint),
    Victim("image-zip", _make_zip, _read_zip, _zip_complaint),
    Victim("image-table", _make_table, _read_table, _table_complaint),
    Victim("image-folder", _make_folder, _read_folder, _folder_complaint),
)
