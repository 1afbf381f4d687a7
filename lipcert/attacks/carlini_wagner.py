"""The Carlini-Wagner attack: smallest L2 change, by a penalty whose weight is searched for."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack
from lipcert.errors import InputError


@dataclass(frozen=True)
class CarliniWagner(Attack):
    r"""Foolbox's L2 Carlini-Wagner attack, made independent of the scale of the logits and of the batch.

    .. math:: \min_\delta \|\delta\|_2^2 + c \, s_i \max(0, f_y(x + \delta) - \max_{j \neq y} f_j(x + \delta))

    With the margin m and its slope g at an input, a linear network needs :math:`c s > 2 m / g^2` to be fooled at all;
    so every sample has its own :math:`s_i = 2 m / g^2` and the search for c starts just above 1. Early stopping is off:
    foolbox decides it on the sum over the batch, which would make a sample's result depend on its neighbours.

    The default finds distances within about half a percent of 6 x 8000 steps on a small convolutional network, ten
    images in seconds; a black pixel needs ``stepsize * steps`` of at least about 5 to leave black.

    Args:
        binary_search_steps: values of c that are tried; tenfold until the first success, then bisection.
        steps: Adam steps for each of them.
        stepsize: Adam's learning rate, in the space that tanh maps to pixels.
        initial_const: the first c, in units of the balance above.

    Raises:
        InputError: a setting is out of range.

    Source: Carlini and Wagner (2017), arXiv 1608.04644, section V.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> outcome = CarliniWagner()(model, torch.tensor([0.75, 0.25]).view(1, 2, 1, 1), torch.tensor([0]))
        >>> bool(0.25 * 2**0.5 <= outcome.verified.distance.item() < 0.36)
        True
    """

    name: ClassVar[str] = "carlini-wagner-l2"

    binary_search_steps: int = 3
    steps: int = 500
    stepsize: float = 0.01
    initial_const: float = 3.0

    def __post_init__(self) -> None:
        for setting, value in (("binary_search_steps", self.binary_search_steps), ("steps", self.steps)):
            if value < 1:
                raise InputError(f"expected {setting} >= 1, got {value}")
        for setting, number in (("stepsize", self.stepsize), ("initial_const", self.initial_const)):
            if not 0 < number < math.inf:
                raise InputError(f"expected a finite {setting} > 0, got {number}")

    def run(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the nearest adversarial example of the search; the input itself where there is none."""
        foolbox = _import_foolbox()
        balanced = _Rescaled(model, _balance(model, inputs, labels)).eval()
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.binary_search_steps,
            steps=self.steps,
            stepsize=self.stepsize,
            initial_const=self.initial_const,
            abort_early=False,
        )
        target = foolbox.PyTorchModel(balanced, bounds=(0, 1), device=inputs.device)
        found: Tensor = attack.run(target, inputs, foolbox.criteria.Misclassification(labels))
        # foolbox reports failure as an all-black image, which may even be misclassified.
        failed = (found == 0).flatten(1).all(1)
        return torch.where(failed.view(-1, *[1] * (inputs.ndim - 1)), inputs, found)

    def forward_budget(self, samples: int) -> int:
        """Return the images pushed forward: one a step, and one for the balance."""
        return samples * (self.binary_search_steps * self.steps + 1)


class _Rescaled(nn.Module):
    """A network whose logits are multiplied by one positive factor a sample: the same classes, other penalties."""

    def __init__(self, network: nn.Module, factors: Tensor) -> None:
        super().__init__()
        self.network = network
        self.factors = factors[:, None]

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits * self.factors


def _balance(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return 2 m / g² for every sample, 1 where it says nothing (a flat network, a tie)."""
    leaf = inputs.clone().requires_grad_()
    logits = model(leaf)
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    margins = logits.gather(1, labels[:, None]).flatten() - others
    (gradient,) = torch.autograd.grad(margins.sum(), leaf)
    factors = 2 * margins.detach() / gradient.flatten(1).square().sum(1)
    return torch.where(factors.isfinite() & (factors > 0), factors, 1.0)


def _import_foolbox() -> ModuleType:
    # Through GitPython, foolbox cannot be imported where there is no git program; nothing here needs one.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*scipy\.ndimage\.filters", category=DeprecationWarning)
        import foolbox
    return foolbox  # type: ignore[no-any-return]
