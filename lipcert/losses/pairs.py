"""What a loss may know of the network: Lipschitz bounds of the differences of two logits."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError

SMALLEST_BOUND = 1e-6
"""Two equal rows of a head have a difference with constant 0; no radius is divided by less than this."""


class PairwiseLoss(nn.Module):
    r"""Base of the losses that measure margins in units of the input.

    They are called with a third argument, bounds :math:`L_{ij}` of the Lipschitz constants of :math:`f_i - f_j`, which
    :func:`head_pair_bounds` makes of the head's present weight; without it every constant is root 2, that of a
    1-Lipschitz network. The bounds shape the training and prove nothing.

    Attributes:
        progress: share of the training that is done, between 0 and 1; whoever trains sets it before every step. Losses
            with a schedule read it. Where nobody sets it the schedule is at its end.
    """

    progress: float = 1.0

    def forward(self, logits: Tensor, targets: Tensor, pair_bounds: Tensor | None = None) -> Tensor:
        """Return the mean loss of ``(N, K)`` logits given ``(K, K)`` bounds, whose diagonal is not used."""
        raise NotImplementedError


def head_pair_bounds(weight: Tensor, body: float = 1.0) -> Tensor:
    r"""Return the Lipschitz constants of all differences of two logits of a network that ends in a linear layer.

    .. math:: L_{ij} = L_{\mathrm{body}} \|w_i - w_j\|_2

    Differentiable; the gradient of a distance 0 is 0.

    Args:
        weight: ``(K, D)``, as it executes.
        body: Lipschitz constant of what is before the layer.

    Returns:
        ``(K, K)``.

    Example:
        >>> head_pair_bounds(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    # Distances from the differences themselves: by way of products they would cancel, and TF32 would round them.
    return body * torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")


def head_weight(network: nn.Module, num_classes: int) -> Tensor | None:
    """Return the effective weight of the linear layer that was registered last, if it makes the logits.

    Args:
        network: any module; constrained layers compute their weight when it is read, so that a caller who has just run
            the network does well to run both within ``torch.nn.utils.parametrize.cached()``.
        num_classes: K.

    Returns:
        ``(K, D)``, or None where the last layer with a matrix is none with K rows.

    Example:
        >>> head_weight(nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)), 10).shape
        torch.Size([10, 16])
    """
    for module in reversed(list(network.modules())):
        if isinstance(module, nn.Linear):
            return module.weight if module.out_features == num_classes else None
    return None


def rival_bounds(pair_bounds: Tensor | None, logits: Tensor, classes: Tensor) -> Tensor:
    """Return ``(N, K)`` bounds of true class minus each class; the entry of the true class is never 0."""
    size = logits.shape[1]
    if pair_bounds is None:
        return torch.full_like(logits, math.sqrt(2))
    if pair_bounds.shape != (size, size):
        raise InputError(f"expected pair bounds of shape {(size, size)}, got {tuple(pair_bounds.shape)}")
    return pair_bounds.to(logits.dtype).clamp_min(SMALLEST_BOUND)[classes]


def rival_radii(logits: Tensor, classes: Tensor, bounds: Tensor) -> Tensor:
    """Return ``(N, K)`` signed distances to each rival, :math:`(f_y - f_j) / L_{yj}`, infinite for the true class."""
    own = classes[:, None]
    return ((logits.gather(1, own) - logits) / bounds).scatter(1, own, math.inf)
