"""Patch certificates: a vote over ablated views that no patch of a size can change, wherever it lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.certificates.ablations import Ablation, Size
from lipcert.certificates.certificate import Certificate
from lipcert.certificates.votes import ELEMENTS_AT_ONCE, ranked_classes, vote_counts
from lipcert.errors import InputError

ASSUMPTIONS = (
    "Every view's votes are a function of the pixels that it retains and of nothing else: neither the other views of "
    "its batch, nor the batch's size, nor chance, nor statistics of the batch.",
    "The deployed classifier counts these very votes and elects the first among the classes with the most.",
    "A patch is one upright rectangle of whole pixels inside of the image, with any content; all else is unchanged.",
)
"""What has to hold beside the mathematics."""


def certify_patch(
    votes: Tensor,
    ablation: Ablation,
    image_size: tuple[int, int],
    patch: Size,
    *,
    num_classes: int | None = None,
) -> Tensor:
    r"""Return which images keep their class whatever a patch shows, wherever it lies.

    Let A be the set of the views that see the patch at some place, n the votes of all views, and :math:`n^A` those of
    A. Class c is certified if and only if for every place and every other class c'

    .. math:: n_c - n_c^A \geq n_{c'} - n_{c'}^A + |A| + [c' < c].

    The views outside of A vote as before. Those in A can do no worse than to take every vote from c and give one each
    to c': no view has more than one vote for a class. With hard votes one change does both, and with thresholds a view
    may vote for c' alone, so in terms of votes the rule is exact: where it fails, such votes elect another class. Ties
    count as in :func:`~lipcert.certificates.predict_votes`. It certifies all that :math:`n_c - n_{c'} \geq 2 \max |A| +
    [c' < c]` does, since :math:`n_c^A - n_{c'}^A \leq |A|`. Where A grows the condition only gets harder: of all places
    those with the largest sets are checked, and what withstands a patch withstands all smaller ones.

    Args:
        votes: ``(N, V)`` int64, one class a view; or ``(N, V, K)`` bool, any number of classes a view.
        ablation: which pixels each view retains, in the order of the votes.
        image_size: height and width.
        patch: its height and width.
        num_classes: K, needed where votes are classes.

    Returns:
        ``(N,)`` bool.

    Raises:
        InputError: a patch or a window larger than the images, votes of another form, or of another number of views.

    Source: rules of this kind: Levine and Feizi (2020), arXiv 2002.10733, theorem 1, which sets :math:`n_c^A -
        n_{c'}^A = |A|` and |A| to its maximum.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> votes = torch.tensor([[0, 0, 1] * 4])  # a lead of 4, where a pixel is seen by three views
        >>> [certify_patch(votes, ColumnAblation(3), (9, 12), side, num_classes=2).item() for side in (1, 2)]
        [True, False]
    """
    election = _Election.of(votes, ablation, image_size, num_classes)
    return election.withstands(patch, torch.arange(len(votes), device=votes.device))


def largest_certified_patch(
    votes: Tensor, ablation: Ablation, image_size: tuple[int, int], *, num_classes: int | None = None
) -> Tensor:
    """Return the side of the largest square patch that each image withstands, 0 if there is none.

    By bisection, see :func:`certify_patch`, which also says why smaller patches are withstood.

    Args:
        votes: ``(N, V)`` int64, one class a view; or ``(N, V, K)`` bool, any number of classes a view.
        ablation: which pixels each view retains, in the order of the votes.
        image_size: height and width.
        num_classes: K, needed where votes are classes.

    Returns:
        ``(N,)`` int64, in pixels.

    Raises:
        InputError: a window larger than the images, votes of another form, or of another number of views.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> votes = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 1]])
        >>> largest_certified_patch(votes, ColumnAblation(1), (6, 6), num_classes=2)
        tensor([3, 1, 0])
    """
    election = _Election.of(votes, ablation, image_size, num_classes)
    side = torch.zeros(len(votes), dtype=torch.int64, device=votes.device)
    undecided = [(0, min(image_size), torch.arange(len(votes), device=votes.device))]
    while undecided:
        low, high, images = undecided.pop()  # withstand low, and nothing above high
        if low == high or len(images) == 0:
            side[images] = low
            continue
        middle = (low + high + 1) // 2
        certified = election.withstands(middle, images)
        undecided += [(low, middle - 1, images[~certified]), (middle, high, images[certified])]
    return side


def patch_certificate(
    votes: Tensor,
    ablation: Ablation,
    image_size: tuple[int, int],
    *,
    num_classes: int | None = None,
    arithmetic: str = "float32",
) -> Certificate:
    """Return the elected classes and the sides of the largest patches that cannot change them, as a certificate.

    Args:
        votes: ``(N, V)`` int64, one class a view; or ``(N, V, K)`` bool, any number of classes a view.
        ablation: which pixels each view retains, in the order of the votes.
        image_size: height and width.
        num_classes: K, needed where votes are classes.
        arithmetic: type in which the votes were computed.

    Returns:
        A certificate of norm ``"patch"``: its radii are sides in pixels, and patches of that side are withstood.

    Raises:
        InputError: see :func:`largest_certified_patch`.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> found = patch_certificate(torch.tensor([[0, 0, 1, 0]]), ColumnAblation(1), (4, 4), num_classes=2)
        >>> found.prediction, found.radius
        (tensor([0]), tensor([1.], dtype=torch.float64))
    """
    election = _Election.of(votes, ablation, image_size, num_classes)
    side = largest_certified_patch(votes, ablation, image_size, num_classes=num_classes)
    return Certificate(
        election.ranking[:, 0], side.double(), "patch", "enumeration", math.inf, (), arithmetic, ASSUMPTIONS, grid=1
    )


@dataclass(frozen=True)
class _Election:
    """The votes of N images, and which classes could be elected instead.

    Attributes:
        votes: as they were handed in.
        ablation: of the views.
        image_size: height and width.
        ranking: ``(N, K)`` classes, the elected one first.
        lead: ``(N, K - 1)`` its lead over each of the others, in that order: never decreasing.
        rivals: ``(N,)`` how many of the others have votes: the first ones.
    """

    votes: Tensor
    ablation: Ablation
    image_size: tuple[int, int]
    ranking: Tensor
    lead: Tensor
    rivals: Tensor

    @classmethod
    def of(cls, votes: Tensor, ablation: Ablation, image_size: tuple[int, int], num_classes: int | None) -> _Election:
        """Return the election of checked votes."""
        views = len(ablation.windows(*image_size))
        counts = vote_counts(votes, num_classes=num_classes)
        if votes.shape[1] != views:
            raise InputError(f"expected the votes of all {views} views of the ablation, got {votes.shape[1]}")
        ranking, lead = ranked_classes(counts)
        return cls(votes, ablation, image_size, ranking, lead, (counts > 0).sum(1).sub(1).clamp_min(0))

    def withstands(self, patch: Size, images: Tensor) -> Tensor:
        """Return which of these images ``(M,)`` withstand a patch, ``(M,)`` bool."""
        hits = self.ablation.hits(*self.image_size, patch)
        in_rows, in_columns = (_largest_sets(each).to(images.device) for each in hits)
        places = torch.cartesian_prod(
            *(torch.arange(len(each), device=images.device) for each in (in_rows, in_columns))
        )
        certified = torch.ones_like(images, dtype=torch.bool)
        for chunk in places.split(max(1, ELEMENTS_AT_ONCE // in_rows.shape[1])):
            affected = in_rows[chunk[:, 0]] & in_columns[chunk[:, 1]]
            open_ = certified.nonzero().flatten()
            certified[open_] = self._survive(affected, images[open_])
        return certified

    def _survive(self, affected: Tensor, images: Tensor) -> Tensor:
        """Return which elected classes survive whatever each of these sets of views ``(S, V)`` votes, ``(M,)`` bool."""
        largest = max(affected.shape)
        parts = images.split(max(1, ELEMENTS_AT_ONCE // largest))
        reach = torch.cat([self._reach(affected, part) for part in parts])
        in_reach = (self.lead[images] < reach[:, None]).sum(1)
        # A class without votes has none to lose: if it is in reach of a set, that set elects it.
        survives = in_reach <= self.rivals[images]
        open_ = (survives & (in_reach > 0)).nonzero().flatten()
        open_ = open_[in_reach[open_].argsort()]  # like to like, as the largest number counts for all at once
        while len(open_):
            widest = int(in_reach[open_[-1]])
            open_, some = open_.tensor_split([-max(1, ELEMENTS_AT_ONCE // (largest * (widest + 1)))])
            survives[some] = self._outvotes(affected, images[some], widest)
        return survives

    def _reach(self, affected: Tensor, images: Tensor) -> Tensor:
        """Return the leads ``(M,)`` that are enough whichever votes the rivals lose: at most twice the largest set."""
        own = self._votes_for(self.ranking[images, :1], images)[:, 0]
        return (affected.float() @ own + affected.sum(1)[:, None]).amax(0)

    def _outvotes(self, affected: Tensor, images: Tensor, rivals: int) -> Tensor:
        """Return for which images ``(M,)`` the elected class outvotes so many rivals, whatever the sets vote."""
        classes = self.ranking[images, : rivals + 1]
        votes = self._votes_for(classes, images)
        comes_first = (classes < classes[:, :1]).T.float()
        kept = (~affected).float() @ votes.flatten(1)
        kept = kept.view(len(affected), *comes_first.shape) + comes_first
        return (kept[:, 0] - kept[:, 1:].amax(1) >= affected.sum(1)[:, None]).all(0)

    def _votes_for(self, classes: Tensor, images: Tensor) -> Tensor:
        """Return which views vote for these classes ``(M, R)`` of the images, ``(V, R, M)`` float32.

        Their sums are of ones, at most V of them: exact, also where products are rounded to a shorter type.
        """
        views = torch.arange(self.votes.shape[1], device=images.device)[:, None, None]
        if self.votes.ndim == 2:
            return (self.votes[images, views] == classes.T).float()
        return self.votes[images, views, classes.T].float()


def _largest_sets(sets: Tensor) -> Tensor:
    """Return those of the sets ``(S, V)`` bool that are not part of another one, each once."""
    distinct = sets.unique(dim=0)
    missing = distinct.double() @ (~distinct).double().T  # how much of one set another one lacks
    largest: Tensor = distinct[(missing == 0).sum(1) == 1]
    return largest
