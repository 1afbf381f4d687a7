"""Networks that vote, as attacks see them: the votes themselves, with the slope of a soft vote."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lipcert.attacks.base import Attack, Findings
from lipcert.attacks.counting import CountedNetwork
from lipcert.attacks.task import Task
from lipcert.certificates import hard_votes, threshold_votes
from lipcert.errors import InputError

NUMBERS_AT_ONCE = 2**19  # of the views whose activations are kept for a gradient


@runtime_checkable
class Voting(Protocol):
    """A network that elects the class with the most votes of its views.

    Attributes:
        num_classes: K.
        threshold: a view votes for every class with at least this probability; None: for its most likely class.
    """

    num_classes: int
    threshold: float | None

    def count_views(self, inputs: Tensor) -> int:
        """Return V, how many views of such images vote."""

    def view_logits(self, inputs: Tensor) -> Tensor:
        """Return the logits ``(N, V, K)`` of all views, through which gradients flow."""


def voting_of(model: nn.Module) -> Voting:
    """Return the voting network that an attack was handed.

    Raises:
        InputError: it is no such network.
    """
    network = model.network if isinstance(model, CountedNetwork) else model
    if not isinstance(network, Voting):
        raise InputError(f"expected a network that votes over views, got {type(network).__name__}")
    return network


def ballots(logits: Tensor, threshold: float | None) -> Tensor:
    """Return the votes of views, 1 for every class that a view votes for, of the logits' type.

    Args:
        logits: ``(..., K)``.
        threshold: of the probability; None for one vote a view.

    Example:
        >>> [ballots(torch.tensor([[0.0, 2.0, 1.9]]), threshold).tolist() for threshold in (None, 0.4)]
        [[[0.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]]
    """
    if threshold is None:
        return F.one_hot(hard_votes(logits), logits.shape[-1]).to(logits)
    return threshold_votes(logits, threshold).to(logits)


def soft_ballots(logits: Tensor, threshold: float | None, temperature: Tensor | float) -> Tensor:
    r"""Return votes with a slope, which are those of :func:`ballots` in the limit of low temperature.

    .. math:: \mathrm{softmax}(z / T) \quad\text{or, with a threshold,}\quad \sigma((\log p - \log \theta) / T)

    Args:
        logits: ``(..., K)``.
        threshold: of the probability; None for one vote a view.
        temperature: above 0, broadcast against the logits.

    Example:
        >>> logits = torch.tensor([0.0, 2.0, 1.0])
        >>> [soft_ballots(logits, threshold, 1e-3).round().tolist() for threshold in (None, 0.2)]
        [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    """
    if threshold is None:
        return (logits / temperature).softmax(-1)
    return torch.sigmoid((logits.log_softmax(-1) - math.log(threshold)) / temperature)


def lags(logits: Tensor, classes: Tensor, threshold: float | None) -> Tensor:
    """Return what views lack to vote for a class, ``(M,)``, 0 where they do: it has a slope however far that is.

    Args:
        logits: ``(M, K)``.
        classes: ``(M,)`` int64.
        threshold: of the probability; None for one vote a view.

    Example:
        >>> lags(torch.tensor([[0.0, 9.0], [2.0, 1.0]]), torch.tensor([0, 0]), None).tolist()
        [9.0, 0.0]
    """
    if threshold is not None:
        return (math.log(threshold) - logits.log_softmax(1).gather(1, classes[:, None])[:, 0]).clamp_min(0)
    return (logits.amax(1) - logits.gather(1, classes[:, None])[:, 0]).clamp_min(0)


def in_order(counts: Tensor) -> Tensor:
    """Return counts ``(..., K)`` with less than half a vote taken off, so that the first of equal ones is the largest.

    Example:
        >>> in_order(torch.tensor([2.0, 2.0])).tolist()
        [2.0, 1.75]
    """
    classes = counts.shape[-1]
    return counts - torch.arange(classes, device=counts.device, dtype=counts.dtype) / (2 * classes)


def spread_of(logits: Tensor) -> Tensor:
    """Return the median gap ``(N, 1, 1)`` between the two largest logits of an image's views ``(N, V, K)``."""
    first, second = logits.detach().topk(2, dim=-1).values.unbind(-1)
    gap: Tensor = (first - second).median(1).values[:, None, None]
    return gap.clamp_min(torch.finfo(logits.dtype).eps)


class SoftVote(nn.Module):
    """A voting network with its own values and another's slope: attacks that follow gradients can be run on it.

    The outputs are the votes, equal ones put in their order; gradients are those of :func:`soft_ballots`. Images are
    rounded to a grid first if certificates are about images of that grid alone, and gradients pass through that.

    Args:
        model: a :class:`Voting` network, counted or not.
        grid: images are whole multiples of 1 / grid; None: they are not rounded.
        temperature: of the soft vote, in units of the median gap between the two largest logits of the views.

    Raises:
        InputError: the network does not vote.

    Source: replacing a step by a slope: Athalye, Carlini and Wagner (2018), arXiv 1802.00420, section 4.1.
    """

    def __init__(self, model: nn.Module, *, grid: int | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.voting = voting_of(model)
        self.grid = grid
        self.temperature = temperature
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return votes ``(N, K)`` with slopes."""
        if isinstance(self.model, CountedNetwork):
            return self.model.ask(lambda: self._votes(inputs), len(inputs))
        return self._votes(inputs)

    def _votes(self, inputs: Tensor) -> Tensor:
        parts = inputs.split(max(1, NUMBERS_AT_ONCE // max(1, self.voting.count_views(inputs) * inputs[0].numel())))
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            return torch.cat([self._part(part) for part in parts])
        # activations of all views of a batch would not fit: they are computed once more, part by part, going back
        return torch.cat([checkpoint(self._part, part, use_reentrant=False) for part in parts])

    def _part(self, inputs: Tensor) -> Tensor:
        shown = inputs if self.grid is None else _Rounded.apply(inputs, self.grid)  # type: ignore[no-untyped-call]
        logits = self.voting.view_logits(shown)
        votes = in_order(ballots(logits.detach(), self.voting.threshold).sum(1))
        if not logits.requires_grad:
            return votes
        natural = 1.0 if self.voting.threshold is not None else spread_of(logits)
        soft = soft_ballots(logits, self.voting.threshold, self.temperature * natural).sum(1)
        return votes + (soft - soft.detach())


class _Rounded(torch.autograd.Function):
    """Images on a grid, exactly; gradients pass."""

    @staticmethod
    def forward(context: object, images: Tensor, grid: int) -> Tensor:
        return on_grid(images, grid)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def on_grid(images: Tensor, grid: int) -> Tensor:
    """Return images rounded to whole multiples of 1 / grid, as their type has them.

    Example:
        >>> on_grid(torch.tensor([0.3, 1.0]), 255).mul(255).tolist()
        [76.0, 255.0]
    """
    return (images * grid).round() / grid


@dataclass(frozen=True)
class _OnVotes(Attack):
    """An attack on a network that votes, as :class:`SoftVote` shows it."""

    attack: Attack
    grid: int | None

    def run(self, model: nn.Module, task: Task) -> Findings:
        """Attack the soft vote; return what was found, on the grid."""
        found = self.attack.run(SoftVote(model, grid=self.grid), task)
        candidates, details = (found.candidates, found.details) if isinstance(found, Findings) else (found, {})
        if self.grid is not None:
            candidates = on_grid(candidates.detach(), self.grid)
        return Findings(candidates, details)

    def parameters(self) -> dict[str, int | float | str]:
        """Return the settings of the attack."""
        return self.attack.parameters()

    def forward_budget(self, samples: int) -> int | None:
        """Return the passes of the attack."""
        return self.attack.forward_budget(samples)


def on_votes(attack: Attack, *, grid: int | None = None) -> Attack:
    """Return an attack on networks that vote: the attack as it is, on the network as :class:`SoftVote` shows it.

    Candidates are rounded to the grid before anything is verified, which changes no vote that the search has seen.

    Args:
        attack: any attack; one that looks at views itself is returned as it is.
        grid: see there.

    Example:
        >>> from lipcert.attacks import FastMinimumNorm
        >>> on_votes(FastMinimumNorm(steps=9)).name, on_votes(FastMinimumNorm(steps=9)).parameters()["steps"]
        ('fmn', 9)
    """
    if attack.of_views:
        return attack
    facts = {
        "name": attack.name,
        "norms": attack.norms,
        "targeted": attack.targeted,
        "fixed_budget": attack.fixed_budget,
        "black_box": attack.black_box,
        "of_views": True,
        "__doc__": _OnVotes.__doc__,
    }
    kind: type[_OnVotes] = type("OnVotes", (_OnVotes,), facts)
    return kind(attack, grid)
