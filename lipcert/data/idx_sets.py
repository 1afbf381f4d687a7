"""Data sets of four IDX files: MNIST and its drop-in replacements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from lipcert.data.base import ImageData, Split
from lipcert.data.idx import read_idx
from lipcert.data.image_set import ImageSet
from lipcert.data.lookup import Download, find

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class IdxData(ImageData):
    """Images and labels in four IDX files; a subclass names them."""

    checksums: ClassVar[Mapping[str, str]]  # file: SHA-256 of its uncompressed content
    downloads: ClassVar[tuple[Download, ...]] = ()

    def prepare_data(self) -> None:
        """Find the files, downloading them if need be; Lightning calls it on one process of each machine."""
        self._paths()

    def _paths(self) -> tuple[Path, ...]:
        return find(self.name, [FILES], self.root, downloads=self.downloads)

    def _read(self, part: Split) -> ImageSet:
        first = 0 if part == "train" else 2
        image_path, label_path = self._paths()[first : first + 2]
        images = read_idx(image_path, dimensions=3, sha256=self.checksums[FILES[first]])
        labels = read_idx(label_path, dimensions=1, sha256=self.checksums[FILES[first + 1]])
        return ImageSet(images.unsqueeze(1), labels.long())


class FashionMNIST(IdxData):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, ``(1, 28, 28)``, ten classes.

    Looked up as ``fashion-mnist`` and downloaded if found nowhere. The content is checked by SHA-256.

    Source: Xiao, Rasul, Vollgraf (2017), arXiv 1708.07747.
    """

    name = "fashion-mnist"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
    downloads = tuple(
        Download(f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}.gz", f"md5:{md5}")
        for file, md5 in (
            ("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
        )
    )


class MNIST(IdxData):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, ``(1, 28, 28)``, ten classes.

    Looked up as ``mnist`` and downloaded if found nowhere. The content is checked by SHA-256.

    Source: LeCun, Bottou, Bengio, Haffner (1998), Proceedings of the IEEE 86(11).
    """

    name = "mnist"
    class_names = tuple("0123456789")
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
    downloads = tuple(
        Download(f"https://ossci-datasets.s3.amazonaws.com/mnist/{file}.gz", f"md5:{md5}")
        for file, md5 in (
            ("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
        )
    )
