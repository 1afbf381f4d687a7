"""The pointwise attack: pixels of an adversarial example go back to what they were, as many and as far as may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.decision import Oracle, starting_points
from lipcert.attacks.randomness import sample_generators
from lipcert.attacks.task import Norm, Task
from lipcert.errors import InputError

TRIES = 20  # images made up for a sample before other inputs are looked at
LEAST = 1e-3  # a change smaller than this is left alone
BISECTIONS = 4  # of the way back of a block that cannot be restored


@dataclass(frozen=True)
class Pointwise(Attack):
    """Puts pixels of an adversarial example back, many at first, then one by one, while the class stays lost.

    It begins at the nearest example that is known, or at a made-up one, and asks for classes only. In random order,
    blocks of half of the changed pixels, then a quarter and so on down to single ones are restored, or where that fails
    moved as far as a few bisections find, and stay so if the image is adversarial still.

    Args:
        queries: questions a sample.

    Raises:
        InputError: fewer than one question.

    Source: Schott, Rauber, Bethge and Brendel (2018), arXiv 1805.09190, section 5; there with single pixels from the
        beginning.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.tensor([[4.0, 0, 0, 0], [0, 0, 0, 0]])), model[1].bias.data.zero_()
        >>> _ = model[1].bias.data[1].fill_(1)
        >>> inputs, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
        >>> 0.25 < Pointwise()(model, inputs, labels, norm="l1").verified.distance.item() < 0.3
        True
    """

    name: ClassVar[str] = "pointwise"
    norms: ClassVar[tuple[Norm, ...]] = ("l1",)
    targeted: ClassVar[bool] = True

    queries: int = 200

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise InputError(f"expected queries >= 1, got {self.queries}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the examples with as much put back as was found; the inputs where there was no example."""
        oracle = Oracle(model, task, self.queries)
        generators = sample_generators(task)
        points, found = starting_points(oracle, generators, TRIES)
        walks = {
            owner: _Restoring(task, points, owner, generators[owner]) for owner in found.nonzero().flatten().tolist()
        }
        while walks:
            owners = [owner for owner in walks if bool(oracle.affords(1)[owner])]
            proposals = {owner: proposal for owner in owners if (proposal := walks[owner].propose()) is not None}
            if not proposals:
                break
            places = torch.tensor(list(proposals), device=points.device)
            images = torch.stack(list(proposals.values()))
            hits = oracle(images, places).tolist()
            for owner, image, hit in zip(proposals, images, hits, strict=True):
                walks[owner].learn(hit)
                if hit:
                    points[owner] = image
            walks = {owner: walks[owner] for owner in proposals}
        return points

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward at most."""
        return samples * self.queries


class _Restoring:
    """One sample on the way back: which block of its changed pixels is next, and how far it may go."""

    def __init__(self, task: Task, points: Tensor, owner: int, generator: torch.Generator) -> None:
        self.image, self.points, self.owner, self.generator = task.inputs[owner].flatten(), points, owner, generator
        self.size = self.image.numel()
        self.blocks: list[Tensor] = []
        self.base: Tensor | None = None  # the block as it was
        self.near, self.far, self.share = 0.0, 1.0, 0.0  # shares of the change that are too small, enough, and tried
        self.left = BISECTIONS

    def propose(self) -> Tensor | None:
        """Return the image to ask about; None if nothing is left to try."""
        while not self.blocks:
            if self.size == 0:
                return None
            changed = (self._current() - self.image).abs().gt(LEAST).nonzero().flatten()
            if len(changed) == 0:
                return None
            self.size = min(self.size, len(changed)) // 2 if self.size > 1 else 0
            order = torch.randperm(len(changed), generator=self.generator).to(changed.device)
            self.blocks = list(changed[order].split(max(1, self.size)))
        block, proposal = self.blocks[-1], self._current().clone()
        if self.base is None:
            self.base = proposal[block]
        proposal[block] = self.image[block] + self.share * (self.base - self.image[block])
        return proposal.view_as(self.points[self.owner])

    def learn(self, hit: bool) -> None:
        """Go on with a bisection of the block's way back, or to the next block."""
        self.near, self.far = (self.near, self.share) if hit else (self.share, self.far)
        if (hit and self.share == 0) or self.left == 0:
            self.blocks.pop()
            self.base, self.near, self.far, self.share, self.left = None, 0.0, 1.0, 0.0, BISECTIONS
        else:
            self.share, self.left = (self.near + self.far) / 2, self.left - 1

    def _current(self) -> Tensor:
        return self.points[self.owner].flatten()
