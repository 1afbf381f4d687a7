"""Down to a lower resolution and up again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lipcert.defenses.base import Gradient, Transformation
from lipcert.errors import InputError


class Resample(Transformation):
    """Scales images down and up again, both times by linear interpolation with as wide a filter as it takes.

    It is linear: its exact gradient is all an attack needs. Sides are rounded to whole pixels, to at least one.

    Args:
        factor: of the smaller image, above 0 and below 1.
        gradient: ``"exact"`` or ``"straight-through"``.
        seed: of no account.

    Raises:
        InputError: a setting is out of range.

    Source: Xie et al. (2018), arXiv 1711.01991, who choose the size at random.

    Example:
        >>> import torch
        >>> Resample(0.5)(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).flatten().tolist()
        [0.5, 0.5]
    """

    def __init__(self, factor: float = 0.5, *, gradient: Gradient | None = None, seed: int = 0) -> None:
        super().__init__(gradient=gradient, seed=seed)
        if not 0 < factor < 1:
            raise InputError(f"expected 0 < factor < 1, got {factor:g}")
        self.factor = factor

    def transform(self, inputs: Tensor, draw: int) -> Tensor:
        """Return resampled images ``(N, C, H, W)``."""
        size = (inputs.shape[-2], inputs.shape[-1])
        small = [max(1, round(self.factor * side)) for side in size]
        lower = F.interpolate(inputs, size=small, mode="bilinear", antialias=True)
        return F.interpolate(lower, size=size, mode="bilinear", antialias=True)
