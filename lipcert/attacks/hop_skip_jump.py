"""HopSkipJump: walks along the decision boundary by the class alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.decision import OUTWARDS, Oracle, settled, starting_points, to_the_boundary
from lipcert.attacks.geometry import column, steepest
from lipcert.attacks.randomness import normal, sample_generators, uniform
from lipcert.attacks.task import Norm, Task
from lipcert.attacks.verify import distance_upper_bound
from lipcert.errors import InputError

HALVINGS = 12  # of a step that left the adversarial region
NUMBERS = 2**24  # of probes held in memory at a time
RESOLUTION = 64  # units in the last place by which a probe should move a pixel at least


@dataclass(frozen=True)
class HopSkipJump(Attack):
    r"""The HopSkipJump attack: the normal of the decision boundary by random probes, a long step, back to the boundary.

    .. math::
        v_t \propto \sum_b \big(\phi(x_t + \delta_t u_b) - \bar\phi\big) u_b, \qquad
        \tilde x_t = x_t + \xi_t v_t, \quad \xi_t = \frac{\|x_t - x\|}{\sqrt t} 2^{-k}

    with :math:`\phi = \pm 1` for adversarial or not, :math:`\sqrt t` times ``initial_probes`` random directions
    :math:`u_b` of length 1, the smallest k for which :math:`\tilde x_t` is adversarial, and :math:`x_{t+1}` by
    bisection between it and x. In the maximum norm :math:`v_t` is a sign, and the bisection widens a box.

    Samples share batches and nothing else: each has its own randomness, steps and count, one without a starting
    point is given up while the others go on, and no sample asks more than ``queries`` questions, whatever the network
    answers, so that the search ends.

    Args:
        queries: questions a sample at most, those of its starting point included.
        initial_probes: random directions of the first turn.
        start_tries: images made up to find a starting point.

    Raises:
        InputError: a setting is out of range.

    Source: Chen, Jordan and Wainwright (2020), arXiv 1904.02144, algorithm 2.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> outcome = HopSkipJump(queries=400)(model, torch.tensor([0.75, 0.25]).view(1, 2, 1, 1), torch.tensor([0]))
        >>> bool(0.25 * 2**0.5 <= outcome.verified.distance.item() < 0.36), outcome.forward_passes <= 400
        (True, True)
    """

    name: ClassVar[str] = "hop-skip-jump"
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    targeted: ClassVar[bool] = True
    black_box: ClassVar[bool] = True

    queries: int = 2500
    initial_probes: int = 100
    start_tries: int = 40

    def __post_init__(self) -> None:
        for setting, value in (("queries", self.queries), ("initial_probes", self.initial_probes)):
            if value < 1:
                raise InputError(f"expected {setting} >= 1, got {value}")
        if self.start_tries < 0:
            raise InputError(f"expected start_tries >= 0, got {self.start_tries}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the nearest adversarial point of every walk; the input itself where none could start."""
        oracle, generators = Oracle(model, task, self.queries), sample_generators(task)
        halvings = _bisection_steps(task.inputs[0].numel())
        points, found = starting_points(oracle, generators, self.start_tries)
        walking = (found & oracle.affords(halvings + len(OUTWARDS))).nonzero().flatten()
        points[walking] = to_the_boundary(oracle, points[walking], walking, halvings)
        best, distance = points.clone(), distance_upper_bound(task.inputs, points, task.norm)
        turn = 0
        while True:
            turn += 1
            probes = int(self.initial_probes * math.sqrt(turn))
            going = (
                found
                & oracle.affords(probes + HALVINGS + halvings + len(OUTWARDS))
                & (distance > (task.epsilon or 0.0))
            )
            owners = going.nonzero().flatten()
            if len(owners) == 0:
                return settled(oracle, best, found)
            normals = _normals(oracle, points[owners], owners, generators, probes=probes, first=turn == 1)
            stepped, moved = _step(oracle, points[owners], owners, normals, turn)
            owners = owners[moved]
            points[owners] = to_the_boundary(oracle, stepped[moved], owners, halvings)
            reached = distance_upper_bound(task.inputs[owners], points[owners], task.norm)
            nearer = reached < distance[owners]
            best[owners[nearer]] = points[owners[nearer]]
            distance[owners[nearer]] = reached[nearer]

    def forward_budget(self, samples: int) -> int:
        """Return the largest number of images pushed forward."""
        return samples * self.queries


def _bisection_steps(size: int) -> int:
    """Return the halvings after which a point lies much nearer to the boundary than its probes reach."""
    return min(max(math.ceil(1.5 * math.log2(size)), 10), 24)


def _normals(
    oracle: Oracle,
    points: Tensor,
    owners: Tensor,
    generators: Sequence[torch.Generator],
    *,
    probes: int,
    first: bool,
) -> Tensor:
    """Return estimates of the boundary's normals at points on it, towards the adversarial side: ``(M, C, H, W)``.

    The probes' length, the distance over the dimension, is that of the source; the first turn, far out, takes a tenth
    of the range. Probes are rounded and clipped, so that their directions are measured and not taken for granted.
    """
    task = oracle.task
    low, high = task.bounds
    size = points[0].numel()
    if first:
        length = points.new_full((len(points),), (high - low) / 10)
    else:
        grid = RESOLUTION * torch.finfo(points.dtype).eps * max(abs(low), abs(high))
        length = distance_upper_bound(task.inputs[owners], points, task.norm).to(points) / size
        length = length.clamp(min=grid * math.sqrt(size))
    draw = normal if task.norm == "l2" else uniform
    together = max(NUMBERS // (size * probes), 1)
    estimates = []
    for rows in torch.arange(len(points), device=points.device).split(together):
        noise = draw([generators[i] for i in owners[rows].tolist()], (probes, *points.shape[1:]), points)
        noise = (noise if task.norm == "l2" else 2 * noise - 1).flatten(2)
        noise = noise / noise.square().sum(2, keepdim=True).sqrt() * length[rows, None, None]
        images = (points[rows].flatten(1)[:, None] + noise).clamp(low, high)
        asked = owners[rows].repeat_interleave(probes)
        answers = oracle(images.view(-1, *points.shape[1:]), asked).view(-1, probes).to(points) * 2 - 1
        # Without a baseline a one-sided vote would drown the direction; if all agree, there is nothing to subtract.
        mean = answers.mean(1, keepdim=True)
        weights = torch.where(mean.abs() == 1, answers, answers - mean)
        moves = (images - points[rows].flatten(1)[:, None]) / length[rows, None, None]
        estimates.append((weights[:, :, None] * moves).sum(1))
    return steepest(torch.cat(estimates).view_as(points), task.norm)


def _step(oracle: Oracle, points: Tensor, owners: Tensor, normals: Tensor, turn: int) -> tuple[Tensor, Tensor]:
    """Return adversarial points up the normals, as far as halving steps finds them, and which ``(M,)`` were found."""
    task = oracle.task
    length = distance_upper_bound(task.inputs[owners], points, task.norm).to(points) / math.sqrt(turn)
    stepped, moved = points.clone(), torch.zeros_like(owners, dtype=torch.bool)
    for _ in range(HALVINGS):
        waiting = (~moved).nonzero().flatten()
        if len(waiting) == 0:
            break
        trial = (points[waiting] + column(length[waiting], points) * normals[waiting]).clamp(*task.bounds)
        hit = oracle(trial, owners[waiting])
        stepped[waiting[hit]] = trial[hit]
        moved[waiting[hit]] = True
        length = length / 2
    return stepped, moved
