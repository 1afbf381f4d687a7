"""Whether examples, wherever they were crafted, fool a deployed network: no attack is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Attack, Norm, Task
from lipcert.attacks.task import NORMS
from lipcert.harness.joint_attack import jointly


@dataclass(frozen=True)
class Given(Attack):
    """The examples that a task starts from: what another network was attacked with, to be verified on this one."""

    name: ClassVar[str] = "given"
    norms: ClassVar[tuple[Norm, ...]] = NORMS

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the examples as they are."""
        assert task.start is not None
        return task.start


@dataclass(frozen=True)
class Judged:
    """What examples of N samples do to a deployed network.

    Attributes:
        success: ``(N,)`` bool: within the budget, misclassified, and not rejected.
        distance: ``(N,)`` float64 in the norm of the threat; infinite without success.
    """

    success: Tensor
    distance: Tensor


def judged(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    candidates: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    rejects: bool = False,
) -> Judged:
    """Decide, without believing any attack, which candidates fool a deployed network within a budget.

    Args:
        network: in eval mode, with K logits, or K + 1 if it may reject.
        inputs: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, the true classes.
        candidates: ``(N, C, H, W)`` in [0, 1].
        norm: of the budget.
        epsilon: the budget.
        rejects: whether the last logit stands for rejection; a rejected example is no success.

    Example:
        >>> network, images = nn.Flatten(), torch.tensor([[0.9, 0.1], [0.9, 0.1]]).view(2, 1, 1, 2)
        >>> candidates = torch.tensor([[0.4, 0.6], [0.0, 1.0]]).view(2, 1, 1, 2)
        >>> labels = torch.tensor([0, 0])
        >>> judged(network.eval(), images, labels, candidates, norm="linf", epsilon=0.6).success.tolist()
        [True, False]
    """
    attack = jointly(Given()) if rejects else Given()
    found = attack(network, inputs, labels, norm=norm, epsilon=epsilon, start=candidates).verified
    success = found.success & (found.distance <= epsilon)
    return Judged(success, torch.where(success, found.distance, math.inf))
