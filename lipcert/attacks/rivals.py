"""The classes that an image could turn into, and how far away they look from where it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.evaluation import BATCH, margins
from lipcert.attacks.task import Task

NEAREST = 10  # classes, by logit, whose slopes are computed: one backward pass each


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
