"""The loss of distillation: a student's softmax beside its teacher's, both softened by a temperature."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.errors import InputError
from lipcert.losses.arguments import positive


class DistillationLoss(nn.Module):
    r"""Cross-entropy of a student's logits with the soft labels of its teacher, at one temperature.

    .. math:: -T \sum_j p^t_j \log p_j, \qquad p^t = \mathrm{softmax}\left(\frac{f^t(x)}{T}\right), \quad
        p = \mathrm{softmax}\left(\frac{f(x)}{T}\right)

    Both arguments are logits: the softmax is taken here, once. The factor T keeps the size of gradients and moves no
    minimum; the paper has none. No gradient reaches the teacher.

    Args:
        temperature: T, in units of the logits.

    Raises:
        InputError: a temperature that is not above 0.

    Source: Papernot et al. (2016), arXiv 1511.04508, section IV; Hinton et al. (2015), arXiv 1503.02531, equation 1.

    Example:
        >>> import torch
        >>> DistillationLoss(2.0)(torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 0.0]]))
        tensor(1.3863)
    """

    def __init__(self, temperature: float = 20.0) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def forward(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the mean loss of ``(N, K)`` logits.

        Raises:
            InputError: the teacher has other classes.
        """
        if logits.shape != teacher_logits.shape:
            found = f"{teacher_logits.shape[-1]} from the teacher"
            raise InputError(f"expected {logits.shape[-1]} classes as the student has, got {found}")
        shares = F.softmax(teacher_logits.detach().float() / self.temperature, 1)
        return F.cross_entropy(logits.float() / self.temperature, shares) * self.temperature
