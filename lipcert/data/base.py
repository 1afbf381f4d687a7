"""What all data sets have in common: splits, checks, loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import torch
from lightning import LightningDataModule
from torch import Tensor

from lipcert.data.augment import Augmentation
from lipcert.data.image_set import ImageSet, ImageSource
from lipcert.data.loader import BatchLoader
from lipcert.errors import InputError

Split: TypeAlias = Literal["train", "val", "test"]

_SPLIT_SEED = 20170825  # a constant, so that no training seed can move images between training and validation


def check_size(argument: str, size: int | float) -> None:
    """Refuse what is neither a number of images nor a share of them.

    Args:
        argument: name for the message.
        size: an integer >= 0, or a share below 1.

    Raises:
        InputError: it is neither.
    """
    if size < 0 or (size > 1 and size != int(size)) or size != size:
        raise InputError(f"expected {argument} >= 0, a whole number or a share below 1, got {size}")


def drawn(total: int) -> Tensor:
    """Return the positions of N images in an order that a constant seed draws.

    The first of them are a sample of all, also where files are sorted by class.

    Args:
        total: number of images N.

    Returns:
        ``(N,)`` int64, every position once.

    Example:
        >>> drawn(5).sort().values.tolist(), drawn(5).equal(drawn(5))
        ([0, 1, 2, 3, 4], True)
    """
    return torch.randperm(total, generator=torch.Generator().manual_seed(_SPLIT_SEED))


def held_out(total: int, size: int | float, argument: str) -> tuple[Tensor, Tensor]:
    """Draw images to hold out, by a constant seed.

    Args:
        total: number of images N.
        size: number of images to hold out, or their share if below 1.
        argument: name of the size for the message.

    Returns:
        Positions that are kept, in ascending order, and positions that are held out, as they were :func:`drawn`. Both
        int64.

    Raises:
        InputError: nothing would be held out, or nothing kept.

    Example:
        >>> [len(positions) for positions in held_out(50, 0.1, "val_size")]
        [45, 5]
    """
    count = round(total * size) if size < 1 else int(size)
    if not 0 < count < total:
        raise InputError(f"expected {argument} to hold out at least one and fewer than {total} images, got {size}")
    order = drawn(total)
    return order[count:].sort().values, order[:count]


class ImageData(LightningDataModule):
    """Images with class labels, as training, validation and test split.

    Validation images are drawn once and for all from the training images, by a fixed seed that has nothing to do with
    the training's: no run trains on images that another run of the same ``val_size`` is validated on. The test split
    is the data set's own. A subclass sets ``name`` and ``class_names`` and says how to read.

    Args:
        batch_size: training images a batch, on all devices together.
        eval_batch_size: validation or test images a batch, on all devices together.
        val_size: number, or share if below 1, of training images held out for validation; 0 for none.
        augment: random changes of training batches, applied in this order.
        seed: seed of order and augmentation; by default the seed of the run.
        root: folder of the files; by default they are looked up.

    Raises:
        InputError: a size is out of range.
    """

    name: str

    def __init__(
        self,
        *,
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        val_size: int | float = 5000,
        augment: list[Augmentation] | None = None,
        seed: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        super().__init__()
        for argument, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise InputError(f"expected {argument} >= 1, got {value}")
        check_size("val_size", val_size)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.augment = tuple(augment or ())
        self.seed = seed
        self.root = root
        self._splits: dict[Split, ImageSet] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in the order of the labels."""
        raise NotImplementedError

    def __str__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_classes} classes, batch_size={self.batch_size}, val_size={self.val_size})"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        channels, height, width = self.split("test").images.shape[1:]
        return channels, height, width

    def split(self, which: Split) -> ImageSet:
        """One split, read on first use; needs no trainer.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            InputError: the files cannot be found or used, or there is no such split.
        """
        if which not in ("train", "val", "test"):
            raise InputError(f"expected split train, val or test, got {which}")
        if which not in self._splits:
            self._load(which)
        if which not in self._splits:
            raise InputError(f"expected val_size >= 1 for the validation split of {self.name}, got 0")
        return self._splits[which]

    def source(self, which: Split) -> ImageSource:
        """One split to be read a block at a time; here from memory, where it is as a whole.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            InputError: the files cannot be found or used, or there is no such split.
        """
        return self.split(which)

    def _load(self, which: Split) -> None:
        if which == "test":
            self._splits["test"] = self._checked("test")
            return
        train = self._checked("train")
        if self._has_val():
            self._splits |= {"train": train, "val": self._checked("val")}
        elif self.val_size == 0:
            self._splits["train"] = train
        else:
            kept, validated = held_out(len(train), self.val_size, "val_size")
            self._splits |= {"train": train.subset(kept), "val": train.subset(validated)}

    def _checked(self, part: Split) -> ImageSet:
        images = self._read(part)
        lowest, highest = int(images.labels.min()), int(images.labels.max())
        if lowest < 0 or highest >= self.num_classes:
            expected = f"expected labels from 0 to {self.num_classes - 1}"
            raise InputError(f"{expected}, got {lowest} to {highest} in the {part} part of {self.name}")
        if lowest == highest:
            raise InputError(f"expected at least two classes, got only {lowest} in the {part} part of {self.name}")
        return images

    def _read(self, part: Split) -> ImageSet:
        """Read a part of the files as it is; ``"val"`` is asked for only if :meth:`_has_val`."""
        raise NotImplementedError

    def _has_val(self) -> bool:
        """Whether the files have a validation part of their own."""
        return False

    def setup(self, stage: str) -> None:
        """Prepare the trainer; Lightning calls it on every process.

        Args:
            stage: ``"fit"``, ``"validate"`` or ``"test"``.

        Raises:
            InputError: validation is asked for and there is no validation split.
        """
        if self._has_val() or self.val_size > 0:
            return
        if stage == "validate":
            self.split("val")
        elif stage == "fit" and self.trainer is not None:
            self.trainer.limit_val_batches = 0  # without it, Lightning warns about the empty list of loaders

    def check_devices(self, devices: int) -> None:
        """Refuse a number of devices that cannot share the batches.

        Args:
            devices: number of devices that train together.

        Raises:
            InputError: ``batch_size`` is not a multiple of it, or a last batch has fewer images.
        """
        if self.batch_size % devices:
            raise InputError(f"expected batch_size to be a multiple of the {devices} devices, got {self.batch_size}")
        BatchLoader(self.split("train"), batch_size=self.batch_size, world_size=devices)
        if self._has_val() or self.val_size > 0:
            BatchLoader(self.split("val"), batch_size=self.eval_batch_size, world_size=devices)

    def train_dataloader(self) -> BatchLoader:
        """This process's share of the shuffled and augmented training batches."""
        trainer = self.trainer
        seed = torch.initial_seed() if self.seed is None else self.seed
        if trainer is not None and trainer.world_size > 1:
            self.check_devices(trainer.world_size)
            # Without a common seed, two processes could visit the same image.
            seed = trainer.strategy.broadcast(seed)
        return BatchLoader(
            self.split("train"),
            batch_size=self.batch_size,
            shuffle=not getattr(trainer, "overfit_batches", 0),
            seed=seed,
            augment=self.augment,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """This process's share of the validation batches; an empty list, which Lightning skips, if there are none."""
        return self._eval_loader("val") if self._has_val() or self.val_size > 0 else []

    def test_dataloader(self) -> BatchLoader:
        """This process's share of the test batches, in order."""
        return self._eval_loader("test")

    def _eval_loader(self, which: Split) -> BatchLoader:
        trainer = self.trainer
        return BatchLoader(
            self.split(which),
            batch_size=self.eval_batch_size,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )
