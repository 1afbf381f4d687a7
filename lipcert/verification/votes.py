"""The votes of views once more, and what they leave open where float32 cannot tell two classes apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.verification.views import Views

NUMBERS_AT_ONCE = 2**22
CLOSE = 2.0**-14  # of the largest logit: the deployed network passes such a view once more, alone
ALONE = 2.0**-17  # how far another order of the same float32 operations takes a view's logits, at most


@dataclass(frozen=True)
class Ballots:
    """The votes of all views of N images.

    Attributes:
        cast: ``(N, V, K)`` bool, classes that a view votes for, as it is computed here.
        possible: the same shape, classes that it votes for, or would if it were rounded otherwise.
        sure: the same shape, those that it votes for however it is rounded.
    """

    cast: Tensor
    possible: Tensor
    sure: Tensor

    @property
    def undecided(self) -> int:
        """Number of views whose vote hangs on rounding."""
        return int((self.possible != self.sure).any(2).sum())


def ballots_of(views: Views, inputs: Tensor, *, threshold: float | None) -> Ballots:
    """Return the votes of all views of images, each view passed by itself, many of them in a batch.

    A view whose classes are close is passed once more, alone, as the deployed network does. Where they are closer still
    another order of the same operations, on other hardware or of other software, may decide otherwise.

    Args:
        views: of images of this size.
        inputs: ``(N, C, H, W)`` float32.
        threshold: a view votes for every class with at least this probability; None: for its most likely class.
    """
    pairs = torch.cartesian_prod(torch.arange(len(inputs)), torch.arange(views.count))
    with torch.no_grad():
        logits = torch.cat([views.logits(inputs, *part.unbind(1)) for part in _batches(pairs, views.numbers)])
        possible, sure = _bounds(logits, threshold, CLOSE)
        for close in (possible != sure).any(1).nonzero().flatten().tolist():
            logits[close] = views.logits(inputs, *pairs[close : close + 1].unbind(1))[0]
    found = (_votes(logits, threshold), *_bounds(logits, threshold, ALONE))
    return Ballots(*(each.view(len(inputs), views.count, -1) for each in found))


def _batches(pairs: Tensor, numbers: int) -> Iterator[Tensor]:
    return iter(pairs.split(max(1, NUMBERS_AT_ONCE // numbers)))


def _votes(logits: Tensor, threshold: float | None) -> Tensor:
    """Return the votes ``(P, K)``: of several largest logits the first one's."""
    if threshold is not None:
        return logits.softmax(1) >= threshold
    return F.one_hot(logits.argmax(1), logits.shape[1]).bool()


def _bounds(logits: Tensor, threshold: float | None, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return the possible and the sure votes ``(P, K)`` of logits that are off by that share of the largest of them."""
    slack = tolerance * logits.abs().amax(1, keepdim=True)
    if threshold is not None:
        likely = logits.softmax(1) - threshold
        return likely >= -slack, likely > slack
    possible = logits >= logits.amax(1, keepdim=True) - slack
    return possible, possible & (possible.sum(1, keepdim=True) == 1)
