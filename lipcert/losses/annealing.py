"""Cross-entropies that ask for a margin."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.losses.arguments import logits_and_classes, not_negative, positive


class OffsetCrossEntropy(nn.Module):
    r"""Cross-entropy of logits whose true class is handicapped by an offset.

    .. math:: T \cdot \mathrm{CE}\left(\frac{f(x) - \mathrm{offset} \cdot e_y}{T},\, y\right)
        = T \log\Big(1 + \sum_{j \neq y} e^{(\mathrm{offset} - (f_y - f_j)) / T}\Big)

    Offset 0 and temperature 1 are the cross-entropy; T to 0 is the hinge :math:`\max_{j \neq y} (\mathrm{offset} -
    (f_y - f_j))_+`. With L the Lipschitz constant of a difference of two logits, root 2 for a 1-Lipschitz network, an
    offset of once or twice L times a budget asks for certificates at that budget.

    Args:
        offset: the margin asked for, in units of the logits.
        temperature: T, in units of the logits.

    Raises:
        InputError: an offset below 0, or a temperature that is not above 0.

    Source: Prach and Lampert (2022), arXiv 2208.03160.

    Example:
        >>> OffsetCrossEntropy(1.0, 1.0)(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        tensor(0.6931)
    """

    def __init__(self, offset: float = math.sqrt(2), temperature: float = 0.25) -> None:
        super().__init__()
        self.offset = not_negative("offset", offset)
        self.temperature = positive("temperature", temperature)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of ``(N, K)`` logits."""
        logits, classes = logits_and_classes(logits, targets)
        return F.cross_entropy(handicapped(logits, classes, self.offset) / self.temperature, classes) * self.temperature


class LogitAnnealing(nn.Module):
    r"""Offset cross-entropy that fades out on samples that have their margin.

    .. math:: -T (1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}\left(\frac{f(x) - \mathrm{offset} \cdot
        e_y}{T}\right)

    Gamma 0 is :class:`OffsetCrossEntropy`; offset 0 and temperature 1 are the focal loss. As :math:`p_y` goes to 0 the
    loss becomes the offset cross-entropy, as it goes to 1 the loss is :math:`T (1 - p_y)^{\gamma + 1}`.

    Args:
        offset: the margin asked for, in units of the logits.
        temperature: T, in units of the logits.
        gamma: how fast a sample with a margin loses its weight.

    Raises:
        InputError: an offset or gamma below 0, or a temperature that is not above 0.

    Source: Lai et al. (2025), arXiv 2505.15174.

    Example:
        >>> LogitAnnealing(0.0, 1.0, gamma=1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.3466)
    """

    def __init__(self, offset: float = 2.0, temperature: float = 0.75, *, gamma: float = 5.0) -> None:
        super().__init__()
        self.offset = not_negative("offset", offset)
        self.temperature = positive("temperature", temperature)
        self.gamma = not_negative("gamma", gamma)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of ``(N, K)`` logits."""
        logits, classes = logits_and_classes(logits, targets)
        own = classes[:, None]
        log_shares = F.log_softmax(handicapped(logits, classes, self.offset) / self.temperature, 1)
        # 1 - p as the sum of the rivals' shares: exact where p rounds to 1, and a power whose gradient stays finite.
        log_rivals = log_shares.scatter(1, own, -math.inf).logsumexp(1)
        weights = torch.exp(self.gamma * log_rivals)
        return -(weights * log_shares.gather(1, own)[:, 0]).mean() * self.temperature


def handicapped(logits: Tensor, classes: Tensor, offset: float) -> Tensor:
    """Return logits with ``offset`` subtracted from those of the true classes ``(N,)``."""
    return logits - offset * F.one_hot(classes, logits.shape[1]).to(logits.dtype)
