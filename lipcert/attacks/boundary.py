"""The Boundary attack: a random walk along the decision boundary, by the class alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.decision import OUTWARDS, Oracle, settled, starting_points, to_the_boundary
from lipcert.attacks.geometry import column, lengths
from lipcert.attacks.randomness import normal, sample_generators
from lipcert.attacks.task import Task
from lipcert.attacks.verify import distance_upper_bound
from lipcert.errors import InputError

HALVINGS = 10  # of the way from the starting point to the input
EVERY = 4  # steps at which the sidestep is asked about on its own
GAIN = 0.2  # by which share a step length answers to one success or failure
SIDEWAYS, INWARDS = 0.5, 0.25  # shares of successes that the two step lengths aim at
SHORTEST, LONGEST = 1e-4, 0.5  # steps, as shares of the distance


@dataclass(frozen=True)
class BoundaryAttack(Attack):
    r"""The Boundary attack: sidesteps on a sphere around the input, each followed by a small step inwards.

    .. math::
        z = x + d \, \frac{p + s d \, u - x}{\|p + s d \, u - x\|}, \qquad p' = z + r (x - z), \qquad d = \|p - x\|

    with a random direction u of length 1 orthogonal to :math:`p - x`; p moves to p' if that is adversarial and nearer.
    Both step lengths grow with a success and shrink with a failure of their own sample, so that half of the z and a
    quarter of the p' are adversarial.

    It needs many more questions than HopSkipJump, but no normals, which exist on smooth boundaries only. Samples have
    their own randomness, steps and count; one without a starting point is given up while the others go on.

    Args:
        queries: questions a sample at most, those of its starting point included.
        sideways: s at first.
        inwards: r at first.
        start_tries: images made up to find a starting point.

    Raises:
        InputError: a setting is out of range.

    Source: Brendel, Rauber and Bethge (2018), arXiv 1712.04248, section 2.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> outcome = BoundaryAttack(queries=400)(model, torch.tensor([0.75, 0.25]).view(1, 2, 1, 1), torch.tensor([0]))
        >>> bool(0.25 * 2**0.5 <= outcome.verified.distance.item() < 0.36), outcome.forward_passes <= 400
        (True, True)
    """

    name: ClassVar[str] = "boundary"
    targeted: ClassVar[bool] = True
    black_box: ClassVar[bool] = True

    queries: int = 5000
    sideways: float = 0.1
    inwards: float = 0.1
    start_tries: int = 40

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise InputError(f"expected queries >= 1, got {self.queries}")
        if self.start_tries < 0:
            raise InputError(f"expected start_tries >= 0, got {self.start_tries}")
        for setting, value in (("sideways", self.sideways), ("inwards", self.inwards)):
            if not 0 < value < 1:
                raise InputError(f"expected {setting} between 0 and 1, got {value}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return where every walk ended; the input itself where none could start."""
        oracle, generators = Oracle(model, task, self.queries), sample_generators(task)
        points, found = starting_points(oracle, generators, self.start_tries)
        walking = (found & oracle.affords(HALVINGS + len(OUTWARDS))).nonzero().flatten()
        points[walking] = to_the_boundary(oracle, points[walking], walking, HALVINGS)
        distance = distance_upper_bound(task.inputs, points, task.norm)
        sideways, inwards = (points.new_full((len(points),), value) for value in (self.sideways, self.inwards))
        for number in range(self.queries):
            # one question of two is left out on most steps
            questions = 2 if number % EVERY == 0 else 1
            owners = (
                (found & oracle.affords(questions + len(OUTWARDS)) & (distance > (task.epsilon or 0.0)))
                .nonzero()
                .flatten()
            )
            if len(owners) == 0:
                break
            inputs = task.inputs[owners]
            sphere = _sidestep(inputs, points[owners], sideways[owners], [generators[i] for i in owners.tolist()])
            sphere = sphere.clamp(*task.bounds)
            if questions == 2:
                sideways[owners] = _adapted(sideways[owners], oracle(sphere, owners), SIDEWAYS)
            trial = (sphere + column(inwards[owners], inputs) * (inputs - sphere)).clamp(*task.bounds)
            reached = distance_upper_bound(inputs, trial, task.norm)
            moved = oracle(trial, owners) & (reached < distance[owners])
            inwards[owners] = _adapted(inwards[owners], moved, INWARDS)
            points[owners[moved]] = trial[moved]
            distance[owners[moved]] = reached[moved]
        return settled(oracle, points, found)

    def forward_budget(self, samples: int) -> int:
        """Return the largest number of images pushed forward."""
        return samples * self.queries


def _sidestep(inputs: Tensor, points: Tensor, step: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return points as far from the inputs as before, after a random step across the line of sight."""
    away = points - inputs
    tiny = torch.finfo(inputs.dtype).tiny
    distance = column(lengths(away, "l2").clamp(min=tiny), away)
    sight = away / distance
    noise = normal(generators, inputs.shape[1:], inputs)
    noise = noise - column((noise * sight).flatten(1).sum(1), away) * sight
    moved = sight + column(step / lengths(noise, "l2").clamp(min=tiny), away) * noise
    return inputs + distance * moved / column(lengths(moved, "l2"), away)


def _adapted(step: Tensor, success: Tensor, goal: float) -> Tensor:
    """Return step lengths that rest where a share ``goal`` of the steps succeeds."""
    factor = torch.exp(GAIN * (success.to(step) - goal))
    return (step * factor).clamp(SHORTEST, LONGEST)
