"""Batches cut out of an image set: reproducible from (seed, epoch, batch number) alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lipcert.data.image_set import ImageSet
from lipcert.errors import InputError


class EpochOrder:
    """In what order the images are visited in an epoch.

    Args:
        size: number of images N.
        shuffle: whether to draw a permutation, which depends on seed and epoch only.
        seed: seed of the permutations.
    """

    def __init__(self, size: int, *, shuffle: bool, seed: int) -> None:
        self.size = size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration belongs to; the Lightning trainer calls it."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """The ``(N,)`` int64 positions in this epoch."""
        if not self.shuffle:
            return torch.arange(self.size)
        return torch.randperm(self.size, generator=seeded_generator(self.seed, self.epoch))


class BatchLoader:
    """Cuts an image set into batches by indexing whole tensors; no work an image, no worker processes.

    The order is a function of (seed, epoch), the augmentation of (seed, epoch, batch number), so a run that is resumed
    sees exactly the batches it would have seen. The last batch may be smaller. Several processes share every batch:
    one after the other, their shares are the batch that a single process would get; their sizes differ by at most one.

    Args:
        image_set: what to cut up.
        batch_size: images a batch, on all processes together.
        shuffle: whether to draw a new order each epoch.
        seed: seed of order and augmentation.
        augment: applied to each batch, one after the other.
        rank: number of this process.
        world_size: number of processes that share each batch.

    Raises:
        InputError: ``batch_size`` < 1, or a batch has fewer images than there are processes.

    Example:
        >>> import torch
        >>> images = ImageSet(torch.zeros(5, 1, 4, 4, dtype=torch.uint8), torch.arange(5))
        >>> [labels.tolist() for inputs, labels in BatchLoader(images, batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    batch_sampler = None  # Lightning asks for it where it finds a `sampler`

    def __init__(
        self,
        image_set: ImageSet,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        augment: Sequence[Callable[[Tensor, torch.Generator], Tensor]] = (),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {batch_size}")
        smallest = len(image_set) % batch_size or batch_size
        if smallest < world_size:
            raise InputError(
                f"expected a batch size with an image a device in every batch, got {batch_size} on {world_size}: "
                f"of {len(image_set)} images, one batch has {smallest}"
            )
        self.image_set = image_set
        self.batch_size = batch_size
        self.augment = tuple(augment)
        self.rank = rank
        self.world_size = world_size
        self.sampler = EpochOrder(len(image_set), shuffle=shuffle, seed=seed)
        self._next_batch = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return math.ceil(self.sampler.size / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Lightning creates the iterator before it sets the epoch: all that depends on it waits for the first batch.
        epoch = self.sampler.epoch
        first = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        for number, indices in enumerate(self.sampler.indices().split(self.batch_size)):
            if number < first:
                continue
            batch = self._share_of_batch(indices, number, epoch)
            self._next_batch = number + 1
            yield batch

    def _share_of_batch(self, indices: Tensor, number: int, epoch: int) -> tuple[Tensor, Tensor]:
        labels = self.image_set.labels.index_select(0, self._share(indices))
        if not self.augment:
            return self.image_set.inputs(self._share(indices)), labels
        # How an image is changed must not depend on the number of processes: each changes the whole batch.
        inputs = self.image_set.inputs(indices)
        generator = seeded_generator(self.sampler.seed, epoch, number)
        for augmentation in self.augment:
            inputs = augmentation(inputs, generator)
        return self._share(inputs), labels

    def _share(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.world_size)[self.rank]

    def state_dict(self) -> dict[str, int]:
        """Where the iteration stands, for a checkpoint inside an epoch."""
        return {"epoch": self.sampler.epoch, "next_batch": self._next_batch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue where ``state_dict`` was taken, if the next iteration is of the same epoch."""
        self._resume = (state_dict["epoch"], state_dict["next_batch"])


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator that depends on all of the numbers; they are hashed since the CPU generator reads only 32 bits."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
