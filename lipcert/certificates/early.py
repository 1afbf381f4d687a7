"""When some of the votes are enough to know what all of them would say about a patch."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.certificates.ablations import Ablation, Size
from lipcert.certificates.votes import ranked_classes, vote_counts

ELEMENTS_AT_ONCE = 2**24  # of the largest tensor


def affected_sets(ablation: Ablation, image_size: tuple[int, int], patch: Size) -> Tensor:
    """Return the sets of views that a patch can touch, each once, ``(L, V)`` bool.

    Raises:
        InputError: a window or the patch is larger than the images.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> affected_sets(ColumnAblation(1), (4, 4), 2).int().tolist()
        [[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]]
    """
    distinct: Tensor = ablation.affected(*image_size, patch).unique(dim=0)
    return distinct


def decide(votes: Tensor, views: Tensor, affected: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return what some views' votes say of the election by all views and of its certificate, and where that is final.

    Let S be the views that have voted and U those that have not, A the views that see a patch, c the class that leads,
    and :math:`g_A = \min_{c'} (n_c^{S \setminus A} - n_{c'}^{S \setminus A} - [c' < c])`. The votes of U can at worst
    go to c', and at best to c:

    - c is elected and certified if :math:`g_A \geq |A \cup U|` for all A;
    - c is elected if :math:`n_c^S - n_{c'}^S \geq |U| + [c' < c]` for all c';
    - if elected, it is not certified if :math:`g_A + |U \setminus A| < |A|` for some A.

    With all votes this is :func:`~lipcert.certificates.certify_patch`, and everything is final.

    Args:
        votes: ``(N, S)`` int64, one class a view; or ``(N, S, K)`` bool, any number of classes a view.
        views: ``(S,)`` int64, which views these are.
        affected: ``(L, V)`` bool, the sets A, see :func:`affected_sets`.
        num_classes: K.

    Returns:
        ``(N,)`` int64 leading classes, ``(N,)`` bool whether they are certified, and ``(N,)`` bool where class and
        certificate are what all votes give, whatever the others are.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> sets = affected_sets(ColumnAblation(1), (6, 6), 1)
        >>> decide(torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]]), torch.arange(4), sets, num_classes=2)
        (tensor([0, 0]), tensor([ True, False]), tensor([ True, False]))
    """
    known = torch.zeros(affected.shape[1], dtype=torch.bool, device=affected.device)
    known[views] = True
    unknown = int((~known).sum())
    ranking, lead = ranked_classes(vote_counts(votes, num_classes=num_classes))
    elected = lead[:, 0] >= unknown
    sizes = affected.sum(1)
    outside = (~affected & ~known).sum(1)  # U \ A
    seen = (affected & known).sum(1)
    classes = torch.arange(num_classes, device=votes.device)
    certified, refused = [], []
    at_once = max(1, ELEMENTS_AT_ONCE // (len(affected) * num_classes))
    for part, leading in zip(votes.split(at_once), ranking[:, 0].split(at_once), strict=True):
        each = part if part.dtype == torch.bool else part[:, :, None] == classes
        kept = (~affected[:, views]).float() @ each.float().transpose(0, 1).flatten(1)
        kept = kept.view(len(affected), len(part), num_classes) + (classes < leading[:, None]).float()
        rivals = kept.scatter(2, leading.expand(len(affected), -1)[:, :, None], -torch.inf).amax(2)
        gap = kept.gather(2, leading.expand(len(affected), -1)[:, :, None])[:, :, 0] - rivals
        certified.append((gap >= (seen + unknown)[:, None]).all(0))
        refused.append((gap + outside[:, None] < sizes[:, None]).any(0))
    is_certified = torch.cat(certified)
    return ranking[:, 0], is_certified, is_certified | (elected & torch.cat(refused))
