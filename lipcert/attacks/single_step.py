"""One step along the gradient, as a course on adversarial examples begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.geometry import column, into_ball, lengths, safe_size, steepest
from lipcert.attacks.objective import Loss, Objective, check_loss
from lipcert.attacks.task import NORMS, Norm, Task
from lipcert.errors import InputError

Step = Literal["sign", "l2", "max", "plain"]

STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True)
class FastGradient(Attack):
    r"""One step of a given size against the gradient g of the objective, clipped to the bounds.

    ======== =============================================== ===========================
    step     change                                          its size before clipping
    ======== =============================================== ===========================
    "sign"   :math:`-\epsilon \, \mathrm{sign}(g)`           :math:`\epsilon` in Linf
    "l2"     :math:`-\epsilon \, g / \|g\|_2`                :math:`\epsilon` in L2
    "max"    :math:`-\epsilon \, g / \|g\|_\infty`           :math:`\epsilon` in Linf
    "plain"  :math:`-\epsilon \, g`                          what the gradient makes it
    ======== =============================================== ===========================

    In another norm, what is longer than epsilon is brought back to it by the nearest point of the ball. The step is
    returned whether or not it fools the network; without a gradient there is none.

    Args:
        step: one of the four.
        loss: whose gradient; see :class:`Objective`.

    Raises:
        InputError: an unknown step or loss.

    Source: Goodfellow et al. (2015), arXiv 1412.6572, section 4.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> inputs, labels = torch.tensor([0.75, 0.25]).view(1, 1, 1, 2), torch.tensor([0])
        >>> outcome = FastGradient()(model, inputs, labels, norm="linf", epsilon=0.3)
        >>> [round(value, 4) for value in outcome.candidates.flatten().tolist()], outcome.verified.success.item()
        ([0.45, 0.55], True)
    """

    name: ClassVar[str] = "fast-gradient"
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    targeted: ClassVar[bool] = True
    fixed_budget: ClassVar[bool] = True

    step: Step = "sign"
    loss: Loss = "margin"

    def __post_init__(self) -> None:
        if self.step not in STEPS:
            raise InputError(f"expected a step among {', '.join(STEPS)}, got {self.step!r}")
        check_loss(self.loss)

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the inputs after the step."""
        assert task.epsilon is not None
        everyone = torch.arange(len(task.labels), device=task.labels.device)
        _, _, gradients = Objective(model, task, self.loss).at(task.inputs, everyone)
        change = -task.epsilon * self._direction(gradients)
        size = safe_size(task.epsilon, task.inputs, task.bounds, task.norm)
        return (task.inputs + into_ball(change, size, task.norm)).clamp(*task.bounds)

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward: one a sample, and one for the slopes if distances are looked at."""
        return samples * (2 if self.loss == "distance" else 1)

    def _direction(self, gradients: Tensor) -> Tensor:
        if self.step == "sign":
            return steepest(gradients, "linf")
        if self.step == "l2":
            return steepest(gradients, "l2")
        if self.step == "max":
            return gradients / column(
                lengths(gradients, "linf").clamp_min(torch.finfo(gradients.dtype).tiny), gradients
            )
        return gradients
