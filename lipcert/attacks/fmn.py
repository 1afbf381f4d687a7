"""The fast minimum-norm attack: gradient steps within a ball that follows the boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.best import Best
from lipcert.attacks.ddn import cosine
from lipcert.attacks.geometry import DUAL, into_ball, lengths, steepest
from lipcert.attacks.objective import Objective
from lipcert.attacks.task import NORMS, Norm, Task
from lipcert.errors import InputError


@dataclass(frozen=True)
class FastMinimumNorm(Attack):
    r"""Minimum-norm attack in L1, L2 or Linf: steps against the gradient, projected onto a ball of adapted size.

    What is descended is the "distance" of :class:`Objective`. Until the first success the size of the ball is, a little
    enlarged, the distance of the boundary to first order, :math:`\rho = \|\delta\| + m / \|g\|_*`, with the objective m
    and the dual norm of its gradient g. After that it shrinks by :math:`\gamma` where the last point fooled the
    network, at least to the best distance so far, and grows by it where it did not. Steps and :math:`\gamma` fall along
    a cosine. The projection is the nearest point of the ball, before the bounds are applied; of all points that fool
    the network the nearest one is kept.

    Args:
        steps: gradient steps.
        step_size: L2 length of the first step, as a share of the width of the bounds.
        gamma: share by which the ball changes at first.

    Raises:
        InputError: a setting is out of range.

    Source: Pintor et al. (2021), arXiv 2102.12827, algorithm 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> inputs, labels = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1), torch.tensor([0])
        >>> outcomes = (FastMinimumNorm()(model, inputs, labels, norm=norm) for norm in ("l1", "l2", "linf"))
        >>> [round(outcome.verified.distance.item(), 2) for outcome in outcomes]
        [0.5, 0.35, 0.25]
    """

    name: ClassVar[str] = "fmn"
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    targeted: ClassVar[bool] = True

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected steps >= 1, got {self.steps}")
        if not 0 < self.step_size < math.inf:
            raise InputError(f"expected a finite step_size > 0, got {self.step_size}")
        if not 0 < self.gamma < 1:
            raise InputError(f"expected 0 < gamma < 1, got {self.gamma}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the nearest point that fooled the network; the input itself where none did."""
        low, high = task.bounds
        best, everyone = Best(task), torch.arange(len(task.labels), device=task.labels.device)
        points, objective = task.inputs, Objective(model, task, "distance")
        sizes = torch.zeros_like(points.flatten(1)[:, 0])
        for step in range(self.steps):
            logits, margins, gradients = objective.at(points, everyone)
            fooled = best.offer(points, everyone, logits)
            gamma = self.gamma * cosine(step, self.steps, 0.02)
            ahead = margins / lengths(gradients, DUAL[task.norm])
            # what the bounds cut off must not keep the ball from growing
            guess = torch.maximum(sizes, lengths(points - task.inputs, task.norm) + ahead).nan_to_num(math.inf)
            grown = torch.where(best.distance.isfinite(), sizes, guess) * (1 + gamma)
            shrunk = torch.minimum(sizes * (1 - gamma), best.distance.to(sizes))
            sizes = torch.where(fooled, shrunk, grown)
            stride = (high - low) * self.step_size * cosine(step, self.steps, 0.01)
            change = points - task.inputs - stride * steepest(gradients, "l2")
            points = (task.inputs + into_ball(change, sizes, task.norm)).clamp(low, high)
        return best.result

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward: one a step, and one for the slopes."""
        return samples * (self.steps + 1)
