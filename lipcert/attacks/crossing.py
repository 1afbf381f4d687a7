"""Where a straight way out of a class crosses the decision boundary."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.best import Best, rounding
from lipcert.attacks.geometry import column
from lipcert.attacks.objective import forward, margins

LOOKS = 6

FARTHER = 1.001  # where the class has not changed yet, the way beyond an end grows tenfold from here,
FARTHEST = 2.0  # up to this multiple of the last share


def cross(model: nn.Module, best: Best, owners: Tensor, ends: Tensor, heights: Tensor, *, looks: int = LOOKS) -> None:
    r"""Offer the points where the rays from inputs through given ends change class.

    The margin along a ray is searched for its zero by false position, where an end of the bracket that stays twice in
    a row counts half (the Illinois rule). Ends that are not adversarial yet are passed by little steps that grow.

    Args:
        model: network to evaluate.
        best: what the points are offered to; it knows the inputs and the bounds.
        owners: ``(M,)`` int64, the samples that the rays belong to, each once.
        ends: ``(M, C, H, W)``, at or near the boundary.
        heights: ``(M,)`` positive margins at the inputs.
        looks: evaluations a ray.

    Source: Dowell and Jarratt (1971), A modified regula falsi method for computing the root of an equation.
    """
    task = best.task
    inputs = task.inputs[owners]
    targets = None if task.targets is None else task.targets[owners]
    above, below = heights, torch.zeros_like(heights)
    inner, outer = torch.zeros_like(heights), torch.full_like(heights, math.inf)
    shares, last = torch.ones_like(heights), torch.zeros_like(owners, dtype=torch.bool)
    for look in range(looks):
        points = (inputs + column(shares, ends) * (ends - inputs)).clamp(*task.bounds)
        logits = forward(model, points)
        best.offer(points, owners, logits)
        # aimed at twice the rounding beyond zero, so that what comes near to it is beyond one
        height = margins(logits, task.labels[owners], targets) + 2 * rounding(logits)
        fooled = height < rounding(logits)
        above = torch.where(fooled, torch.where(last, above / 2, above), height)
        below = torch.where(fooled, height, torch.where(last, below, below / 2))
        inner, outer = torch.where(fooled, inner, shares), torch.where(fooled, shares, outer)
        between = inner + (outer - inner) * (above / (above - below)).clamp(0, 1)
        beyond = shares * min(1 + (FARTHER - 1) * 10**look, FARTHEST)
        shares, last = torch.where(outer.isfinite(), between, beyond), fooled
