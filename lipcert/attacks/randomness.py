"""Randomness that belongs to a sample: neither its place in a batch nor its company matters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.attacks.task import Task
from lipcert.data.loader import seeded_generator

GOLDEN = -7046029254386353131  # 2 ** 64 / golden ratio, odd, as a signed number
MIXERS = ((30, -4658895280553007687), (27, -7723592293110705685))  # of the finaliser of splitmix64
BITS = 23  # of a float32, with half a unit more


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


def hashed_uniform(inputs: Tensor, count: int, *, seed: int) -> Tensor:
    """Return numbers ``(N, count)`` in (0, 1) of the inputs' type that depend on each image and the seed alone.

    They are hashes of the image's bits, in integers that wrap around: whole batches at a time, the same on every
    device. A generator a sample, as in :func:`sample_generators`, costs more than a training step can spare.

    Args:
        inputs: ``(N, ...)`` float32 or float64.
        count: numbers an image.
        seed: any integer.

    Source: the mixing function of splitmix64: Steele, Lea and Flood (2014), Fast splittable pseudorandom number
    generators, section 3.

    Example:
        >>> images = torch.rand(3, 1, 2, 2)
        >>> three, last = (hashed_uniform(part, 5, seed=1) for part in (images, images[2:]))
        >>> torch.equal(three[2:], last), bool((three[0] != three[1]).all())
        (True, True)
    """
    bits = inputs.detach().contiguous().view(torch.int32 if inputs.dtype == torch.float32 else torch.int64).flatten(1)
    weights = _mixed(torch.arange(1, bits.shape[1] + 1, device=inputs.device) * GOLDEN) | 1
    keys = _mixed((bits * weights).sum(1) + seed % 2**62)
    counters = torch.arange(1, count + 1, device=inputs.device) * GOLDEN
    numbers = _shifted(_mixed(keys[:, None] + counters), 64 - BITS).to(inputs.dtype)
    numbers += 0.5
    numbers /= 2**BITS
    return numbers


def _mixed(numbers: Tensor) -> Tensor:
    for shift, factor in MIXERS:
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, places: int) -> Tensor:
    """Shift 64 bits to the right and fill up with zeros, where integers with a sign would repeat it."""
    return numbers.bitwise_right_shift(places).bitwise_and(2 ** (64 - places) - 1)
