"""Losses of the certified radius itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.errors import InputError
from lipcert.losses.arguments import logits_and_classes, not_negative, positive, share
from lipcert.losses.pairs import PairwiseLoss, rival_bounds, rival_radii


class CertificateRegularised(PairwiseLoss):
    r"""Cross-entropy less a multiple of the certified radius.

    .. math:: \mathrm{CE}(f(x), y) - \gamma\, (\rho)_+, \qquad \rho = \min_{j \neq y} \frac{f_y - f_j}{L_{yj}}

    Gamma 0 is the cross-entropy, and so is a batch without a right answer. Not bounded from below.

    Args:
        gamma: reward of one unit of radius.

    Raises:
        InputError: gamma below 0.

    Source: Singla et al. (2022), arXiv 2108.04062.

    Example:
        >>> loss = CertificateRegularised(1.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), torch.full((2, 2), 2.0))
        tensor(-0.8731)
    """

    def __init__(self, gamma: float = 0.5) -> None:
        super().__init__()
        self.gamma = not_negative("gamma", gamma)

    def forward(self, logits: Tensor, targets: Tensor, pair_bounds: Tensor | None = None) -> Tensor:
        """Return the mean loss of ``(N, K)`` logits given ``(K, K)`` bounds."""
        logits, classes = logits_and_classes(logits, targets)
        radii = rival_radii(logits, classes, rival_bounds(pair_bounds, logits, classes))
        return F.cross_entropy(logits, classes) - self.gamma * radii.amin(1).relu().mean()


class CertifiedRadiusLoss(PairwiseLoss):
    r"""A smooth version of what certification leaves to be desired between two radii.

    Let :math:`\rho_j = (f_y - f_j) / L_{yj}` be the signed distance to rival j and :math:`\rho` the smallest of them,
    the certified radius of a right answer. The softened hinge below a radius t is

    .. math:: h_t = \tau \log\Big(1 + \sum_{j \neq y} e^{(t - \rho_j) / \tau}\Big) \to (t - \rho)_+ \quad (\tau \to 0)

    and the loss, with R the largest and r the smallest radius that counts and s the slope of the tail,

    .. math:: h_R - (1 - s)\, h_r \to \int_r^R [\rho < t]\, dt + s\, (r - \rho)_+ \quad (\tau \to 0)

    With s = 0 its mean goes to the area above the curve of certified accuracy between r and R: from r = 0, that is R
    less the average certified radius, radii counted up to R. A narrow band is, divided by its width, one less the
    certified accuracy there. Samples far from a right answer then have no gradient, and a network that always answers
    with the same class is nearly stationary: that class is certified everywhere. s > 0 pulls wrong answers with s times
    the force of those within the band, and trades radius for accuracy. With s = 1 the loss is convex in the logits, and
    :class:`OffsetCrossEntropy` of offset LR and temperature :math:`L \tau`, divided by L, where all constants are L.

    The gradient shrinks where radii exceed R by more than a few temperatures. It does not change with the scale of a
    head whose constants are handed in.

    Args:
        max_radius: R, in units of the input.
        min_radius: r.
        temperature: :math:`\tau`, in units of the input.
        tail_slope: s, between 0 and 1.

    Raises:
        InputError: radii that are not ordered, a temperature not above 0, or a slope outside of [0, 1].

    Example:
        >>> loss = CertifiedRadiusLoss(1.0, temperature=0.01, tail_slope=0.0)
        >>> loss(torch.tensor([[1.5, 0.0]]), torch.tensor([0]), torch.full((2, 2), 2.0))  # 1 less a radius of 0.75
        tensor(0.2500)
    """

    def __init__(
        self, max_radius: float, *, min_radius: float = 0.0, temperature: float = 0.1, tail_slope: float = 0.1
    ) -> None:
        super().__init__()
        self.max_radius = positive("max_radius", max_radius)
        self.min_radius = not_negative("min_radius", min_radius)
        if min_radius >= max_radius:
            raise InputError(f"expected min_radius < max_radius, got {min_radius} and {max_radius}")
        self.temperature = positive("temperature", temperature)
        self.tail_slope = share("tail_slope", tail_slope)

    def forward(self, logits: Tensor, targets: Tensor, pair_bounds: Tensor | None = None) -> Tensor:
        """Return the mean loss of ``(N, K)`` logits given ``(K, K)`` bounds."""
        logits, classes = logits_and_classes(logits, targets)
        radii = rival_radii(logits, classes, rival_bounds(pair_bounds, logits, classes))
        soft_radius = -self.temperature * torch.logsumexp(-radii / self.temperature, 1)
        above, below = (self._hinge(radius - soft_radius) for radius in (self.max_radius, self.min_radius))
        return (above - (1 - self.tail_slope) * below).mean()

    def _hinge(self, missing: Tensor) -> Tensor:
        return self.temperature * torch.logaddexp(missing / self.temperature, torch.zeros_like(missing))
