"""The nearest adversarial examples that a search has met."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.attacks.evaluation import margins
from lipcert.attacks.geometry import column
from lipcert.attacks.task import Task
from lipcert.attacks.verify import distance_upper_bound

UNITS = 8  # in the last place of the largest logit: evaluations in other batches were seen to differ by half of that


def rounding(logits: Tensor) -> Tensor:
    """Return by how much ``(N,)`` two evaluations of the same logits ``(N, K)`` may differ."""
    return UNITS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)


class Best:
    """Keeps the nearest adversarial example of every sample of a task.

    What is offered counts if its logits give it the class to reach, or any but the one to leave, by more than rounding
    could undo when the same network evaluates it in another batch. Logits with a nan have no class. A budget decides
    what is returned in the end, not what a search may learn on the way.

    Args:
        task: whose samples they are.

    Attributes:
        candidates: ``(N, C, H, W)``, the nearest examples, however far; the inputs where there is none yet.
        distance: ``(N,)`` float64 in the task's norm, rounded up; infinite where there is none.

    Example:
        >>> task = Task(torch.zeros(2, 1, 1, 1), torch.tensor([0, 0]))
        >>> best, points = Best(task), torch.tensor([0.75, 0.5, 0.25]).view(3, 1, 1, 1)
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        >>> best.offer(points, torch.tensor([0, 0, 1]), logits).tolist(), best.result.flatten().tolist()
        ([True, True, False], [0.5, 0.0])
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.candidates = task.inputs.clone()
        self.distance = torch.full(task.labels.shape, math.inf, dtype=torch.float64, device=task.inputs.device)

    @property
    def found(self) -> Tensor:
        """Where ``(N,)`` there is an example within the budget."""
        return self.distance.isfinite() if self.task.epsilon is None else self.distance <= self.task.epsilon

    @property
    def result(self) -> Tensor:
        """The examples ``(N, C, H, W)`` within the budget, and the inputs where there is none."""
        return torch.where(column(self.found, self.candidates), self.candidates, self.task.inputs)

    def offer(self, points: Tensor, owners: Tensor, logits: Tensor) -> Tensor:
        """Keep what is adversarial and nearer than what was known.

        Args:
            points: ``(M, C, H, W)`` within the bounds, of the inputs' type.
            owners: ``(M,)`` int64, the samples that they belong to.
            logits: ``(M, K)`` of the points.

        Returns:
            ``(M,)`` bool: which points are adversarial, near or far.
        """
        points, logits = points.detach(), logits.detach()
        targets = None if self.task.targets is None else self.task.targets[owners]
        adversarial = margins(logits, self.task.labels[owners], targets) < -rounding(logits)
        if not adversarial.any():
            return adversarial
        distance = distance_upper_bound(self.task.inputs[owners], points, self.task.norm)
        distance = torch.where(adversarial, distance, math.inf)
        nearest = self.distance.scatter_reduce(0, owners, distance, "amin")
        winners = (distance == nearest[owners]) & (distance < self.distance[owners])
        self.candidates[owners[winners]] = points[winners]
        self.distance = nearest
        return adversarial

    def replace(self, points: Tensor, owners: Tensor) -> None:
        """Put other examples, nearer or farther, in the place of those that are known."""
        self.candidates[owners] = points
        self.distance[owners] = distance_upper_bound(self.task.inputs[owners], points, self.task.norm)
