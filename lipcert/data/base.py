"""What all data sets have in common: splits, checks, loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import torch
from lightning import LightningDataModule

from lipcert.data.augment import Augmentation
from lipcert.data.image_set import ImageSet
from lipcert.data.loader import BatchLoader
from lipcert.errors import InputError

Split: TypeAlias = Literal["train", "val", "test"]

_SPLIT_SEED = 20170825  # a constant, so that no training seed can move images between training and validation


class ImageData(LightningDataModule):
    """Images with class labels, as training, validation and test split.

    Validation images are drawn once and for all from the training images, by a fixed seed that has nothing to do with
    the training's: no run trains on images that another run of the same ``val_size`` is validated on. The test split
    is the data set's own. A subclass sets ``name`` and ``class_names`` and says how to read.

    Args:
        batch_size: training images a batch, on each process.
        eval_batch_size: validation or test images a batch, on each process.
        val_size: number of training images held out for validation; 0 for none.
        augment: random changes of training batches, applied in this order.
        seed: seed of order and augmentation; by default the seed of the run.
        root: folder of the files; by default they are looked up.

    Raises:
        InputError: a size is out of range.
    """

    name: str
    class_names: tuple[str, ...]

    def __init__(
        self,
        *,
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        val_size: int = 5000,
        augment: list[Augmentation] | None = None,
        seed: int | None = None,
        root: str | Path | None = None,
    ) -> None:
        super().__init__()
        for argument, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("val_size", val_size, 0),
        ):
            if value < least:
                raise InputError(f"expected {argument} >= {least}, got {value}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.augment = tuple(augment or ())
        self.seed = seed
        self.root = root
        self._splits: dict[Split, ImageSet] = {}

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

    def _load(self, which: Split) -> None:
        if which == "test":
            self._splits["test"] = self._checked("test")
            return
        train = self._checked("train")
        if self._has_val():
            self._splits |= {"train": train, "val": self._checked("val")}
        elif self.val_size == 0:
            self._splits["train"] = train
        elif self.val_size >= len(train):
            raise InputError(f"expected val_size < {len(train)}, the training images, got {self.val_size}")
        else:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_SPLIT_SEED))
            held_out, kept = order[: self.val_size], order[self.val_size :]
            self._splits |= {"train": train.subset(kept.sort().values), "val": train.subset(held_out.sort().values)}

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

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented training batches of this process."""
        trainer = self.trainer
        seed = torch.initial_seed() if self.seed is None else self.seed
        if trainer is not None and trainer.world_size > 1:
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
        """Validation batches of this process, in order; an empty list, which Lightning skips, if there are none."""
        return self._eval_loader("val") if self._has_val() or self.val_size > 0 else []

    def test_dataloader(self) -> BatchLoader:
        """Test batches of this process, in order."""
        return self._eval_loader("test")

    def _eval_loader(self, which: Split) -> BatchLoader:
        trainer = self.trainer
        return BatchLoader(
            self.split(which),
            batch_size=self.eval_batch_size,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )
