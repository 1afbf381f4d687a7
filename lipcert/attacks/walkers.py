"""Walkers: places from which a decision boundary is seen as a plane, and the moves that bring them near an input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.best import Best
from lipcert.attacks.crossing import cross
from lipcert.attacks.evaluation import forward, margins, slopes
from lipcert.attacks.geometry import lengths, onto_plane
from lipcert.attacks.rivals import rivals
from lipcert.attacks.task import Task

BEHIND = 1.05  # walkers that see the boundary farther away than the nearest of their sample times this are given up

SLOWEST, PACE, FASTEST = 0.1, 0.5, 1.0  # share of the way along the boundary that a step takes: least, first, most
TURN = 0.2  # cosine between two ways from which on they agree; below its negative the second one turns back
FASTER, SLOWER = 1.3, 0.6  # what that does to the share

VIEW = 0.5  # a boundary nearer or farther than the walker by more than this share of its way is out of sight

EDGE = 0.02  # pixels this near to a bound, as a share of the width,
SPARED = 0.3  # count so much on a detour


@dataclass(frozen=True, slots=True)
class Walkers:
    """M walkers, a row each; images are rows of D numbers.

    Attributes:
        owners: ``(M,)`` int64, the samples that they belong to.
        rivals: ``(M,)`` int64, the classes that they head for.
        places: ``(M, D)``, where they are.
        margins: ``(M,)``, by how much the class to leave leads there; negative beyond the boundary.
        gradients: ``(M, D)`` of the margins.
        estimates: ``(M,)``, the smallest distance from the input at which a walker has seen the boundary.
    """

    owners: Tensor
    rivals: Tensor
    places: Tensor
    margins: Tensor
    gradients: Tensor
    estimates: Tensor

    def __len__(self) -> int:
        return len(self.owners)

    def select(self, chosen: Tensor) -> Walkers:
        """Return some of the walkers."""
        return Walkers(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def near(self, share: float) -> Tensor:
        """Return which ``(M,)`` see the boundary nearly as near as the best one of their sample."""
        samples = int(self.owners.max()) + 1 if len(self) else 0
        least = self.estimates.new_full((samples,), math.inf).scatter_reduce(0, self.owners, self.estimates, "amin")
        return self.estimates <= share * least[self.owners]


def joined(groups: Sequence[Walkers]) -> Walkers:
    """Return all walkers of several groups."""
    names = [field.name for field in dataclasses.fields(Walkers)]
    return Walkers(*(torch.cat([getattr(group, name) for group in groups]) for name in names))


class Search:
    """What is known about every sample of a task, and the moves that find out more.

    Args:
        model: network without parameter gradients.
        task: what to do.

    Attributes:
        best: the nearest adversarial examples so far.
        feet: ``(N, D)``, where the boundary was seen nearest, to first order.
        estimates: ``(N,)``, how far from the inputs that is; infinite where none was seen.
        rivals: ``(N,)`` int64, the classes beyond it.
        heights: ``(N,)``, margins at the inputs.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model = model
        self.task = task
        self.inputs = task.inputs.flatten(1)
        self.best = Best(task)
        self.feet = self.inputs.clone()
        self.estimates = torch.full_like(self.inputs[:, 0], math.inf)
        self.rivals = (task.labels if task.targets is None else task.targets).clone()
        self.heights = torch.zeros_like(self.estimates)

    def depart(self, count: int) -> Walkers:
        """Return walkers at the inputs that have their class: one a rival, or one alone if there is a target.

        Args:
            count: rivals of a sample, the nearest by margin over slope.
        """
        seen = rivals(self.model, self.task.inputs, self.task)
        everyone = torch.arange(len(self.inputs), device=self.inputs.device)
        self.best.offer(self.task.inputs, everyone, seen.logits)
        self.heights = margins(seen.logits, self.task.labels, self.task.targets)
        distances = (seen.gaps / torch.linalg.vector_norm(seen.gradients, dim=2)).nan_to_num(math.inf)
        chosen = (distances.argsort(1).argsort(1) < count) & (self.heights > 0)[:, None]
        owners, ranks = chosen.nonzero(as_tuple=True)
        places, nothing = self.inputs[owners], torch.full_like(self.heights[owners], math.inf)
        gaps, gradients = seen.gaps[owners, ranks], seen.gradients[owners, ranks]
        return Walkers(owners, seen.classes[owners, ranks], places, gaps, gradients, nothing)

    def approach(self, walkers: Walkers, steps: int) -> Walkers:
        """Return walkers that went from the inputs to where they expect the boundary, in so many steps."""
        for step in range(steps):
            levels = walkers.margins * (1 - 1 / (steps - step))
            if step == 0 and self.task.radius is not None:
                # Where the certificate is right nothing is missed, and where it is wrong the walk leads back.
                fall = self.task.radius[walkers.owners].to(levels) * lengths(walkers.gradients, "l2")
                levels = torch.minimum(levels, (walkers.margins - fall).clamp_min(0))
            # From the place, not from the input: what turns on the way would throw a walker far off.
            walkers = self._moved_to(self._onto(walkers, walkers.places, levels), walkers)
        return walkers

    def detour(self, walkers: Walkers) -> Walkers:
        """Return those walkers at the inputs that head for the nearest rival, after a step that spares some pixels.

        Those are the pixels at the bounds. What is behind the others alone is often another part of the boundary.
        """
        walkers, (low, high) = walkers.select(walkers.rivals == self.rivals[walkers.owners]), self.task.bounds
        edge = EDGE * (high - low)
        spared = torch.where((walkers.places < low + edge) | (walkers.places > high - edge), SPARED, 1.0)
        seen = dataclasses.replace(walkers, gradients=walkers.gradients * spared)
        return self._moved_to(self._onto(seen, walkers.places, torch.zeros_like(walkers.margins)), walkers)

    def known(self) -> list[Walkers]:
        """Return walkers at the adversarial examples that were handed in, heading for the classes that these have."""
        start = self.task.start
        if start is None:
            return []
        logits = forward(self.model, start)
        fooled = self.best.offer(start, torch.arange(len(start), device=start.device), logits)
        owners = (fooled & (self.heights > 0)).nonzero().flatten()
        return [self._placed(start.flatten(1)[owners], owners, logits.argmax(1)[owners])]

    def moved(self, generator: torch.Generator) -> Walkers:
        """Return walkers at the nearest boundary points, moved by their distance in a random direction."""
        owners = self.estimates.isfinite().nonzero().flatten()
        # One direction for all of them: what happens to a sample must not depend on its neighbours.
        direction = torch.randn(self.inputs.shape[1], generator=generator, dtype=torch.float64).to(self.inputs)
        places = self.feet[owners] + self.estimates[owners, None] * (direction / direction.norm())
        return self._placed(places.clamp(*self.task.bounds), owners, self.rivals[owners])

    def walk(self, walkers: Walkers, steps: int) -> None:
        """Walk along the boundary towards the inputs; who falls behind is given up."""
        paces = torch.full_like(walkers.estimates, PACE)[:, None]
        last = torch.zeros_like(walkers.places)
        for _ in range(steps):
            beside = self._beside(walkers)
            ahead = self._onto(walkers, self.inputs[walkers.owners], torch.zeros_like(walkers.margins)) - beside
            agreement = torch.cosine_similarity(ahead, last, dim=1)[:, None]
            change = torch.where(agreement > TURN, FASTER, torch.where(agreement < -TURN, SLOWER, 1.0))
            paces = (paces * change).clamp(SLOWEST, FASTEST)
            walkers = self._moved_to(beside + paces * ahead, walkers)
            near = walkers.near(BEHIND)
            walkers, paces, last = walkers.select(near), paces[near], ahead[near]

    def cross(self) -> None:
        """Offer the points where the rays from the inputs through the nearest boundary points change class."""
        owners = self.estimates.isfinite().nonzero().flatten()
        if len(owners) > 0:
            cross(self.model, self.best, owners, self._images(self.feet[owners]), self.heights[owners])

    def _onto(self, walkers: Walkers, starts: Tensor, levels: Tensor) -> Tensor:
        """Return the points nearest to starts where the margins are at most levels, to first order."""
        planes = (walkers.gradients * walkers.places).sum(1) - walkers.margins + levels
        return onto_plane(starts, walkers.gradients, planes, self.task.bounds)

    def _beside(self, walkers: Walkers) -> Tensor:
        """Return the boundary points, to first order, that are nearest to the walkers, on whichever side these are."""
        sides = torch.where(walkers.margins > 0, 1.0, -1.0).to(walkers.margins)
        planes = (walkers.gradients * walkers.places).sum(1) - walkers.margins
        return onto_plane(walkers.places, sides[:, None] * walkers.gradients, sides * planes, self.task.bounds)

    def _images(self, rows: Tensor) -> Tensor:
        return rows.view(-1, *self.task.inputs.shape[1:])

    def _placed(self, places: Tensor, owners: Tensor, rivals: Tensor) -> Walkers:
        """Return new walkers."""
        nothing = torch.full_like(places[:, 0], math.inf)
        return self._moved_to(places, Walkers(owners, rivals, places, nothing, places, nothing))

    def _moved_to(self, places: Tensor, walkers: Walkers) -> Walkers:
        """Return walkers at other places, and note what they see from there."""
        if len(walkers) == 0:
            return walkers
        owners, rivals = walkers.owners, walkers.rivals

        def gaps_of(logits: Tensor, part: slice) -> Tensor:
            return self._gaps(logits, owners[part], rivals[part])

        logits, gaps, gradients = slopes(self.model, self._images(places), gaps_of)
        self.best.offer(self._images(places), owners, logits)
        gradients = gradients.flatten(1)
        ways = places - self.inputs[owners]
        falls = -(gradients * ways).sum(1)
        # where the ray from the input through the place meets the boundary, in units of the way so far
        shares = 1 + gaps / falls
        seen = torch.where((falls > 0) & ((shares - 1).abs() < VIEW), shares * lengths(ways, "l2"), math.inf)
        self._note(owners, rivals, self.inputs[owners] + shares[:, None] * ways, seen)
        return Walkers(owners, rivals, places, gaps, gradients, torch.minimum(walkers.estimates, seen))

    def _note(self, owners: Tensor, rivals: Tensor, feet: Tensor, seen: Tensor) -> None:
        """Keep the boundary points that are nearer than what was seen of the same samples before."""
        nearest = self.estimates.scatter_reduce(0, owners, seen, "amin")
        winners = (seen == nearest[owners]) & (seen < self.estimates[owners])
        self.feet[owners[winners]] = feet[winners]
        self.rivals[owners[winners]] = rivals[winners]
        self.estimates = nearest

    def _gaps(self, logits: Tensor, owners: Tensor, rivals: Tensor) -> Tensor:
        """Return by how much the rivals lag behind ``(M,)``, or the targets behind all others."""
        labels = self.task.labels[owners]
        if self.task.targets is not None:
            return margins(logits, labels, rivals)
        return (logits.gather(1, labels[:, None]) - logits.gather(1, rivals[:, None]))[:, 0]
