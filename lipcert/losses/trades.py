"""The loss of TRADES: accuracy on clean samples, and agreement with them on adversarial ones."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.errors import InputError
from lipcert.losses.arguments import logits_and_classes, not_negative


class TradesLoss(nn.Module):
    r"""Cross-entropy of clean logits, and the divergence of adversarial from clean ones.

    .. math:: \mathrm{CE}(f(x), y) + \beta \, \mathrm{KL}\big(\mathrm{softmax} f(x) \,\|\, \mathrm{softmax} f(x')\big)

    Both are means over the batch, and gradients flow through both arguments of the divergence. Logits of one network
    evaluation alone, as in validation, have the cross-entropy alone.

    Args:
        beta: what agreement is worth; 6 in the paper's experiments on CIFAR-10.

    Raises:
        InputError: a beta below 0.

    Source: Zhang et al. (2019), arXiv 1901.08573, equation 5; their :math:`1 / \lambda` is beta.

    Example:
        >>> import torch
        >>> pair = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])
        >>> TradesLoss()(pair, torch.tensor([0])), TradesLoss()(pair[:, 0], torch.tensor([0]))
        (tensor(0.6931), tensor(0.6931))
    """

    def __init__(self, beta: float = 6.0) -> None:
        super().__init__()
        self.beta = not_negative("beta", beta)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            logits: ``(N, 2, K)``, of each sample clean and adversarial; or ``(N, K)``.
            targets: ``(N,)`` classes or ``(N, K)`` one-hot.

        Raises:
            InputError: logits or targets of another shape.
        """
        if logits.ndim == 2:
            return F.cross_entropy(*logits_and_classes(logits, targets))
        if logits.ndim != 3 or logits.shape[1] != 2:
            raise InputError(f"expected logits of shape (N, 2, K) or (N, K), got {tuple(logits.shape)}")
        clean, classes = logits_and_classes(logits[:, 0], targets)
        adversarial, _ = logits_and_classes(logits[:, 1], targets)
        disagreement = F.kl_div(
            F.log_softmax(adversarial, 1), F.log_softmax(clean, 1), reduction="batchmean", log_target=True
        )
        return F.cross_entropy(clean, classes) + self.beta * disagreement
