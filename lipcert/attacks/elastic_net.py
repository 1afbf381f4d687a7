"""The elastic-net attack: a small L1 change, found by gradient steps that shrink every pixel towards its image."""

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
from lipcert.attacks.objective import Objective
from lipcert.attacks.task import Norm, Task
from lipcert.errors import InputError


@dataclass(frozen=True)
class ElasticNet(Attack):
    r"""Iterative shrinkage on the network's margin and the change's elastic net.

    .. math:: \min_\delta \; c \, \max(m(x + \delta), 0) + \beta \|\delta\|_1 + \|\delta\|_2^2

    with m the "distance" of :class:`Objective`. Each step follows the gradient of the smooth part, draws every pixel by
    :math:`\beta` times its length towards the input, and goes on by a share of the last step. The constant c is found
    by binary search for each sample; of all points that fool the network the one nearest in L1 is kept: the "decision
    rule" of the publication.

    Args:
        binary_search_steps: values of c that are tried.
        steps: gradient steps for each.
        step_size: length of the first one, as a share of the width of the bounds; it falls to 0.
        beta: weight of the L1 norm.
        initial_const: the first c.

    Raises:
        InputError: a setting is out of range.

    Source: Chen et al. (2018), arXiv 1709.04114, algorithm 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]])), model[1].bias.data.zero_()
        >>> inputs, labels = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), torch.tensor([0])
        >>> 0.25 < ElasticNet(beta=1.0)(model, inputs, labels, norm="l1").verified.distance.item() < 0.26
        True
    """

    name: ClassVar[str] = "elastic-net"
    norms: ClassVar[tuple[Norm, ...]] = ("l1",)
    targeted: ClassVar[bool] = True

    binary_search_steps: int = 4
    steps: int = 50
    step_size: float = 0.02
    beta: float = 0.05
    initial_const: float = 1.0

    def __post_init__(self) -> None:
        for setting in ("binary_search_steps", "steps"):
            if getattr(self, setting) < 1:
                raise InputError(f"expected {setting} >= 1, got {getattr(self, setting)}")
        for setting in ("step_size", "initial_const"):
            if not 0 < getattr(self, setting) < math.inf:
                raise InputError(f"expected a finite {setting} > 0, got {getattr(self, setting):g}")
        if not 0 <= self.beta < math.inf:
            raise InputError(f"expected a finite beta >= 0, got {self.beta:g}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the nearest point that fooled the network; the input itself where none did."""
        best, objective = Best(task), Objective(model, task, "distance")
        const = torch.full_like(task.inputs.flatten(1)[:, 0], self.initial_const)
        low, high = torch.zeros_like(const), torch.full_like(const, math.inf)
        for _ in range(self.binary_search_steps):
            fooled = self._descend(objective, task, const, best)
            high, low = torch.where(fooled, torch.minimum(high, const), high), torch.where(fooled, low, const)
            const = torch.where(high.isfinite(), (low + high) / 2, const * 10)
        return best.result

    def _descend(self, objective: Objective, task: Task, const: Tensor, best: Best) -> Tensor:
        """Offer the points of one descent; return for which samples ``(N,)`` one of them fools the network."""
        (lowest, highest), inputs = task.bounds, task.inputs
        everyone, fooled = (
            torch.arange(len(inputs), device=inputs.device),
            torch.zeros_like(task.labels, dtype=torch.bool),
        )
        last, points = inputs, inputs
        for step in range(self.steps):
            logits, values, gradients = objective.at(points, everyone)
            fooled |= best.offer(points, everyone, logits)
            length = (highest - lowest) * self.step_size * math.sqrt(1 - step / self.steps)
            uphill = column(const * (values > 0), inputs) * gradients + 2 * (points - inputs)
            change = points - length * uphill - inputs
            change = change.sign() * (change.abs() - length * self.beta).clamp_min(0)
            current = (inputs + change).clamp(lowest, highest)
            points, last = (current + step / (step + 3) * (current - last)).clamp(lowest, highest), current
        return fooled

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward: one a step, and one for the slopes."""
        return samples * (self.binary_search_steps * self.steps + 1)
