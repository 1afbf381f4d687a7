"""Votes of the views of an image, and the class that they elect."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.errors import InputError

ELEMENTS_AT_ONCE = 2**22  # of the largest tensor: 16 MiB in float32, about what caches hold


def hard_votes(logits: Tensor) -> Tensor:
    """Return one vote a view: its most likely class, the first of several.

    Args:
        logits: ``(N, V, K)``.

    Returns:
        ``(N, V)`` int64.

    Example:
        >>> hard_votes(torch.tensor([[[0.0, 2.0, 1.0], [3.0, 3.0, 1.0]]]))
        tensor([[1, 0]])
    """
    return logits.argmax(-1)


def threshold_votes(logits: Tensor, threshold: float) -> Tensor:
    """Return a vote for every class whose probability is at least the threshold: several in a view, or none.

    Args:
        logits: ``(N, V, K)``.
        threshold: above 0, at most 1.

    Returns:
        ``(N, V, K)`` bool.

    Raises:
        InputError: the threshold is out of range.

    Source: Levine and Feizi (2020), arXiv 2002.10733, section 3.

    Example:
        >>> threshold_votes(torch.tensor([[[0.0, 0.0, -9.0], [0.1, 0.0, 0.0]]]), 0.4).int().tolist()
        [[[1, 1, 0], [0, 0, 0]]]
    """
    return logits.softmax(-1) >= checked_threshold(threshold)


def checked_threshold(threshold: float) -> float:
    """Return the probability at which a view votes for a class.

    Raises:
        InputError: it is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"expected a threshold above 0 and at most 1, got {threshold:g}")
    return threshold


def vote_counts(votes: Tensor, *, num_classes: int | None = None) -> Tensor:
    """Return how many views vote for each class.

    Args:
        votes: ``(N, V)`` int64, one class a view; or ``(N, V, K)`` bool, any number of classes a view.
        num_classes: K, at least 2; votes of the second kind tell it themselves.

    Returns:
        ``(N, K)`` int64.

    Raises:
        InputError: votes of another form, a class out of range, or a number of classes that is missing or wrong.

    Example:
        >>> vote_counts(torch.tensor([[2, 0, 2]]), num_classes=4)
        tensor([[1, 0, 2, 0]])
    """
    classes = _number_of_classes(votes, num_classes)
    if votes.dtype == torch.bool:  # sums of bool are formed in int64, eight times as large, and slowly
        parts = votes.split(max(1, ELEMENTS_AT_ONCE // max(1, votes[:1].numel())))
        return torch.cat([part.int().sum(1, dtype=torch.int32) for part in parts]).long()
    counts = torch.zeros(len(votes), classes, dtype=torch.int64, device=votes.device)
    return counts.scatter_add_(1, votes, torch.ones_like(votes))


def predict_votes(counts: Tensor) -> Tensor:
    """Return the elected classes: the first among those with the most votes. Certificates use this very rule.

    Args:
        counts: ``(N, K)`` int64, see :func:`vote_counts`.

    Returns:
        ``(N,)`` int64.

    Example:
        >>> predict_votes(torch.tensor([[1, 3, 3], [0, 0, 0]]))
        tensor([1, 0])
    """
    return _order(counts).argmax(1)


def ranked_classes(counts: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the classes from the elected one down, and by how many votes it is ahead of each of the others.

    .. math:: \ell_{c'} = n_c - n_{c'} - [c' < c]

    Class c is elected against c' if and only if the lead is not negative; a vote that moves from c to c' lowers it by
    2. Leads do not decrease along the ranking.

    Args:
        counts: ``(N, K)`` int64.

    Returns:
        Classes ``(N, K)`` int64 and leads ``(N, K - 1)`` int64 over all but the first of them.

    Example:
        >>> ranking, lead = ranked_classes(torch.tensor([[2, 6, 2, 0]]))
        >>> ranking.tolist(), lead.tolist()
        ([[1, 0, 2, 3]], [[3, 4, 6]])
    """
    ranking = _order(counts).argsort(dim=1, descending=True)
    ranked = counts.gather(1, ranking)
    comes_first = ranking[:, 1:] < ranking[:, :1]
    return ranking, ranked[:, :1] - ranked[:, 1:] - comes_first.long()


def _order(counts: Tensor) -> Tensor:
    """Return numbers that are ordered as the classes of an image are elected, no two of them equal."""
    classes = counts.shape[1]
    return counts * classes + torch.arange(classes - 1, -1, -1, device=counts.device)


def _number_of_classes(votes: Tensor, num_classes: int | None) -> int:
    if votes.dtype == torch.bool and votes.ndim == 3:
        classes = votes.shape[2]
        if num_classes not in (None, classes):
            raise InputError(f"expected votes for {num_classes} classes, got votes for {classes}")
    elif votes.dtype == torch.int64 and votes.ndim == 2:
        if num_classes is None:
            raise InputError("expected num_classes beside votes for one class a view, got None")
        classes = num_classes
        if votes.numel() and (votes.min() < 0 or votes.max() >= classes):
            found = f"{votes.min().item()} to {votes.max().item()}"
            raise InputError(f"expected votes for classes from 0 to {classes - 1}, got {found}")
    else:
        found = f"{votes.dtype} of shape {tuple(votes.shape)}"
        raise InputError(f"expected votes (N, V) of type int64 or (N, V, K) of type bool, got {found}")
    if classes < 2:
        raise InputError(f"expected at least 2 classes, got {classes}")
    return classes
