"""Elections counted once more: whether a class is elected whatever an adversary makes of some views."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Recount = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether each of N classes is elected, whatever an adversary does, who does nothing in 0 steps: ``(N,)`` bool.

Of own votes ``(N, V)`` bool, votes for all other classes ``(N, V, K)`` bool, the classes ``(N,)`` int64, and steps
``(N,)`` int64.
"""


class PatchRecount:
    """Patches of ``steps`` by ``steps`` pixels, at every place by itself.

    Args:
        masks: ``(V, H, W)`` bool, the pixels that each view retains.

    Example:
        >>> count = PatchRecount(torch.eye(6, dtype=torch.bool)[:, None].expand(6, 6, 6))  # a column each
        >>> votes = F.one_hot(torch.tensor([[0, 0, 1, 0, 0, 1]]), 2).bool()
        >>> [count(votes[..., 0], votes, torch.tensor([0]), torch.tensor([side])).item() for side in (0, 1, 2)]
        [True, True, False]
    """

    def __init__(self, masks: Tensor) -> None:
        self._masks = masks
        self._touched: dict[int, Tensor] = {}

    def __call__(self, own: Tensor, votes: Tensor, classes: Tensor, steps: Tensor) -> Tensor:
        """Return which classes stay elected, see :data:`Recount`; no patch is larger than the images."""
        stays = torch.zeros(len(own), dtype=torch.bool)
        for side in steps.unique().tolist():
            some = (steps == side).nonzero().flatten()
            stays[some] = self._stay(own[some], votes[some], classes[some], self._sets(side))
        return stays

    def _stay(self, own: Tensor, votes: Tensor, classes: Tensor, touched: Tensor) -> Tensor:
        """Views that are touched vote for the worst class, one vote each; all others vote as they do."""
        left = (~touched).double()
        mine = own.double() @ left.T
        theirs = torch.einsum("nvk,sv->nsk", votes.double(), left) + touched.sum(1)[:, None]
        return _ahead(mine, theirs, classes).all(1)

    def _sets(self, side: int) -> Tensor:
        """The views ``(S, V)`` bool that see a pixel of a patch, by its place; equal ones once."""
        if side not in self._touched:
            count, height, width = self._masks.shape
            if side > min(height, width):
                self._touched[side] = torch.ones(1, count, dtype=torch.bool)
            elif side == 0:
                self._touched[side] = torch.zeros(1, count, dtype=torch.bool)
            else:
                seen = F.max_pool2d(self._masks.float()[None], side, stride=1)[0] > 0
                self._touched[side] = seen.flatten(1).T.unique(dim=0)
        return self._touched[side]


def l1_recount(own: Tensor, votes: Tensor, classes: Tensor, steps: Tensor) -> Tensor:
    """Return which classes stay elected, see :data:`Recount`, if a step, one grey level, turns one view at most.

    Example:
        >>> votes = F.one_hot(torch.tensor([[1, 1, 1, 1, 1, 0, 0]]), 2).bool()
        >>> [l1_recount(votes[..., 1], votes, torch.tensor([1]), torch.tensor([k])).item() for k in (0, 1, 2)]
        [True, True, False]
    """
    mine = own.sum(1)[:, None] - steps[:, None]
    theirs = (votes.sum(1) + steps[:, None])[:, None]
    return _ahead(mine, theirs, classes).all(1)


def _ahead(mine: Tensor, theirs: Tensor, classes: Tensor) -> Tensor:
    """Whether ``mine (N, S)`` are at least ``theirs (N, S, K)``, more than those of classes that come first."""
    others = torch.arange(theirs.shape[2])
    needed = theirs + (others < classes[:, None])[:, None]
    return ((mine[:, :, None] >= needed) | (others == classes[:, None])[:, None]).all(2)
