"""Which samples an audit attacks."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.errors import InputError


def first_correct_of_each_class(labels: Tensor, prediction: Tensor) -> Tensor:
    """Return the position of the first correctly classified sample of every class that has one, by class.

    Args:
        labels: ``(N,)`` int64 true classes.
        prediction: ``(N,)`` int64 predicted classes.

    Returns:
        int64 positions, at most one a class.

    Example:
        >>> first_correct_of_each_class(torch.tensor([1, 0, 0, 2]), torch.tensor([1, 1, 0, 0])).tolist()
        [2, 0]
    """
    right = labels == prediction
    found = [(right & (labels == label)).nonzero().flatten()[:1] for label in labels.unique(sorted=True)]
    return torch.cat(found)


def checked_positions(positions: Tensor, samples: int) -> Tensor:
    """Return the positions if they are a non-empty choice of the samples, each taken at most once.

    Raises:
        InputError: empty, out of range, repeated, or not int64.
    """
    if positions.dtype != torch.int64 or positions.ndim != 1 or len(positions) == 0:
        found = f"{positions.dtype} of shape {tuple(positions.shape)}"
        raise InputError(f"expected at least one sample to attack, as int64 positions (M,), got {found}")
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= samples:
        raise InputError(f"expected sample positions from 0 to {samples - 1}, got {low} to {high}")
    if len(positions.unique()) < len(positions):
        raise InputError("expected every sample position once, got one twice")
    return positions
