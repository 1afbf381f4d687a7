"""The patch attack on a vote: place by place, with the slope of a soft vote, until enough views have turned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.attacks.base import Attack, Findings
from lipcert.attacks.counting import CountedNetwork
from lipcert.attacks.ddn import cosine
from lipcert.attacks.randomness import sample_generators, uniform
from lipcert.attacks.task import Norm, Task
from lipcert.attacks.votes import Voting, ballots, in_order, lags, soft_ballots, spread_of, voting_of
from lipcert.attacks.windows import window
from lipcert.certificates import Ablation
from lipcert.errors import InputError

FIRST_STEP = 0.5  # of the range of a pixel
LEAK = 0.01  # weight of what views lack to vote for the rival: where soft votes are flat, it alone has a slope
NUMBERS_AT_ONCE = 2**18  # of the views whose activations are kept for a gradient
TABLE_AT_ONCE = 2**22  # counts of votes, by image, place and class


@runtime_checkable
class VotingOnViews(Voting, Protocol):
    """A voting network whose views retain windows of the image, as :class:`~lipcert.networks.SmoothedNetwork` does."""

    ablation: Ablation

    def one_view_logits(self, inputs: Tensor, views: Tensor) -> Tensor:
        """Return the logits ``(M, K)`` of one view ``(M,)`` of each image."""


@dataclass(frozen=True)
class VotePatch(Attack):
    r"""A square patch against a vote over ablated views: of the certified side, or of so many pixels more.

    Let A be the views in which a patch at some place can be seen, told from their masks, n the clean votes and c the
    class to leave. Places are ranked by what is left to overcome if every view of A could be turned to a rival c',

    .. math:: \min_{c'} \; n_c - n_c^A - (n_{c'} - n_{c'}^A) - |A| - [c' < c],

    and, where that is equal, by what the slope of the soft vote promises there; of neighbouring places the best one is
    tried. At each place, and at random ones, the content descends the gap between the soft votes of c and c', and a
    little what views lack to vote for c', by signed gradient steps that shrink along a cosine. The views outside of A
    keep their votes and are not computed again. A sample is done as soon as the votes, counted as the network counts
    them, elect another class. No place is left out because a certificate says so: that is what is to be refuted.

    Args:
        first: pixels beyond the certified side that are tried first; without a certified radius the side itself.
        last: pixels beyond it that are tried last; sides above the image's, or above epsilon, are not.
        places: ranked places tried in an image, for each side.
        restarts: random places with random contents that are tried after them.
        steps: gradient steps at a place.
        temperature: of the soft vote: in units of the median gap between the two largest logits of the image's views,
            or, of votes with a threshold, of the logarithm of a probability.

    Raises:
        InputError: a setting is out of range; a network that does not vote over ablated views.

    Source: Levine and Feizi (2020), arXiv 2002.10733, for what is attacked; Brown et al. (2017), arXiv 1712.09665.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> from lipcert.networks import SmoothedNetwork
        >>> base = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 6, 2))
        >>> with torch.no_grad():
        ...     _ = base[1].weight.zero_(), base[1].bias.copy_(torch.tensor([0.5, 0.0]))
        ...     base[1].weight[1, :24] = 1.0  # class 1 where a view is bright
        >>> network = SmoothedNetwork(base, ColumnAblation(1), num_classes=2).eval()
        >>> inputs = torch.zeros(1, 1, 4, 6)
        >>> certified = network.certificate(inputs)  # of six views four must turn
        >>> outcome = VotePatch(last=2)(network, inputs, certified.prediction, norm="patch", radius=certified.radius)
        >>> certified.radius.item(), outcome.verified.distance.item()
        (3.0, 4.0)
    """

    name: ClassVar[str] = "vote-patch"
    norms: ClassVar[tuple[Norm, ...]] = ("patch",)
    of_views: ClassVar[bool] = True

    first: int = 0
    last: int = 1
    places: int = 4
    restarts: int = 2
    steps: int = 20
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for setting, least in (("first", 0), ("last", self.first), ("places", 1), ("restarts", 0), ("steps", 1)):
            if getattr(self, setting) < least:
                raise InputError(f"expected {setting} >= {least}, got {getattr(self, setting)}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"expected a finite temperature > 0, got {self.temperature:g}")

    def run(self, model: nn.Module, task: Task) -> Findings:
        """Return the images with patches that turned the vote, and where; the inputs where none did."""
        voting = voting_of(model)
        if not isinstance(model, CountedNetwork) or not isinstance(voting, VotingOnViews):
            raise InputError(f"expected a network that votes over ablated views, got {type(voting).__name__}")
        hunt = _Hunt(model, voting, task, self)
        certified = torch.zeros_like(task.labels) if task.radius is None else task.radius.long()
        limit = min(task.inputs.shape[2:])
        if task.epsilon is not None:
            limit = min(limit, math.floor(task.epsilon))
        for beyond in range(self.first, self.last + 1):
            sides = certified + beyond
            going = ~hunt.hit & (sides > 0) & (sides <= limit)
            for side in sides[going].unique().tolist():
                hunt.search((going & (sides == side)).nonzero().flatten(), side)
        return hunt.findings()


class _Hunt:
    """The patches found so far: ``found (N, C, H, W)``, ``hit (N,)``, and ``where (N, 3)``: row, column and side."""

    def __init__(self, model: CountedNetwork, voting: VotingOnViews, task: Task, attack: VotePatch) -> None:
        self.model, self.voting, self.task, self.attack = model, voting, task, attack
        self.generators = sample_generators(task)
        self.found = task.inputs.clone()
        self.hit = torch.zeros_like(task.labels, dtype=torch.bool)
        self.where = torch.zeros(len(task.labels), 3, dtype=torch.int64, device=task.labels.device)
        height, width = task.inputs.shape[2:]
        self.masks = voting.ablation.masks(height, width).to(task.inputs)
        with torch.no_grad():
            parts = task.inputs.split(max(1, NUMBERS_AT_ONCE // (len(self.masks) * task.inputs[0].numel())))
            logits = torch.cat([model.ask(partial(voting.view_logits, part), len(part)) for part in parts])
        natural = torch.ones_like(logits[:, :1, :1]) if voting.threshold is not None else spread_of(logits)
        self.temperature = attack.temperature * natural  # (N, 1, 1)
        self.votes = ballots(logits, voting.threshold)  # (N, V, K)
        self.soft = self._soften(logits, slice(None))

    def findings(self) -> Findings:
        """Return the images, and where their patches are."""
        said = {
            name: tuple(place[axis] if hit else None for place, hit in zip(self.where.tolist(), self.hit, strict=True))
            for axis, name in enumerate(("row", "column", "side"))
        }
        return Findings(self.found, said)

    def search(self, owners: Tensor, side: int) -> None:
        """Try patches of a side on some samples ``(M,)``."""
        sees = F.max_pool2d(self.masks[None], side, stride=1)[0]  # (V, rows, columns)
        parts = owners.split(max(1, TABLE_AT_ONCE // (sees[0].numel() * self.votes.shape[2])))
        for part in parts:
            places, rivals = self._ranked(part, sees, side)
            for number in range(places.shape[1]):
                left = (~self.hit[part]).nonzero().flatten()
                if len(left) == 0:
                    break
                corners = torch.stack([places[left, number] // sees.shape[2], places[left, number] % sees.shape[2]], 1)
                affected = sees.flatten(1).T[places[left, number]] > 0
                at_random = number >= self.attack.places
                self._descend(part[left], corners, affected, rivals[left, number], side=side, at_random=at_random)

    def _ranked(self, owners: Tensor, sees: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return places to try ``(M, T)``, numbered row by row, the random ones last, and the rivals to head for."""
        labels, votes = self.task.labels[owners], self.votes[owners]
        affected = sees.flatten(1)  # (V, L)
        outside = in_order(votes.sum(1)[:, None] - torch.einsum("vl,mvk->mlk", affected, votes))
        lead = outside.gather(2, labels[:, None, None].expand(-1, outside.shape[1], 1)) - outside
        lead = lead.scatter(2, labels[:, None, None].expand(-1, outside.shape[1], 1), math.inf)
        need, rivals = lead.min(2)
        need = need - affected.sum(0)
        promise = self._promise(owners, rivals.gather(1, need.argmin(1, keepdim=True))[:, 0], side).flatten(1)
        scores = need - 0.5 * promise / promise.amax(1, keepdim=True).clamp_min(torch.finfo(promise.dtype).tiny)
        places = (
            self._peaks(scores.view(-1, *sees.shape[1:]), side).topk(min(self.attack.places, scores.shape[1])).indices
        )
        if self.attack.restarts:
            numbers = uniform([self.generators[i] for i in owners.tolist()], (self.attack.restarts,), scores)
            places = torch.cat([places, (numbers * scores.shape[1]).long().clamp_max(scores.shape[1] - 1)], 1)
        return places, rivals.gather(1, places)

    def _peaks(self, scores: Tensor, side: int) -> Tensor:
        """Return how promising places ``(M, L)`` are; those beside a better one come after all that are not."""
        reach = side // 2
        lowest = -F.max_pool2d(-scores[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
        beside = (scores > lowest).to(scores) * (scores.amax() - scores.amin() + 1)
        return -(scores + beside).flatten(1)

    def _promise(self, owners: Tensor, rivals: Tensor, side: int) -> Tensor:
        """Return by how much patches would lower the gap of soft votes, were these linear: ``(M, rows, columns)``."""
        low, high = self.task.bounds
        inputs, labels = self.task.inputs[owners], self.task.labels[owners]
        gradients = []
        for part in torch.arange(len(owners)).split(max(1, NUMBERS_AT_ONCE // (len(self.masks) * inputs[0].numel()))):
            leaf = inputs[part].clone().requires_grad_()
            logits = self.model.ask(partial(self.voting.view_logits, leaf), len(part))
            soft = self._soften(logits, owners[part]).sum(1)
            gap = soft.gather(1, labels[part, None]) - soft.gather(1, rivals[part, None])
            gradients.append(torch.autograd.grad(gap.sum(), leaf)[0] if gap.requires_grad else torch.zeros_like(leaf))
        gradient = torch.cat(gradients).nan_to_num(0.0, posinf=0.0, neginf=0.0)
        gains = torch.maximum(gradient * (inputs - low), gradient * (inputs - high)).sum(1, keepdim=True)
        return F.avg_pool2d(gains, side, stride=1)[:, 0]

    def _descend(
        self, owners: Tensor, corners: Tensor, affected: Tensor, rivals: Tensor, *, side: int, at_random: bool
    ) -> None:
        """Search for the contents of one patch for each of these samples ``(M,)``, part by part."""
        numbers = self.task.inputs[0].numel() * int(affected.sum(1).max())
        for part in torch.arange(len(owners), device=owners.device).split(max(1, NUMBERS_AT_ONCE // max(1, numbers))):
            _Contents(self, owners[part], corners[part], affected[part], rivals[part], side).descend(at_random)

    def _soften(self, logits: Tensor, owners: Tensor | slice) -> Tensor:
        """Return the soft votes of views ``(M, ..., K)`` of these samples."""
        temperature = self.temperature[owners].view(-1, *[1] * (logits.ndim - 1))
        return soft_ballots(logits, self.voting.threshold, temperature)


class _Contents:
    """Patches at one place of each of M samples, and the views ``(Q,)`` that see them."""

    def __init__(
        self, hunt: _Hunt, owners: Tensor, corners: Tensor, affected: Tensor, rivals: Tensor, side: int
    ) -> None:
        self.hunt, self.owners, self.corners, self.rivals, self.side = hunt, owners, corners, rivals, side
        self.inputs, self.labels = hunt.task.inputs[owners], hunt.task.labels[owners]
        self.index = window(corners, (side, side), self.inputs.shape[1])
        self.rows, self.views = affected.nonzero(as_tuple=True)
        unseen = (~affected)[:, :, None].to(hunt.votes)
        self.hard_outside, self.soft_outside = ((kind[owners] * unseen).sum(1) for kind in (hunt.votes, hunt.soft))

    def descend(self, at_random: bool) -> None:
        """Take gradient steps from the clean content, or a random one, until the vote has turned."""
        low, high = self.hunt.task.bounds
        content = self.inputs[self.index]
        if at_random:
            generators = [self.hunt.generators[i] for i in self.owners.tolist()]
            content = (low + (high - low) * uniform(generators, content.shape[1:], content)).clamp(low, high)
        going = torch.ones_like(self.labels, dtype=torch.bool)
        steps = self.hunt.attack.steps
        for step in range(steps + 1):
            images, turned, uphill = self._look(content, going)
            hit = going & turned
            self._keep(hit, images)
            going &= ~hit
            if step == steps or not bool(going.any()):
                return
            length = FIRST_STEP * (high - low) * cosine(step, steps, 0.04)
            content = (content - length * uphill.sign()).clamp(low, high)

    def _look(self, content: Tensor, going: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the patched images, which votes have turned, and the gradients of the gaps."""
        hunt, voting = self.hunt, self.hunt.voting
        chosen = going[self.rows].nonzero().flatten()
        rows, views = self.rows[chosen], self.views[chosen]
        leaf = content.clone().requires_grad_()
        images = self.inputs.index_put(self.index, leaf)
        passes = -(-len(rows) // len(hunt.masks))
        if len(rows) == 0:  # no view sees any of these patches
            return images.detach(), torch.zeros_like(going), torch.zeros_like(content)
        logits = hunt.model.ask(lambda: voting.one_view_logits(images[rows], views), passes)
        soft = hunt._soften(logits, self.owners[rows])
        hard = ballots(logits.detach(), voting.threshold)
        counts = in_order(self.hard_outside.index_add(0, rows, hard))
        total = self.soft_outside.index_add(0, rows, soft)
        gap = total.gather(1, self.labels[:, None]) - total.gather(1, self.rivals[:, None])
        lag = lags(logits, self.rivals[rows], voting.threshold) / hunt.temperature[self.owners[rows]].flatten()
        height = gap.sum() + LEAK * lag.sum()
        uphill = torch.zeros_like(content)
        if height.requires_grad:
            (uphill,) = torch.autograd.grad(height, leaf)
        return images.detach(), counts.argmax(1) != self.labels, uphill.nan_to_num(0.0, posinf=0.0, neginf=0.0)

    def _keep(self, hit: Tensor, images: Tensor) -> None:
        owners = self.owners[hit]
        self.hunt.found[owners], self.hunt.hit[owners] = images[hit], True
        side = torch.full_like(self.corners[hit, :1], self.side)
        self.hunt.where[owners] = torch.cat([self.corners[hit], side], 1)
