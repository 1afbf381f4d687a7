"""The Square attack: random squares, kept where they lower the margin; asks for logits, never for gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.evaluation import forward, margins
from lipcert.attacks.geometry import column, lengths, safe_size
from lipcert.attacks.randomness import sample_generators, uniform
from lipcert.attacks.task import Norm, Task
from lipcert.attacks.verify import fooled
from lipcert.attacks.windows import window
from lipcert.errors import InputError

AT_ONCE = 128  # questions whose random numbers are drawn together
TILES = 5  # a side, in the first L2 perturbation
HALVED_AT = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # shares of the questions after which areas halve


@dataclass(frozen=True)
class SquareAttack(Attack):
    r"""The Square attack: a random search over square patches of a perturbation that fills the whole budget.

    In the maximum norm a square of the image is set to :math:`x \pm \epsilon`, one sign a channel; in L2 the budget of
    one square is moved to another, in the shape of two opposite hills. A change is kept if the margin falls. The area
    of the squares is halved nine times on the way. A sample stops as soon as its class has changed.

    Unlike in the original, every sample has squares of its own, so that its result does not depend on its company.

    Args:
        queries: questions a sample at most.
        area: share of the image that the first squares cover.

    Raises:
        InputError: a setting is out of range, or inputs that are not images.

    Source: Andriushchenko, Croce, Flammarion and Hein (2020), arXiv 1912.00049, algorithms 1 to 3; the schedule is that
        of its authors' code.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> image = torch.tensor([0.75, 0.25]).view(1, 1, 1, 2)
        >>> outcome = SquareAttack(queries=50)(model, image, torch.tensor([0]), norm="linf", epsilon=0.3)
        >>> outcome.verified.success.item(), round(outcome.verified.distance.item(), 4)
        (True, 0.3)
    """

    name: ClassVar[str] = "square"
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    targeted: ClassVar[bool] = True
    fixed_budget: ClassVar[bool] = True
    black_box: ClassVar[bool] = True

    queries: int = 5000
    area: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise InputError(f"expected queries >= 1, got {self.queries}")
        if not 0 < self.area <= 1:
            raise InputError(f"expected area in (0, 1], got {self.area}")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the perturbed images that changed class; the inputs where none did."""
        if task.inputs.ndim != 4:
            raise InputError(f"expected images (N, C, H, W), got shape {tuple(task.inputs.shape)}")
        search = _Search(model, task)
        first = search.first_images()[: self.queries]
        for images in first:
            owners = search.going()
            search.ask(images[owners], owners)
        propose = _linf_proposal if task.norm == "linf" else _l2_proposal
        for number in range(self.queries - len(first)):
            owners = search.going()
            if len(owners) == 0:
                break
            side = _side(self.area, number / self.queries, task.inputs.shape)
            search.ask(propose(search, owners, side, search.numbers(number)[owners]), owners)
        return torch.where(column(search.hit, task.inputs), search.best, task.inputs)

    def forward_budget(self, samples: int) -> int:
        """Return the largest number of images pushed forward."""
        return samples * self.queries


class _Search:
    """The best images so far of every sample, by margin."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model = model
        self.task = task
        assert task.epsilon is not None
        self.epsilon = safe_size(task.epsilon, task.inputs, task.bounds, task.norm)
        self.generators = sample_generators(task)
        self.best = task.inputs.clone()
        self.margin = task.inputs.new_full((len(task.inputs),), math.inf)
        self.hit = torch.zeros_like(task.labels, dtype=torch.bool)
        self._block = task.inputs.new_zeros(0)

    def first_images(self) -> list[Tensor]:
        """Return what is asked about before the search: the input, a perturbation that fills the budget, the start."""
        task = self.task
        first = _stripes(self) if task.norm == "linf" else _tiles(self)
        if task.start is None:
            return [task.inputs, first]
        return [task.inputs, self.budgeted(task.start - task.inputs, largest=1.0), first]

    def going(self) -> Tensor:
        """Return the positions ``(M,)`` of the samples that have not changed class."""
        return (~self.hit).nonzero().flatten()

    def budgeted(self, delta: Tensor, *, largest: float = math.inf) -> Tensor:
        """Return images that differ by these perturbations, scaled to the budget by at most this factor."""
        scale = self.epsilon / lengths(delta, self.task.norm).clamp(min=torch.finfo(delta.dtype).tiny)
        return (self.task.inputs + column(scale.clamp(max=largest), delta) * delta).clamp(*self.task.bounds)

    def ask(self, images: Tensor, owners: Tensor) -> None:
        """Keep those of the images ``(M, C, H, W)`` whose margin is below that of the sample's best, or negative."""
        if len(owners) == 0:
            return
        logits = forward(self.model, images)
        labels = self.task.labels[owners]
        targets = None if self.task.targets is None else self.task.targets[owners]
        margin = margins(logits, labels, targets)
        usable = ~logits.isnan().any(1)
        hit = fooled(logits.argmax(1), labels, targets) & usable
        kept = hit | ((margin < self.margin[owners]) & usable)
        self.best[owners[kept]] = images[kept]
        self.margin[owners[kept]] = margin[kept].to(self.margin)
        self.hit[owners[hit]] = True

    def numbers(self, number: int) -> Tensor:
        """Return the uniform random numbers of one question: ``(N, 5 + C)``, those of all samples, going on or not."""
        if number % AT_ONCE == 0:
            self._block = uniform(self.generators, (AT_ONCE, 5 + self.best.shape[1]), self.best)
        return self._block[:, number % AT_ONCE]


def _side(area: float, progress: float, shape: Sequence[int]) -> int:
    """Return the side of the squares, in pixels."""
    share = area / 2 ** sum(progress > share for share in HALVED_AT)
    return min(max(round(math.sqrt(share * shape[2] * shape[3])), 1), shape[2], shape[3])


def _signs(numbers: Tensor) -> Tensor:
    return torch.where(numbers < 0.5, -1.0, 1.0).to(numbers)


def _stripes(search: _Search) -> Tensor:
    """Return images full of vertical stripes, the first of the maximum norm."""
    inputs = search.task.inputs
    noise = uniform(search.generators, (inputs.shape[1], 1, inputs.shape[3]), inputs)
    return (inputs + search.epsilon * _signs(noise)).clamp(*search.task.bounds)


def _linf_proposal(search: _Search, owners: Tensor, side: int, numbers: Tensor) -> Tensor:
    """Return images in which one square has other signs."""
    images, inputs = search.best[owners], search.task.inputs[owners]
    square = window(_corners(numbers[:, :2], side, inputs.shape), (side, side), inputs.shape[1])
    changed = inputs[square] + search.epsilon * _signs(numbers[:, 5:])[:, :, None, None]
    images[square] = changed.clamp(*search.task.bounds)
    return images


def _tiles(search: _Search) -> Tensor:
    """Return images covered with pairs of hills, the first of L2."""
    inputs = search.task.inputs
    channels, height, width = inputs.shape[1:]
    side = max(min(height, width) // TILES, 1)
    delta = torch.zeros_like(inputs)
    rows, columns = (range(size % side // 2, size - side + 1, side) for size in (height, width))
    numbers = uniform(search.generators, (len(rows) * len(columns), channels + 1), inputs)
    for tile, (top, left) in enumerate(itertools.product(rows, columns)):
        hills = _hills(side, numbers[:, tile, 0]) * _signs(numbers[:, tile, 1:])[:, :, None, None]
        delta[:, :, top : top + side, left : left + side] = hills
    return search.budgeted(delta)


def _l2_proposal(search: _Search, owners: Tensor, side: int, numbers: Tensor) -> Tensor:
    """Return images in which the budget of one square has moved to another."""
    inputs = search.task.inputs[owners]
    channels = inputs.shape[1]
    delta = search.best[owners] - inputs
    here = window(_corners(numbers[:, :2], side, inputs.shape), (side, side), channels)
    there = window(_corners(numbers[:, 2:4], side, inputs.shape), (side, side), channels)
    unused = (search.epsilon**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
    squares = delta.square()
    in_either = torch.zeros_like(delta)
    in_either[here], in_either[there] = squares[here], squares[there]
    available = (in_either.sum((2, 3), keepdim=True) + unused / channels).sqrt()
    hills = _hills(side, numbers[:, 4]) * _signs(numbers[:, 5:])[:, :, None, None]
    hills = _unit(hills + _unit(delta[here])) * available
    delta[there] = 0
    delta[here] = hills
    length = lengths(delta, "l2").clamp(min=torch.finfo(delta.dtype).tiny)
    return (inputs + column(search.epsilon / length, delta) * delta).clamp(*search.task.bounds)


def _unit(windows: Tensor) -> Tensor:
    """Return windows whose L2 norm is 1 in every channel, or 0."""
    return windows / windows.square().sum((2, 3), keepdim=True).sqrt().clamp(min=torch.finfo(windows.dtype).tiny)


def _corners(numbers: Tensor, side: int, shape: Sequence[int]) -> Tensor:
    """Return first rows and columns ``(M, 2)`` of squares within the image, from uniform numbers."""
    room = torch.tensor([shape[2] - side + 1, shape[3] - side + 1], device=numbers.device)
    return torch.minimum((numbers * room).long(), room - 1)


def _hills(side: int, numbers: Tensor) -> Tensor:
    """Return a hill beside an opposite one, lying or upright, of L2 norm 1: ``(M, 1, side, side)``."""
    pair = _pair_of_hills(side).to(numbers)
    return torch.where((numbers < 0.5)[:, None, None, None], pair, pair.T)


@lru_cache
def _pair_of_hills(side: int) -> Tensor:
    pair = torch.cat([_hill(side // 2, side), -_hill(side - side // 2, side)])
    return pair / pair.square().sum().sqrt()


def _hill(height: int, width: int) -> Tensor:
    r"""Return a square hill: at d rings from the top :math:`\sum_{k=1}^{n+1-d} k^{-2}`, n being the outermost ring."""
    rows, columns = (torch.arange(size) - size // 2 for size in (height, width))
    rings = torch.maximum(rows.abs()[:, None], columns.abs())
    outermost = max(height, width) // 2
    heights = torch.arange(1, outermost + 2, dtype=torch.float64).pow(-2).cumsum(0)
    hill: Tensor = heights[outermost - rings]
    return hill
