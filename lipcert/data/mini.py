"""The small data set that ships with the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from lipcert.data.augment import Augmentation
from lipcert.data.idx_sets import FILES, FashionMNIST
from lipcert.data.lookup import find

FOLDER = Path(__file__).parent / "embedded"


class FashionMNISTMini(FashionMNIST):
    """A tenth of Fashion-MNIST that ships with the package: needs neither files nor network.

    Of each class, in file order, the first 600 of the 60,000 training images and the first 100 of the 10,000 test
    images. Meant for tests, tutorials and trying things out; figures on it are not figures on Fashion-MNIST.

    Args:
        batch_size: training images a batch, on each process.
        eval_batch_size: validation or test images a batch, on each process.
        val_size: number, or share if below 1, of training images held out for validation; 0 for none.
        augment: random changes of training batches, applied in this order.
        seed: seed of order and augmentation; by default the seed of the run.
        root: folder of the files; by default the one in the package.

    Example:
        >>> data = FashionMNISTMini()
        >>> [len(data.split(which)) for which in ("train", "val", "test")]
        [5500, 500, 1000]
    """

    name = "fashion-mnist-mini"
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
        "train-labels-idx1-ubyte": "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
        "t10k-images-idx3-ubyte": "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
        "t10k-labels-idx1-ubyte": "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
    }
    downloads = ()

    def __init__(
        self,
        *,
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        val_size: int | float = 500,
        augment: list[Augmentation] | None = None,
        seed: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_size=val_size,
            augment=augment,
            seed=seed,
            root=root,
        )

    def _paths(self) -> tuple[Path, ...]:
        return find(self.name, [FILES], FOLDER if self.root is None else self.root)
