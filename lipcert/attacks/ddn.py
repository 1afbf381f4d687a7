"""The decoupled direction and norm attack: gradient steps on a sphere that shrinks and grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.best import Best
from lipcert.attacks.geometry import column, lengths, steepest
from lipcert.attacks.objective import Loss, Objective, check_loss
from lipcert.attacks.task import Task
from lipcert.errors import InputError


@dataclass(frozen=True)
class DecoupledDirection(Attack):
    r"""Minimum-norm L2 attack: the direction follows the gradient, the size only whether the last point fooled.

    .. math::
        \rho_{k+1} = (1 \mp \gamma) \rho_k, \qquad
        \delta_{k+1} = \rho_{k+1} \frac{\delta_k - \alpha_k g_k / \|g_k\|}{\|\delta_k - \alpha_k g_k / \|g_k\|\|}

    The sphere shrinks where the last point fooled the network and grows where it did not; :math:`\alpha` falls from 1
    to 0.01 along a cosine. Points are clipped to the bounds before they are evaluated, and of all that fool the nearest
    one is kept, at the distance that it has after clipping.

    Args:
        steps: gradient steps.
        first_size: radius of the first sphere, as a share of the width of the bounds.
        gamma: share by which the sphere changes.
        loss: see :class:`Objective`; the paper's is the cross-entropy.

    Raises:
        InputError: a setting is out of range.

    Source: Rony et al. (2019), arXiv 1811.09600, algorithm 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> outcome = DecoupledDirection()(model, torch.tensor([0.75, 0.25]).view(1, 2, 1, 1), torch.tensor([0]))
        >>> bool(0.25 * 2**0.5 <= outcome.verified.distance.item() < 0.36)
        True
    """

    name: ClassVar[str] = "ddn"
    targeted: ClassVar[bool] = True

    steps: int = 100
    first_size: float = 1.0
    gamma: float = 0.05
    loss: Loss = "distance"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected steps >= 1, got {self.steps}")
        if not 0 < self.first_size < math.inf:
            raise InputError(f"expected a finite first_size > 0, got {self.first_size}")
        if not 0 < self.gamma < 1:
            raise InputError(f"expected 0 < gamma < 1, got {self.gamma}")
        check_loss(self.loss)

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the nearest point that fooled the network; the input itself where none did."""
        low, high = task.bounds
        best, everyone = Best(task), torch.arange(len(task.labels), device=task.labels.device)
        points, objective = task.inputs, Objective(model, task, self.loss)
        sizes = torch.full_like(points.flatten(1)[:, 0], self.first_size * (high - low))
        for step in range(self.steps):
            logits, _, gradients = objective.at(points, everyone)
            fooled = best.offer(points, everyone, logits)
            sizes = sizes * torch.where(fooled, 1 - self.gamma, 1 + self.gamma)
            moved = points - task.inputs - (high - low) * cosine(step, self.steps, 0.01) * steepest(gradients, "l2")
            length = column(lengths(moved, "l2"), moved)
            change = moved * (column(sizes, moved) / length).nan_to_num(0.0, posinf=0.0)
            points = (task.inputs + change).clamp(low, high)
        return best.result

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward: one a step, and one for the slopes if distances are looked at."""
        return samples * (self.steps + int(self.loss == "distance"))


def cosine(step: int, steps: int, last: float) -> float:
    """Return a factor that falls from 1 at step 0 to ``last`` at the last step, along half a cosine wave.

    Example:
        >>> [round(cosine(step, 3, 0.2), 9) for step in range(3)]
        [1.0, 0.6, 0.2]
    """
    return last + (1 - last) * (1 + math.cos(math.pi * step / max(steps - 1, 1))) / 2
