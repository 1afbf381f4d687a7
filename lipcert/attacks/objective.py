"""What gradient attacks descend, and its gradients at a batch of points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.attacks.geometry import DUAL, lengths
from lipcert.attacks.task import Norm, Task
from lipcert.errors import InputError

Loss = Literal["distance", "margin", "cross-entropy"]

LOSSES: tuple[Loss, ...] = get_args(Loss)

BATCH = 128  # points evaluated at a time: activations that fit in the caches are the fastest

NEAREST = 10  # rival classes, by logit, whose slopes are computed: one backward pass each


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


def check_loss(loss: str) -> None:
    """Refuse an unknown loss.

    Raises:
        InputError: says what was expected and found.
    """
    if loss not in LOSSES:
        raise InputError(f"expected a loss among {', '.join(LOSSES)}, got {loss!r}")


class Objective:
    r"""What falls as an attack on a task gets on, and its gradients.

    =============== ===================================================================================================
    loss            without a target; with one
    =============== ===================================================================================================
    "distance"      :math:`\min_j (f_y - f_j) / g_j`, with the slope g of that gap at the input, in the dual norm: a
                    distance, to first order, so that the nearest class is headed for; the margin
    "margin"        the :func:`margins`: the class with the largest logit is headed for; the largest gap to the target
    "cross-entropy" minus the label's; the target's
    =============== ===================================================================================================

    On a Lipschitz network gradients of the cross-entropy mislead: it weighs all classes by their softmax, which is flat
    for small logits, instead of heading for one.

    Args:
        model: network without parameter gradients.
        task: what to do.
        loss: one of the three; the first one costs a forward and up to ten backward passes now.
    """

    def __init__(self, model: nn.Module, task: Task, loss: Loss) -> None:
        self.model = model
        self.task = task
        self.loss = loss
        self.factors: Tensor | None = None
        if loss == "distance" and task.targets is None:
            self.factors = _inverse_slopes(rivals(model, task.inputs, task), task.norm)

    def at(self, points: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(M, K)`` logits, ``(M,)`` values and ``(M, C, H, W)`` gradients at points of some samples."""

        def values(logits: Tensor, part: slice) -> Tensor:
            chosen = owners[part]
            labels = self.task.labels[chosen]
            if self.task.targets is not None:
                targets = self.task.targets[chosen]
                if self.loss == "cross-entropy":
                    return F.cross_entropy(logits, targets, reduction="none")
                return margins(logits, labels, targets)
            if self.loss == "cross-entropy":
                return -F.cross_entropy(logits, labels, reduction="none")
            if self.factors is not None:
                logits = (logits - logits.gather(1, labels[:, None])) * self.factors[chosen]
            return margins(logits, labels)

        return slopes(self.model, points, values)


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


def forward(model: nn.Module, points: Tensor) -> Tensor:
    """Return the logits ``(M, K)`` of points ``(M, C, H, W)``, without gradients, batch by batch."""
    with torch.no_grad():
        return torch.cat([model(part) for part in points.split(BATCH)])


@dataclass(frozen=True, slots=True)
class Rivals:
    """The classes that N points could turn into, and how far away they look.

    Attributes:
        logits: ``(N, K)``.
        classes: ``(N, R)`` int64: the classes with the largest logits beside the one to leave; the target if there is
            one; none (R = 0) if there is no other class.
        gaps: ``(N, R)``, by how much each of them lags behind the class to leave; the target, behind the leading one.
        gradients: ``(N, R, D)`` of the gaps; where they are not finite, 0.
    """

    logits: Tensor
    classes: Tensor
    gaps: Tensor
    gradients: Tensor


def rivals(model: nn.Module, points: Tensor, task: Task) -> Rivals:
    """Return the rival classes at one point ``(C, H, W)`` a sample of the task, with one backward pass a class."""
    parts = []
    for first in range(0, len(points), BATCH):
        part = slice(first, first + BATCH)
        targets = None if task.targets is None else task.targets[part]
        parts.append(_rivals(model, points[part], task.labels[part], targets))
    return Rivals(*(torch.cat([getattr(part, name) for part in parts]) for name in Rivals.__slots__))


def _rivals(model: nn.Module, points: Tensor, labels: Tensor, targets: Tensor | None) -> Rivals:
    leaf = points.detach().clone().requires_grad_()
    logits = model(leaf)
    if targets is None:
        ranked = logits.detach().scatter(1, labels[:, None], -math.inf)
        classes = ranked.argsort(1, descending=True)[:, : min(NEAREST, logits.shape[1] - 1)]
        gaps = logits.gather(1, labels[:, None]) - logits.gather(1, classes)
    else:
        classes = targets[:, None]
        gaps = margins(logits, labels, targets)[:, None]
    gradients = torch.zeros(*classes.shape, leaf[0].numel(), dtype=leaf.dtype, device=leaf.device)
    if gaps.requires_grad:
        for rank in range(classes.shape[1]):
            (gradient,) = torch.autograd.grad(gaps[:, rank].sum(), leaf, retain_graph=True)
            gradients[:, rank] = gradient.flatten(1).nan_to_num(0.0, posinf=0.0, neginf=0.0)
    return Rivals(logits.detach(), classes, gaps.detach(), gradients)


def _inverse_slopes(seen: Rivals, norm: Norm) -> Tensor:
    """Return factors ``(N, K)`` that make gaps distances; 1 where a slope says nothing.

    Classes that were not looked at are taken to be as steep as the last one that was.
    """
    inverse = 1 / lengths(seen.gradients.flatten(0, 1), DUAL[norm]).view_as(seen.gaps)
    inverse = torch.where(inverse.isfinite(), inverse, 1.0)
    if inverse.shape[1] == 0:
        return torch.ones_like(seen.logits)
    return inverse[:, -1:].expand(seen.logits.shape).scatter(1, seen.classes, inverse)
