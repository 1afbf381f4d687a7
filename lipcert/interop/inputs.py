"""Networks between units: images in [0, 1] on one side, what others take on the other."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.data.tensors import as_tensor
from lipcert.errors import InputError

Bounds = tuple[float, float]

UNIT: Bounds = (0.0, 1.0)


def check_bounds(bounds: Any) -> Bounds:
    """Return the smallest and the largest value of a pixel as numbers.

    Raises:
        InputError: not two finite numbers in ascending order.

    Example:
        >>> check_bounds((0, 255))
        (0.0, 255.0)
    """
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise InputError(f"expected bounds as two numbers, got {bounds!r}") from None
    if not -math.inf < low < high < math.inf:
        raise InputError(f"expected finite bounds in ascending order, got {low:g} and {high:g}")
    return low, high


class RescaledInputs(nn.Module):
    r"""A network that was made for other inputs, as one of images in [0, 1].

    .. math:: x \mapsto f\Big(\frac{l + (h - l)\, x - \mu}{\sigma}\Big)

    The change of units is a layer like any other: a Lipschitz bound counts it, so that radii are in [0, 1] pixel units.

    Args:
        network: f, from ``(N, C, H, W)`` to logits ``(N, K)``.
        bounds: l and h, smallest and largest value of a pixel in the units that f is handed.
        mean: what f's own library subtracts: a number, or one a channel.
        std: what it divides by afterwards.

    Raises:
        InputError: bounds, means or standard deviations that are not finite, or a deviation that is not positive.

    Example:
        >>> network = RescaledInputs(nn.Flatten(), bounds=(0, 255), mean=127.5, std=[255.0])
        >>> network(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).tolist()
        [[-0.5, 0.5]]
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, network: nn.Module, *, bounds: Any = UNIT, mean: Any = None, std: Any = None) -> None:
        super().__init__()
        self.network = network
        self.low, self.high = check_bounds(bounds)
        self.register_buffer("mean", _per_channel(mean, "mean"))
        self.register_buffer("std", _per_channel(std, "std"))
        if self.std is not None and not bool((self.std > 0).all()):
            raise InputError(f"expected std > 0, got {self.std.min():g}")
        self.train(network.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1]."""
        if (self.low, self.high) != UNIT:
            inputs = inputs * (self.high - self.low) + self.low
        if self.mean is not None:
            inputs = inputs - self.mean
        if self.std is not None:
            inputs = inputs / self.std
        return self.network(inputs)  # type: ignore[no-any-return]


class UnitInputs(nn.Module):
    r"""A network of images in [0, 1], as one of images between other bounds.

    .. math:: x \mapsto f\Big(\frac{x - l}{h - l}\Big)

    Args:
        network: f, from ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        bounds: l and h.

    Raises:
        InputError: bounds that are not finite or not in ascending order.

    Example:
        >>> UnitInputs(nn.Flatten(), (0, 255))(torch.full((1, 1, 1, 1), 51.0)).tolist() == [[0.2]]
        False
        >>> UnitInputs(nn.Flatten(), (0, 2))(torch.full((1, 1, 1, 1), 1.0)).tolist()
        [[0.5]]
    """

    def __init__(self, network: nn.Module, bounds: Any) -> None:
        super().__init__()
        self.network = network
        self.low, self.high = check_bounds(bounds)
        self.train(network.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of images ``(N, C, H, W)`` within the bounds."""
        return self.network((inputs - self.low) / (self.high - self.low))  # type: ignore[no-any-return]


def _per_channel(values: Any, what: str) -> Tensor | None:
    if values is None:
        return None
    found = as_tensor(values, what).to(torch.float32)
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"expected a finite {what}, got nan or infinity")
    if found.ndim <= 1:
        return found.reshape(-1, 1, 1)
    return found
