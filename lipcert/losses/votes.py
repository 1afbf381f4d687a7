"""The loss of a vote's certificate itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.certificates.votes import checked_threshold
from lipcert.errors import InputError
from lipcert.losses.arguments import not_negative, positive


class CertifiedVoteLoss(nn.Module):
    r"""A smooth version of the share of images whose vote a patch can change.

    With threshold t a view votes for every class of at least that probability, softly with

    .. math:: s_{vc} = \sigma\big(\beta\, (\log p_{vc} - \log t)\big)

    and without one by the softmax of :math:`\beta` times its logits. Let A be the set of the views that see the patch
    at some place. The gap that is left of class y's lead, when all of A vote against it, and the lead itself are

    .. math:: \rho = \min_{A,\, c \neq y} \sum_{v \notin A} (s_{vy} - s_{vc}) - |A|, \qquad
        g = \min_{c \neq y} \sum_v (s_{vy} - s_{vc})

    and the loss is the mean of :math:`\sigma(-\rho / \tau) + w\, \sigma(-g / \tau)`. As :math:`\beta` and then
    :math:`1 / \tau` grow, it goes to the share of images that are not certified for their class, see
    :func:`~lipcert.certificates.certify_patch`, plus w times the share of wrong ones, ties apart. Images far from a
    certificate have no gradient.

    Args:
        threshold: t, as that of the :class:`~lipcert.networks.SmoothedNetwork`; None for one vote a view.
        sharpness: beta.
        temperature: tau, in votes.
        clean: w, what a right answer without a certificate is worth.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> logits = torch.tensor([[[9.0, -9.0]] * 6, [[-9.0, 9.0]] * 6])  # six views, all of the same opinion
        >>> affected = torch.eye(6).bool()
        >>> CertifiedVoteLoss(temperature=0.1)(logits, torch.tensor([0, 0]), affected)
        tensor(0.5500)
    """

    def __init__(
        self,
        threshold: float | None = None,
        *,
        sharpness: float = 4.0,
        temperature: float = 2.0,
        clean: float = 0.1,
    ) -> None:
        super().__init__()
        self.threshold = None if threshold is None else checked_threshold(threshold)
        self.sharpness = positive("sharpness", sharpness)
        self.temperature = positive("temperature", temperature)
        self.clean = not_negative("clean", clean)

    def forward(self, logits: Tensor, targets: Tensor, affected: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            logits: ``(N, V, K)`` of all views.
            targets: ``(N,)`` classes.
            affected: ``(L, V)`` bool, the sets A, see :func:`~lipcert.certificates.early.affected_sets`.

        Raises:
            InputError: logits of another shape, or of other views.
        """
        certified, clean = self.gaps(logits, targets, affected)
        loss = torch.sigmoid(-certified / self.temperature) + self.clean * torch.sigmoid(-clean / self.temperature)
        return loss.mean()

    def gaps(self, logits: Tensor, targets: Tensor, affected: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is left of each true class's lead against a patch, and that lead, ``(N,)`` in soft votes each."""
        if logits.ndim != 3 or logits.shape[2] < 2 or logits.shape[1] != affected.shape[1]:
            expected = f"(N, {affected.shape[1]}, K) with at least 2 classes"
            raise InputError(f"expected logits of shape {expected}, got {tuple(logits.shape)}")
        votes = self.soft_votes(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)
        true = targets[:, None, None]
        ahead = votes.gather(2, true.expand(-1, votes.shape[1], 1)) - votes  # (N, V, K)
        left = (~affected).to(ahead) @ ahead - affected.sum(1)[:, None]  # (N, L, K)
        left = left.scatter(2, true.expand(-1, left.shape[1], 1), math.inf)
        lead = ahead.sum(1).scatter(1, targets[:, None], math.inf)
        return left.flatten(1).amin(1), lead.amin(1)

    def soft_votes(self, logits: Tensor) -> Tensor:
        """Return how far each view votes for each class, ``(N, V, K)`` in [0, 1]."""
        if self.threshold is None:
            return (self.sharpness * logits).softmax(2)
        return torch.sigmoid(self.sharpness * (logits.log_softmax(2) - math.log(self.threshold)))
