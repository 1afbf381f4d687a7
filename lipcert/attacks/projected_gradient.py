"""Projected gradient descent within a budget, from the input and from random points around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.best import Best
from lipcert.attacks.geometry import into_ball, lengths, safe_size, steepest
from lipcert.attacks.objective import Loss, Objective, check_loss
from lipcert.attacks.task import NORMS, Norm, Task
from lipcert.data.loader import seeded_generator
from lipcert.errors import InputError


@dataclass(frozen=True)
class ProjectedGradient(Attack):
    r"""Iterated steps against the gradient, each projected onto the ball of the budget and clipped to the bounds.

    .. math:: x_{k+1} = \mathrm{clip}\Big(x + \Pi_{\|\delta\| \le \epsilon}\big(x_k - x - s \epsilon \, d_k\big)\Big)

    The direction d is the sign of the gradient in Linf, the normalised gradient in L2; in L1 it moves the pixels with
    the largest gradients that still have room, all by the same amount. A sample is done as soon as an iterate fools the
    network, and is not looked at any further. The first start is the input; further ones are random points of the ball.

    Args:
        steps: steps from each start.
        step_size: size s of a step as a share of the budget.
        restarts: random starts after the input itself, for what is not done by then.
        loss: see :class:`Objective`.
        sparsity: share of the pixels that one step moves in L1.

    Raises:
        InputError: a setting is out of range.

    Source: Madry et al. (2018), arXiv 1706.06083, section 2.1; for L1, Tramèr and Boneh (2019), arXiv 1904.13000,
    algorithm 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> inputs, labels = torch.tensor([0.75, 0.25]).view(1, 1, 1, 2), torch.tensor([0])
        >>> found = (ProjectedGradient()(model, inputs, labels, epsilon=epsilon) for epsilon in (0.35, 0.36))
        >>> [outcome.verified.success.item() for outcome in found]
        [False, True]
    """

    name: ClassVar[str] = "pgd"
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    targeted: ClassVar[bool] = True
    fixed_budget: ClassVar[bool] = True

    steps: int = 40
    step_size: float = 0.1
    restarts: int = 0
    loss: Loss = "distance"
    sparsity: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected steps >= 1, got {self.steps}")
        if self.restarts < 0:
            raise InputError(f"expected restarts >= 0, got {self.restarts}")
        if not 0 < self.step_size < math.inf:
            raise InputError(f"expected a finite step_size > 0, got {self.step_size}")
        if not 0 < self.sparsity <= 1:
            raise InputError(f"expected 0 < sparsity <= 1, got {self.sparsity}")
        check_loss(self.loss)

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the nearest iterate that fools the network; the input itself where none does."""
        best, objective = Best(task), Objective(model, task, self.loss)
        for number in range(self.restarts + 1):
            owners = (~best.found).nonzero().flatten()
            if len(owners) == 0:
                break
            start = torch.zeros_like(task.inputs[0]) if number == 0 else _random_change(task, number)
            self._descend(objective, task.subset(owners), owners, start, best)
        return best.result

    def _descend(self, objective: Objective, task: Task, owners: Tensor, start: Tensor, best: Best) -> None:
        """Offer all iterates from one start, which lies in the same direction for all samples."""
        assert task.epsilon is not None
        size = safe_size(task.epsilon, task.inputs, task.bounds, task.norm)
        points = (task.inputs + into_ball(start.expand_as(task.inputs), size, task.norm)).clamp(*task.bounds)
        for step in range(self.steps + 1):
            logits, _, gradients = objective.at(points, owners)
            best.offer(points, owners, logits)
            open_ = ~best.found[owners]
            if step == self.steps or not open_.any():
                return
            task, owners, points, gradients = task.subset(open_), owners[open_], points[open_], gradients[open_]
            change = points - task.inputs - self.step_size * size * self._direction(points, gradients, task)
            points = (task.inputs + into_ball(change, size, task.norm)).clamp(*task.bounds)

    def _direction(self, points: Tensor, gradients: Tensor, task: Task) -> Tensor:
        """Return changes of length 1 that raise the objective."""
        if task.norm != "l1":
            return steepest(gradients, task.norm)
        low, high = task.bounds
        stuck = ((points <= low) & (gradients > 0)) | ((points >= high) & (gradients < 0))
        rows = torch.where(stuck, 0.0, gradients).flatten(1)
        count = max(1, round(self.sparsity * rows.shape[1]))
        chosen = rows.abs().topk(count, dim=1).indices
        moves = torch.zeros_like(rows).scatter(1, chosen, rows.gather(1, chosen).sign())
        return (moves / lengths(moves, "l1").clamp_min(1)[:, None]).view_as(points)


def _random_change(task: Task, number: int) -> Tensor:
    """Return a random point ``(C, H, W)`` of the ball of the budget, the same for every sample.

    What happens to a sample must not depend on its neighbours.
    """
    assert task.epsilon is not None
    generator = seeded_generator(task.seed, number)
    shape = task.inputs.shape[1:]
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    if task.norm == "linf":
        return (task.epsilon * uniform).to(task.inputs)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    # with Laplace's distribution all directions of the L1 ball are alike
    direction = normal if task.norm == "l2" else uniform.sign() * -uniform.abs().clamp_min(1e-300).log()
    share = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / direction.numel())
    return (task.epsilon * share * direction / lengths(direction[None], task.norm)).to(task.inputs)
