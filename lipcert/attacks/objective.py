"""What attacks by gradient steps descend."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.attacks.evaluation import margins, slopes
from lipcert.attacks.geometry import DUAL, lengths
from lipcert.attacks.rivals import Rivals, rivals
from lipcert.attacks.task import Norm, Task
from lipcert.errors import InputError

Loss = Literal["distance", "margin", "cross-entropy"]

LOSSES: tuple[Loss, ...] = get_args(Loss)


class Objective:
    r"""What falls as an attack on a task gets on, and its gradients.

    =============== ===================================================================================================
    loss            without a target; with one
    =============== ===================================================================================================
    "distance"      :math:`\min_j (f_y - f_j) / g_j`, with the slope g of that gap at the input, in the dual norm: a
                    distance, to first order, so that the nearest class is headed for; the margin
    "margin"        the :func:`margins`: the class with the largest logit is headed for; the largest gap to the target
    "cross-entropy" minus the label's; the target's
    =============== ===================================================================================================

    On a Lipschitz network gradients of the cross-entropy mislead: it weighs all classes by their softmax, which is flat
    for small logits, instead of heading for one.

    Args:
        model: network without parameter gradients.
        task: what to do.
        loss: one of the three; the first one costs a forward and up to ten backward passes now.
    """

    def __init__(self, model: nn.Module, task: Task, loss: Loss) -> None:
        self.model = model
        self.task = task
        self.loss = loss
        self.factors: Tensor | None = None
        if loss == "distance" and task.targets is None:
            self.factors = inverse_slopes(rivals(model, task.inputs, task), task.norm)

    def at(self, points: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(M, K)`` logits, ``(M,)`` values and ``(M, C, H, W)`` gradients at points of some samples."""

        def values(logits: Tensor, part: slice) -> Tensor:
            chosen = owners[part]
            labels = self.task.labels[chosen]
            if self.task.targets is not None:
                targets = self.task.targets[chosen]
                if self.loss == "cross-entropy":
                    return F.cross_entropy(logits, targets, reduction="none")
                return margins(logits, labels, targets)
            if self.loss == "cross-entropy":
                return -F.cross_entropy(logits, labels, reduction="none")
            if self.factors is not None:
                logits = (logits - logits.gather(1, labels[:, None])) * self.factors[chosen]
            return margins(logits, labels)

        return slopes(self.model, points, values)


def check_loss(loss: str) -> None:
    """Refuse an unknown loss.

    Raises:
        InputError: says what was expected and found.
    """
    if loss not in LOSSES:
        raise InputError(f"expected a loss among {', '.join(LOSSES)}, got {loss!r}")


def inverse_slopes(seen: Rivals, norm: Norm) -> Tensor:
    """Return factors ``(N, K)`` that make gaps distances; 1 where a slope says nothing.

    Classes that were not looked at are taken to be as steep as the last one that was.
    """
    inverse = 1 / lengths(seen.gradients.flatten(0, 1), DUAL[norm]).view_as(seen.gaps)
    inverse = torch.where(inverse.isfinite(), inverse, 1.0)
    if inverse.shape[1] == 0:
        return torch.ones_like(seen.logits)
    return inverse[:, -1:].expand(seen.logits.shape).scatter(1, seen.classes, inverse)
