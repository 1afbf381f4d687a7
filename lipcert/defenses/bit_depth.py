"""Fewer grey levels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lipcert.defenses.base import Gradient, Transformation, rounded_softly
from lipcert.errors import InputError


class BitDepth(Transformation):
    r"""Rounds to the levels that so many bits can tell apart.

    .. math:: \lfloor (2^b - 1) \, x \rceil \, / \, (2^b - 1)

    Its own derivative is 0 almost everywhere. Images of 8 bits are left as they are by ``bits=8``.

    Args:
        bits: b, from 1 to 16.
        gradient: ``"straight-through"``, or ``"differentiable"``: that of :func:`rounded_softly`.
        seed: of no account.

    Raises:
        InputError: a setting is out of range.

    Source: Xu et al. (2018), "Feature squeezing", arXiv 1704.01155, on color depth.

    Example:
        >>> BitDepth(1)(torch.tensor([0.2, 0.7]).view(1, 1, 1, 2)).flatten().tolist()
        [0.0, 1.0]
    """

    gradients: ClassVar[tuple[Gradient, ...]] = ("straight-through", "differentiable")

    def __init__(self, bits: int = 4, *, gradient: Gradient | None = None, seed: int = 0) -> None:
        super().__init__(gradient=gradient, seed=seed)
        if not 1 <= bits <= 16:
            raise InputError(f"expected bits from 1 to 16, got {bits}")
        self.bits = bits

    def transform(self, inputs: Tensor, draw: int) -> Tensor:
        """Return rounded images ``(N, C, H, W)``."""
        steps = 2**self.bits - 1
        return torch.round(inputs * steps).div(steps)

    def surrogate(self, inputs: Tensor) -> Tensor:
        """Return softly rounded images ``(N, C, H, W)``."""
        steps = 2**self.bits - 1
        return rounded_softly(inputs * steps).div(steps)
