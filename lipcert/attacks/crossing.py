"""Where a straight way out of a class crosses the decision boundary."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.best import Best, rounding
from lipcert.attacks.evaluation import forward, margins
from lipcert.attacks.geometry import column

LOOKS = 6

PUSHES = (1e-6, 1e-5, 1e-4, 1e-3)  # shares of the way by which an example is moved on until it is one everywhere

FARTHER = 1.001  # where the class has not changed yet, the way beyond an end grows tenfold from here,
FARTHEST = 2.0  # up to this multiple of the last share


def cross(model: nn.Module, best: Best, owners: Tensor, ends: Tensor, heights: Tensor, *, looks: int = LOOKS) -> None:
    r"""Offer the points where the rays from inputs through given ends change class.

    The margin along a ray is searched for its zero by false position, where an end of the bracket that stays twice in
    a row counts half (the Illinois rule). Ends that are not adversarial yet are passed by little steps that grow. The
    examples that are known of these samples in the end are made to last, see :func:`settle`.

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
        # aimed a little beyond what counts, so that what comes near to it counts
        beyond = rounding(logits)
        height = margins(logits, task.labels[owners], targets) + 1.5 * beyond
        fooled = height < 0.5 * beyond
        above = torch.where(fooled, torch.where(last, above / 2, above), height)
        below = torch.where(fooled, height, torch.where(last, below, below / 2))
        inner, outer = torch.where(fooled, inner, shares), torch.where(fooled, shares, outer)
        between = inner + (outer - inner) * (above / (above - below)).clamp(0, 1)
        farther = shares * min(1 + (FARTHER - 1) * 10**look, FARTHEST)
        shares, last = torch.where(outer.isfinite(), between, farther), fooled
    settle(model, best, owners)


def settle(model: nn.Module, best: Best, owners: Tensor) -> None:
    """Move examples that stand on the boundary on until they are adversarial both in a batch and alone.

    How far rounding carries a logit depends on numbers inside of the network that may be much larger. It shows in the
    difference between two evaluations, and the margin must be larger than that.

    Args:
        model: network to evaluate.
        best: whose candidates are replaced; their distances grow with them.
        owners: ``(M,)`` int64, the samples to look at, each once.
    """
    task = best.task
    owners = owners[best.distance[owners].isfinite() & (best.distance[owners] > 0)]
    for push in PUSHES:
        if len(owners) == 0:
            return
        points = best.candidates[owners]
        together, alone = forward(model, points), torch.cat([forward(model, point[None]) for point in points])
        targets = None if task.targets is None else task.targets[owners]
        worst = torch.maximum(*(margins(logits, task.labels[owners], targets) for logits in (together, alone)))
        owners = owners[worst >= -(together - alone).abs().amax(1)]
        inputs = task.inputs[owners]
        farther = (inputs + (1 + push) * (best.candidates[owners] - inputs)).clamp(*task.bounds)
        best.replace(farther, owners)
