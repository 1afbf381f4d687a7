"""Logits, margins and their gradients at points, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

BATCH = 128  # points evaluated at a time: activations that fit in the caches are the fastest


def margins(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    r"""Return by how much logits fail to fool: negative where they do.

    .. math:: f_y - \max_{j \neq y} f_j, \qquad \text{with a target t:} \quad \max_{j \neq t} f_j - f_t

    The only class of a network cannot be left: its margin is 1, whatever the logits.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)`` int64, the classes to leave.
        targets: ``(N,)`` int64, the classes to reach.

    Returns:
        ``(N,)``.

    Example:
        >>> logits, label = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
        >>> margins(logits, label).item(), margins(logits, label, torch.tensor([1])).item()
        (1.0, 2.0)
    """
    pivot = (labels if targets is None else targets)[:, None]
    if logits.shape[1] == 1:
        return 0 * logits[:, 0] + 1
    rest = logits.scatter(1, pivot, -math.inf).amax(1)
    own = logits.gather(1, pivot)[:, 0]
    return own - rest if targets is None else rest - own


def forward(model: nn.Module, points: Tensor) -> Tensor:
    """Return the logits ``(M, K)`` of points ``(M, C, H, W)``, without gradients, batch by batch."""
    with torch.no_grad():
        return torch.cat([model(part) for part in points.split(BATCH)])


def slopes(
    model: nn.Module, points: Tensor, function: Callable[[Tensor, slice], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, values and gradients of a function of the logits, batch by batch.

    Args:
        model: network without parameter gradients.
        points: ``(M, C, H, W)``.
        function: of the logits of a slice of the points, ``(m, K)`` to ``(m,)``, each value of its own row only.

    Returns:
        ``(M, K)`` logits, ``(M,)`` values, and ``(M, C, H, W)`` gradients, where they are not finite 0.
    """
    parts = []
    for first in range(0, len(points), BATCH):
        part = slice(first, first + BATCH)
        leaf = points[part].detach().clone().requires_grad_()
        logits = model(leaf)
        values = function(logits, part)
        gradient = torch.autograd.grad(values.sum(), leaf)[0] if values.requires_grad else torch.zeros_like(leaf)
        parts.append((logits.detach(), values.detach(), gradient.nan_to_num(0.0, posinf=0.0, neginf=0.0)))
    logits, values, gradients = (torch.cat(list(part)) for part in zip(*parts, strict=True))
    return logits, values, gradients
