"""Make the embedded subset of Fashion-MNIST: per class, in file order, the first 600 training and 100 test images.

Usage: ``python experiments/make_fashion_mnist_mini.py [folder]``; needs Fashion-MNIST, see `lipcert.data.FashionMNIST`.
"""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import torch
from torch import Tensor

import lipcert.data
from lipcert.data import FashionMNIST, ImageSet

FOLDER = Path(lipcert.data.__file__).parent / "embedded"


def idx_bytes(values: Tensor) -> bytes:
    """The uint8 tensor as an uncompressed IDX file."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.numpy().tobytes()


def first_of_each_class(images: ImageSet, count: int) -> ImageSet:
    """The first ``count`` images of every class, in their old order."""
    chosen = torch.cat([(images.labels == label).nonzero().flatten()[:count] for label in range(10)])
    return images.subset(chosen.sort().values)


def embedded_files() -> dict[str, bytes]:
    """Name and uncompressed content of the four embedded files."""
    full = FashionMNIST(val_size=0)
    parts = {
        "train": first_of_each_class(full.split("train"), 600),
        "t10k": first_of_each_class(full.split("test"), 100),
    }
    files = {}
    for prefix, images in parts.items():
        files[f"{prefix}-images-idx3-ubyte"] = idx_bytes(images.images.squeeze(1))
        files[f"{prefix}-labels-idx1-ubyte"] = idx_bytes(images.labels.to(torch.uint8))
    return files


def main(folder: Path = FOLDER) -> None:
    """Write the four files, compressed, to ``folder``."""
    for name, content in embedded_files().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
