"""Randomness that belongs to a sample: neither its place in a batch nor its company matters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.attacks.task import Task
from lipcert.data.loader import seeded_generator


def sample_generators(task: Task) -> list[torch.Generator]:
    """Return one source of randomness a sample, which depends on the seed and its image: not on place or company.

    Example:
        >>> images, labels = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
        >>> three, last = (sample_generators(Task(images[part], labels[part])) for part in (slice(0, 3), slice(2, 3)))
        >>> torch.equal(torch.rand(5, generator=three[2]), torch.rand(5, generator=last[0]))
        True
    """
    digests = (hashlib.blake2b(image.numpy().tobytes(), digest_size=8).digest() for image in task.inputs.detach().cpu())
    return [seeded_generator(task.seed, int.from_bytes(digest, "little")) for digest in digests]


def uniform(generators: Sequence[torch.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Return uniform numbers in [0, 1), one row a generator, of the type and on the device of ``like``."""
    return torch.stack([torch.rand(*shape, generator=source, dtype=like.dtype) for source in generators]).to(like)


def normal(generators: Sequence[torch.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal numbers, one row a generator, of the type and on the device of ``like``."""
    return torch.stack([torch.randn(*shape, generator=source, dtype=like.dtype) for source in generators]).to(like)
