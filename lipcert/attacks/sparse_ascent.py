"""APGD in L1: sparse steps within a budget, sparser and shorter as the search settles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.best import Best
from lipcert.attacks.geometry import column
from lipcert.attacks.objective import Loss, Objective, check_loss
from lipcert.attacks.task import Norm, Task
from lipcert.errors import InputError

HALVINGS = 60  # of the multiplier of a projection: beyond the precision of float32
SPARSER = 1.5  # the share of pixels that a step moves, against those that the best point so far has moved
SHORTER, SHORTEST = 1.5, 0.1  # what a step is divided by where sparsity stays; its least, as a share of the budget
TRACE = 1e-5  # share of the budget that a pixel must have: what rounding has left of one is not counted
SAME = 0.95  # a sparsity that falls by less than this is the same


@dataclass(frozen=True)
class SparseAscent(Attack):
    r"""Projected steps in L1 whose sparsity follows that of the best point so far: APGD for the L1 norm.

    A step moves the pixels with the steepest slopes that still have room, all by the same amount, and is projected onto
    the intersection of the ball and the box,

    .. math:: \min_u \|u - z\|_2 \quad\text{such that}\quad \|u - x\|_1 \le \epsilon, \quad l \le u \le h.

    At checkpoints the number of pixels that a step moves becomes that which the best point has changed, divided by 1.5.
    While it falls, steps are as long as the budget; else they shrink by 1.5, down to a tenth of it, and the search goes
    on from the best point. A sample is done as soon as an iterate fools the network.

    Args:
        reach: size of the ball in certified radii, if there are any; an epsilon is a size for all samples.
        steps: gradient steps.
        loss: see :class:`Objective`.

    Raises:
        InputError: a setting is out of range; later, neither an epsilon nor radii.

    Source: Croce and Hein (2021), arXiv 2103.01208, algorithm 1 and proposition 2.1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]])), model[1].bias.data.zero_()
        >>> inputs, labels = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), torch.tensor([0])
        >>> found = (SparseAscent()(model, inputs, labels, norm="l1", epsilon=epsilon) for epsilon in (0.24, 0.26))
        >>> [outcome.verified.success.item() for outcome in found]
        [False, True]
    """

    name: ClassVar[str] = "apgd-l1"
    norms: ClassVar[tuple[Norm, ...]] = ("l1",)
    targeted: ClassVar[bool] = True

    reach: float = 1.0
    steps: int = 60
    loss: Loss = "margin"

    def __post_init__(self) -> None:
        if not 0 < self.reach < math.inf:
            raise InputError(f"expected a finite reach > 0, got {self.reach:g}")
        if self.steps < 1:
            raise InputError(f"expected steps >= 1, got {self.steps}")
        check_loss(self.loss)

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the iterates that fool the network; the input itself where none does."""
        if task.epsilon is None and task.radius is None:
            raise InputError(f"expected an epsilon or certified radii for {self.name}, got neither")
        best, objective = Best(task), Objective(model, task, self.loss)
        sizes = torch.full_like(task.inputs.flatten(1)[:, 0], task.epsilon or 0.0)
        if task.epsilon is None and task.radius is not None:
            sizes = self.reach * task.radius.to(sizes)
        owners = (sizes > 0).nonzero().flatten()
        if len(owners):
            _Climb(objective, best, task.subset(owners), owners, sizes[owners]).go(self.steps)
        return best.result

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward at most: one a step, one more, and one for the slopes."""
        return samples * (self.steps + 1 + int(self.loss == "distance"))


class _Climb:
    """M samples on their way: where they are, the best point so far, and how their next steps are made."""

    def __init__(self, objective: Objective, best: Best, task: Task, owners: Tensor, sizes: Tensor) -> None:
        self.objective, self.best, self.task, self.owners, self.sizes = objective, best, task, owners, sizes
        self.points, self.lowest = task.inputs, torch.full_like(sizes, math.inf)
        self.top, self.slope = task.inputs, torch.zeros_like(task.inputs)
        pixels = task.inputs[0].numel()
        self.moved = torch.full_like(sizes, max(1.0, 0.2 * pixels))
        self.lengths = sizes.clone()

    def go(self, steps: int) -> None:
        """Take steps until every sample is done."""
        every = max(1, round(0.04 * steps))
        for step in range(steps + 1):
            logits, values, gradients = self.objective.at(self.points, self.owners)
            self.best.offer(self.points, self.owners, logits)
            better = values < self.lowest
            self.lowest = torch.where(better, values, self.lowest)
            self.top = torch.where(column(better, self.top), self.points, self.top)
            self.slope = torch.where(column(better, self.slope), gradients, self.slope)
            if step == steps or bool(self.best.distance[self.owners].isfinite().all()):
                return
            if step % every == every - 1:
                gradients = self._settle(gradients)
            self.points = self._moved_by(gradients)

    def _settle(self, gradients: Tensor) -> Tensor:
        """Make steps sparser, or shorter and from the best point; return the slopes where each sample is then."""
        change = (self.top - self.task.inputs).abs().flatten(1) > TRACE * self.sizes[:, None]
        changed = change.sum(1).to(self.moved).clamp_min(1) / SPARSER
        sparser = changed < SAME * self.moved
        self.moved = changed.clamp_min(1)
        shorter = torch.maximum(self.lengths / SHORTER, SHORTEST * self.sizes)
        self.lengths = torch.where(sparser, self.sizes, shorter)
        self.points = torch.where(column(sparser, self.points), self.points, self.top)
        return torch.where(column(sparser, gradients), gradients, self.slope)

    def _moved_by(self, gradients: Tensor) -> Tensor:
        low, high = self.task.bounds
        stuck = ((self.points <= low) & (gradients > 0)) | ((self.points >= high) & (gradients < 0))
        rows = torch.where(stuck, 0.0, gradients).flatten(1)
        ranks = rows.abs().argsort(1, descending=True).argsort(1)
        signs = torch.where(ranks < self.moved[:, None].round(), rows.sign(), 0.0)
        signs = signs / signs.abs().sum(1, keepdim=True).clamp_min(1)
        moved = self.points - column(self.lengths, self.points) * signs.view_as(self.points)
        return into_ball_and_box(moved, self.task.inputs, self.sizes, self.task.bounds)


def into_ball_and_box(points: Tensor, inputs: Tensor, sizes: Tensor, bounds: tuple[float, float]) -> Tensor:
    r"""Return the points of the L1 balls around inputs and of the box that are nearest in L2.

    Each pixel of the change d keeps :math:`\min(\max(|d_i| - \lambda, 0), r_i)`, with the room :math:`r_i` that the
    bounds leave it; the multiplier is found by bisection, from above.

    Args:
        points: ``(N, ...)``.
        inputs: the same shape, within the bounds.
        sizes: ``(N,)`` of the balls, at least 0.
        bounds: of the box.

    Example:
        >>> inputs = torch.tensor([[0.5, 0.5]])
        >>> into_ball_and_box(torch.tensor([[2.5, 1.0]]), inputs, torch.tensor([0.75]), (0.0, 1.0)).tolist()
        [[1.0, 0.75]]
    """
    low, high = bounds
    change = (points - inputs).flatten(1)
    rows = inputs.flatten(1)
    room = torch.where(change > 0, high - rows, rows - low)
    away = change.abs()
    least, most = torch.zeros_like(sizes), away.amax(1)
    inside = torch.minimum(away, room).sum(1) <= sizes
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        fits = torch.minimum((away - middle[:, None]).clamp_min(0), room).sum(1) <= sizes
        least, most = torch.where(fits, least, middle), torch.where(fits, middle, most)
    multiplier = torch.where(inside, 0.0, most)[:, None]
    kept = torch.minimum((away - multiplier).clamp_min(0), room)
    return (rows + change.sign() * kept).clamp(low, high).view_as(points)
