"""Batches cut out of an image set: reproducible from (seed, epoch, batch number) alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lipcert.data.image_set import ImageSet
from lipcert.errors import InputError


class ShardSampler:
    """Which images this process visits in an epoch, and in what order.

    Shuffled, process ``rank`` takes ``permutation[rank::world_size]``, cut to the same length on each process. In
    order, every image is visited exactly once, so the shares' lengths differ by at most one.

    Args:
        size: number of images N.
        shuffle: whether to draw a permutation, which depends on seed and epoch only.
        seed: seed of the permutations.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(self, size: int, *, shuffle: bool, seed: int, rank: int, world_size: int) -> None:
        self.size = size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration belongs to; the Lightning trainer calls it."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """The ``(M,)`` int64 positions of this process in this epoch."""
        if not self.shuffle:
            return torch.arange(self.rank, self.size, self.world_size)
        permutation = torch.randperm(self.size, generator=seeded_generator(self.seed, self.epoch))
        return permutation[self.rank :: self.world_size][: self.size // self.world_size]

    @property
    def largest_share(self) -> int:
        """Number of images of the process that visits most."""
        return self.size // self.world_size if self.shuffle else math.ceil(self.size / self.world_size)


class BatchLoader:
    """Cuts an image set into batches by indexing whole tensors; no work an image, no worker processes.

    The order is a function of (seed, epoch), the augmentation of (seed, epoch, batch number, process number), so a run
    that is resumed sees exactly the batches it would have seen. The last batch may be smaller. Every process yields
    the same number of batches.

    Args:
        image_set: what to cut up.
        batch_size: images a batch, on this process.
        shuffle: whether to draw a new order each epoch.
        seed: seed of order and augmentation.
        augment: applied to each batch, one after the other.
        rank: number of this process.
        world_size: number of processes that share the images.

    Raises:
        InputError: no image is left for one of the processes, or ``batch_size`` < 1.

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
        if len(image_set) < world_size:
            raise InputError(f"expected at least one image for each of {world_size} processes, got {len(image_set)}")
        self.image_set = image_set
        self.batch_size = batch_size
        self.augment = tuple(augment)
        self.sampler = ShardSampler(len(image_set), shuffle=shuffle, seed=seed, rank=rank, world_size=world_size)
        self._next_batch = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return math.ceil(self.sampler.largest_share / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Lightning creates the iterator before it sets the epoch: all that depends on it waits for the first batch.
        epoch = self.sampler.epoch
        first = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        for number, indices in enumerate(self._batches()):
            if number < first:
                continue
            inputs = self.image_set.inputs(indices)
            if self.augment:
                generator = seeded_generator(self.sampler.seed, epoch, number, self.sampler.rank)
                for augmentation in self.augment:
                    inputs = augmentation(inputs, generator)
            self._next_batch = number + 1
            yield inputs, self.image_set.labels.index_select(0, indices)

    def _batches(self) -> tuple[Tensor, ...]:
        indices = self.sampler.indices()
        batches = torch.split(indices, self.batch_size)
        if len(batches) < len(self):
            # The share is one image short of filling another batch as the other processes do. Distributed networks
            # wait for each other in every forward pass, so their numbers of batches have to agree.
            batches = torch.tensor_split(indices, len(self))
        return batches

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
