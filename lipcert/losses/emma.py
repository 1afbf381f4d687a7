"""Training against the largest logits that rivals could reach."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.losses.arguments import logits_and_classes, not_negative, share
from lipcert.losses.pairs import PairwiseLoss, rival_bounds, rival_radii

SMALLEST_SHARE = 0.01


class EMMA(PairwiseLoss):
    r"""A loss of the logits after each rival has gained what a perturbation could give it, at most up to a tie.

    .. math:: \ell(f + \Delta, y), \qquad \Delta_j = \epsilon\, a_j L_{yj}, \qquad
        a_j = \mathrm{clip}\left(\frac{f_y - f_j}{\epsilon L_{yj}},\ 0.01,\ 1\right), \qquad \Delta_y = 0

    The share a is a constant for the gradient: a rival within the budget is raised to a tie and pushed down from there,
    one beyond it gains :math:`\epsilon L_{yj}`, one that is ahead already next to nothing. Epsilon 0 is the inner loss
    itself; logits of samples certified at epsilon are shifted by the whole budget.

    The budget grows linearly with :attr:`~lipcert.losses.PairwiseLoss.progress`, from ``start`` times epsilon at 0 to
    epsilon at ``ramp``.

    Args:
        epsilon: the budget at the end of the ramp, in units of the input.
        inner: the loss of the shifted logits, called with the targets as they come; by default the cross-entropy.
        start: share of epsilon with which training starts.
        ramp: share of the training at which epsilon is reached; 0 for a constant budget.

    Raises:
        InputError: epsilon below 0, or a share outside of [0, 1].

    Source: Hu et al. (2023), arXiv 2301.12549.

    Example:
        >>> import torch
        >>> loss = EMMA(0.5)
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.full((2, 2), 2.0))  # a tie
        tensor(0.6931)
    """

    def __init__(
        self, epsilon: float, inner: nn.Module | None = None, *, start: float = 0.0, ramp: float = 0.5
    ) -> None:
        super().__init__()
        self.epsilon = not_negative("epsilon", epsilon)
        self.inner = inner
        self.start = share("start", start)
        self.ramp = share("ramp", ramp)

    @property
    def present_epsilon(self) -> float:
        """The budget at the present progress."""
        grown = 1.0 if self.progress >= self.ramp else max(self.progress, 0.0) / self.ramp
        return self.epsilon * (self.start + (1 - self.start) * grown)

    def forward(self, logits: Tensor, targets: Tensor, pair_bounds: Tensor | None = None) -> Tensor:
        """Return the mean loss of ``(N, K)`` logits given ``(K, K)`` bounds."""
        logits, classes = logits_and_classes(logits, targets)
        bounds = rival_bounds(pair_bounds, logits, classes)
        budget = self.present_epsilon
        reached = rival_radii(logits, classes, bounds).detach().clamp(SMALLEST_SHARE * budget, budget)
        shifted = logits + (reached * bounds).scatter(1, classes[:, None], 0)
        if self.inner is None:
            return F.cross_entropy(shifted, classes)
        return self.inner(shifted, targets)  # type: ignore[no-any-return]
