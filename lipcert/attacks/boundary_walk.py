"""The attack made for Lipschitz networks: walk to the decision boundary, then along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.task import Task
from lipcert.attacks.walkers import Search, joined
from lipcert.data.loader import seeded_generator
from lipcert.errors import InputError

AT_BOUNDARY = 1.15  # walkers that see it farther away than the nearest of their sample times this are given up


@dataclass(frozen=True)
class BoundaryWalk(Attack):
    r"""Minimum-norm attack that follows pairwise margins, several rival classes at a time.

    A walker leaves an input x for one rival class j. With :math:`m = f_y - f_j` and its gradient g at the walker's
    place z, the boundary is to first order the plane :math:`\{z' : m + \langle g, z' - z \rangle = 0\}`.

    1. *Approach*: a few steps from place to place towards the plane, each to a share of the margin that is left. The
       first is at least as long as the certified radius, within which no evaluation could show anything.
    2. *Walk*: a step onto the plane, and on it towards the point of plane and box that is nearest to x. A Lipschitz
       network is tame enough for this to settle within about ten steps. The share of the way that is taken grows while
       steps agree in direction, and shrinks when they turn back.
    3. *Detour*: once more for the nearest rival, but the first step spares the pixels at the bounds: of a background
       that is exactly black, say. That leads to another part of the boundary.
    4. *Cross*: the ray from x through the nearest boundary point, to first order, is searched for the point where the
       class changes.

    Walkers that see the boundary much farther away than the nearest one of their sample are given up on the way.
    Starting points are walked from as well. Restarts walk again from the nearest boundary point, moved in a random
    direction by as much as its distance from x.

    Args:
        rivals: classes to head for, the nearest by margin over slope.
        approach: steps of the approach.
        steps: steps along the boundary.
        restarts: how often the nearest boundary point is moved and walked from again, with ``steps`` steps each.

    Raises:
        InputError: a setting is out of range.

    Source: the projection onto plane and box is that of Croce and Hein (2020), arXiv 1907.02044.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> outcome = BoundaryWalk()(model, torch.tensor([0.75, 0.25]).view(1, 2, 1, 1), torch.tensor([0]))
        >>> round(outcome.verified.distance.item() / (0.25 * 2**0.5), 4)
        1.0
    """

    name: ClassVar[str] = "boundary-walk"
    targeted: ClassVar[bool] = True

    rivals: int = 4
    approach: int = 2
    steps: int = 8
    restarts: int = 0

    def __post_init__(self) -> None:
        for setting in ("rivals", "approach", "steps"):
            if getattr(self, setting) < 1:
                raise InputError(f"expected {setting} >= 1, got {getattr(self, setting)}")
        if self.restarts < 0:
            raise InputError(f"expected restarts >= 0, got {self.restarts}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the nearest adversarial example of all walkers; the input itself where there is none."""
        search = Search(model, task)
        walkers = search.depart(self.rivals)
        if len(walkers) == 0:
            return search.best.result
        arrived = search.approach(walkers, self.approach)
        search.walk(joined([arrived.select(arrived.near(AT_BOUNDARY)), *search.known()]), self.steps)
        search.walk(search.detour(walkers), self.steps)
        for number in range(self.restarts):
            search.walk(search.moved(seeded_generator(task.seed, number)), self.steps)
        search.cross()
        return search.best.result
