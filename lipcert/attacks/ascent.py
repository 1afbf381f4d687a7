"""The inner maximisation of adversarial training: ascent on the loss, by a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.attacks.evaluation import margins
from lipcert.attacks.geometry import column, into_ball, lengths, safe_size, steepest
from lipcert.attacks.randomness import hashed_uniform
from lipcert.attacks.task import Norm, Task
from lipcert.errors import InputError

Ascended = Literal["cross-entropy", "margin", "divergence"]


@dataclass(frozen=True)
class LossAscent(Attack):
    r"""A fixed number of steps up the loss within a budget, from a random start; the last point is returned.

    .. math:: x_{k+1} = \mathrm{clip}\Big(x + \Pi_{\|\delta\| \le \epsilon}\big(x_k - x + s \epsilon \, d_k\big)\Big)

    :class:`ProjectedGradient` asks whether there is an adversarial example: it leaves a sample as soon as the class is
    lost, and returns the input where it is kept. Training wants the largest loss, of every sample: here nothing stops
    early, nothing is looked up in between, and what comes back is changed whether or not it fools. A batch costs
    ``steps`` forward and backward passes of the whole batch, and no more; for the divergence, one forward pass more.

    One step of size 1.25 from a random start is FGSM as Wong et al. train with it; without the start, plain FGSM is a
    step of size 1.

    Args:
        steps: steps of gradient ascent.
        step_size: size s of a step as a share of the budget.
        random_start: whether to begin at a random point of the ball, another one for each image and seed.
        loss: ``"cross-entropy"``; ``"margin"``, minus the gap between the label's logit and the largest other one; or
            ``"divergence"``, of the softmax from that at the input, whatever the label, as in TRADES; its gradient is 0
            at the input, so that it needs the random start.

    Raises:
        InputError: a setting is out of range.

    Source: Madry et al. (2018), arXiv 1706.06083, section 2.1; Wong et al. (2020), arXiv 2001.03994, algorithm 3; for
    the divergence, Zhang et al. (2019), arXiv 1901.08573, algorithm 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> inputs, labels = torch.tensor([0.75, 0.25]).view(1, 1, 1, 2), torch.tensor([0])
        >>> outcome = LossAscent()(model, inputs, labels, norm="linf", epsilon=0.2)
        >>> [round(value, 4) for value in outcome.candidates.flatten().tolist()], outcome.verified.success.item()
        ([0.55, 0.45], False)
    """

    name: ClassVar[str] = "loss-ascent"
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    fixed_budget: ClassVar[bool] = True

    steps: int = 10
    step_size: float = 0.25
    random_start: bool = True
    loss: Ascended = "cross-entropy"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected steps >= 1, got {self.steps}")
        if not 0 < self.step_size < math.inf:
            raise InputError(f"expected a finite step_size > 0, got {self.step_size}")
        if self.loss not in get_args(Ascended):
            raise InputError(f"expected a loss among {', '.join(get_args(Ascended))}, got {self.loss!r}")
        if self.loss == "divergence" and not self.random_start:
            raise InputError("expected a random start for the divergence, whose gradient is 0 at the input")

    def run(self, model: nn.Module, task: Task) -> Tensor:
        """Return the last point of every sample."""
        assert task.epsilon is not None
        inputs = task.inputs
        size = safe_size(task.epsilon, inputs, task.bounds, task.norm)
        loss = self._loss(model, task)
        points = inputs
        if self.random_start:
            points = (inputs + random_changes(inputs, size, task.norm, seed=task.seed)).clamp(*task.bounds)
        for _ in range(self.steps):
            leaf = points.detach().requires_grad_()
            values = loss(model(leaf))
            # a network that is flat everywhere leaves nothing to climb
            gradients = torch.autograd.grad(values, leaf)[0] if values.requires_grad else torch.zeros_like(leaf)
            change = points - inputs + self.step_size * size * steepest(gradients, task.norm)
            points = (inputs + into_ball(change, size, task.norm)).clamp(*task.bounds)
        return points

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward: one a step, and one for the softmax that the divergence is from."""
        return samples * (self.steps + int(self.loss == "divergence"))

    def _loss(self, model: nn.Module, task: Task) -> Callable[[Tensor], Tensor]:
        """Return the loss of a batch as a function of its logits: a sum, so that no sample knows of the others."""
        if self.loss == "cross-entropy":
            return lambda logits: F.cross_entropy(logits, task.labels, reduction="sum")
        if self.loss == "margin":
            return lambda logits: -margins(logits, task.labels).sum()
        with torch.no_grad():
            shares = F.softmax(model(task.inputs).float(), 1)
        return lambda logits: F.kl_div(F.log_softmax(logits.float(), 1), shares, reduction="sum")


def random_changes(inputs: Tensor, size: float, norm: Norm, *, seed: int) -> Tensor:
    """Return points ``(N, ...)`` drawn uniformly from a ball, which depend on each image and the seed alone.

    Args:
        inputs: ``(N, ...)``.
        size: radius of the ball.
        norm: L2 or Linf.
        seed: see :func:`~lipcert.attacks.randomness.hashed_uniform`.
    """
    pixels = inputs[0].numel()
    if norm == "linf":
        return (hashed_uniform(inputs, pixels, seed=seed).mul_(2).sub_(1) * size).view_as(inputs)
    numbers = hashed_uniform(inputs, pixels + 1, seed=seed)
    normal = torch.erfinv(2 * numbers[:, :-1] - 1)
    return (column(numbers[:, -1] ** (1 / pixels) * size / lengths(normal, "l2"), normal) * normal).view_as(inputs)
