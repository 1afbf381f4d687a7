"""Changes of a classifier's published probabilities, as modules to put behind it in an ``nn.Sequential``.

None of them makes a network more robust. They keep its class, ties apart, and spoil what an attack reads off the
numbers: gradients that are masked or turned around, queries that seem to lead nowhere. An adversary with the weights
leaves the module out; one without asks for classes only. Audit the network alone, and these against such attacks.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError


class RoundedProbabilities(nn.Module):
    """Rounds probabilities to so many decimals.

    Worth nothing against whoever has the weights: the gradient is 0 almost everywhere, and that is all. Against queries
    it hides small changes. With few decimals the largest probability may tie with others.

    Args:
        decimals: at least 1.

    Raises:
        InputError: a setting is out of range.

    Source: Tramèr et al. (2016), arXiv 1609.02943, section 7; against model extraction.

    Example:
        >>> RoundedProbabilities(1)(torch.tensor([[0.0, 1.0]]))
        tensor([[0.3000, 0.7000]])
    """

    def __init__(self, decimals: int = 3) -> None:
        super().__init__()
        if decimals < 1:
            raise InputError(f"expected decimals >= 1, got {decimals}")
        self.decimals = decimals

    def forward(self, logits: Tensor) -> Tensor:
        """Return rounded probabilities ``(N, K)`` of logits ``(N, K)``."""
        return logits.softmax(-1).round(decimals=self.decimals)


class HighConfidence(nn.Module):
    """Publishes probabilities of at least ``cutoff`` only, and 0 for the rest.

    Worth nothing against whoever has the weights: classes that are hidden have no gradient. Where all are hidden, the
    class itself is: a row of zeros has no largest.

    Args:
        cutoff: above 0 and below 1.

    Raises:
        InputError: a setting is out of range.

    Source: Tramèr et al. (2016), arXiv 1609.02943, section 7.

    Example:
        >>> HighConfidence(0.5)(torch.tensor([[0.0, 1.0]]))
        tensor([[0.0000, 0.7311]])
    """

    def __init__(self, cutoff: float = 0.25) -> None:
        super().__init__()
        if not 0 < cutoff < 1:
            raise InputError(f"expected 0 < cutoff < 1, got {cutoff:g}")
        self.cutoff = cutoff

    def forward(self, logits: Tensor) -> Tensor:
        """Return probabilities ``(N, K)`` of logits ``(N, K)``."""
        probabilities = logits.softmax(-1)
        return torch.where(probabilities >= self.cutoff, probabilities, 0.0)


class ReverseSigmoid(nn.Module):
    r"""Takes from each probability what misleads about how sure the network is, and scales the rest to add up to 1.

    .. math:: y_i - \beta \big( \sigma(\gamma \, \sigma^{-1}(y_i)) - 1/2 \big)

    Worth nothing against whoever has the weights, who inverts or leaves out what is a known function; it turns
    gradients around where :math:`\beta \gamma` is large, which is masking. The class is kept for small :math:`\beta`.

    Args:
        beta: :math:`\beta`, above 0 and up to 1.
        gamma: :math:`\gamma`, above 0.

    Raises:
        InputError: a setting is out of range.

    Source: Lee et al. (2018), arXiv 1806.00054, equation 3.

    Example:
        >>> ReverseSigmoid(beta=0.5, gamma=0.5)(torch.tensor([[0.0, 1.0]])).argmax(1).item()
        1
    """

    def __init__(self, beta: float = 1.0, gamma: float = 0.1) -> None:
        super().__init__()
        if not 0 < beta <= 1:
            raise InputError(f"expected 0 < beta <= 1, got {beta:g}")
        if not 0 < gamma < math.inf:
            raise InputError(f"expected a finite gamma > 0, got {gamma:g}")
        self.beta = beta
        self.gamma = gamma

    def forward(self, logits: Tensor) -> Tensor:
        """Return perturbed probabilities ``(N, K)`` of logits ``(N, K)``."""
        probabilities = logits.softmax(-1)
        perturbation = torch.sigmoid(self.gamma * probabilities.logit(eps=1e-7)) - 0.5
        published = (probabilities - self.beta * perturbation).clamp_min(0)
        return published / published.sum(-1, keepdim=True).clamp_min(1e-12)
