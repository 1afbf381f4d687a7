"""DeepFool: steps onto the nearest linearised boundary, then back to where the class changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.best import Best, rounding
from lipcert.attacks.crossing import cross
from lipcert.attacks.evaluation import margins
from lipcert.attacks.geometry import lengths, onto_plane
from lipcert.attacks.rivals import rivals
from lipcert.attacks.task import NORMS, Norm, Task
from lipcert.errors import InputError


@dataclass(frozen=True)
class DeepFool(Attack):
    r"""Minimum-norm attack in L1, L2 or Linf: follows pairwise margins until the class changes.

    For every rival class there is a point nearest to the present one, in the box, at which the linearised margin is a
    little below zero; the nearest of them is gone to. A sample is done once its class has changed; the way from the
    input to that point is then searched for the place where it changes.

    Args:
        steps: linearised steps at most.
        overshoot: by which share of a margin a step goes beyond the boundary that it expects.

    Raises:
        InputError: a setting is out of range.

    Source: Moosavi-Dezfooli et al. (2016), arXiv 1511.04599, algorithm 2; for the box, Croce and Hein (2020), arXiv
    1907.02044, section 3.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> inputs, labels = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1), torch.tensor([0])
        >>> outcomes = (DeepFool()(model, inputs, labels, norm=norm) for norm in ("l1", "l2", "linf"))
        >>> [round(outcome.verified.distance.item(), 4) for outcome in outcomes]
        [0.5, 0.3536, 0.25]
    """

    name: ClassVar[str] = "deepfool"
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    targeted: ClassVar[bool] = True

    steps: int = 50
    overshoot: float = 0.005

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected steps >= 1, got {self.steps}")
        if not 0 <= self.overshoot < math.inf:
            raise InputError(f"expected a finite overshoot >= 0, got {self.overshoot}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the points where the ways cross the boundary; the input itself where no class changed."""
        best, owners = Best(task), torch.arange(len(task.labels), device=task.labels.device)
        ends, part, heights = task.inputs.clone(), task, torch.zeros_like(task.inputs.flatten(1)[:, 0])
        points = task.inputs
        for step in range(self.steps + 1):
            seen = rivals(model, points, part)
            if seen.classes.shape[1] == 0:
                return task.inputs
            if step == 0:
                heights = margins(seen.logits, task.labels, task.targets)
            done = best.offer(points, owners, seen.logits)
            ends[owners[done]] = points[done]
            owners, part = owners[~done], part.subset(~done)
            if len(owners) == 0:
                break
            # what leads by no more than rounding has not changed class yet
            gaps = seen.gaps[~done].clamp_min(0) + 2 * rounding(seen.logits[~done])[:, None]
            points = self._step(points[~done], gaps, seen.gradients[~done], part)
        changed = torch.ones_like(task.labels, dtype=torch.bool)
        changed[owners] = False
        ways = (changed & (heights > 0)).nonzero().flatten()
        if len(ways) > 0:
            cross(model, best, ways, ends[ways], heights[ways])
        return best.result

    def _step(self, points: Tensor, gaps: Tensor, gradients: Tensor, task: Task) -> Tensor:
        """Return the points after one step onto the boundary that looks nearest, box included."""
        samples, classes = gaps.shape
        normals, rows = gradients.flatten(0, 1), points.flatten(1).repeat_interleave(classes, 0)
        levels = (normals * rows).sum(1) - (1 + self.overshoot) * gaps.flatten()
        ends = onto_plane(rows, normals, levels, task.bounds, task.norm)
        distances = lengths(ends - rows, task.norm)
        distances[((normals * ends).sum(1) > levels + 0.5 * gaps.flatten())] = math.inf  # not even half of the way
        nearest = distances.view(samples, classes).argmin(1)
        return ends.view(samples, classes, -1)[torch.arange(samples, device=rows.device), nearest].view_as(points)
