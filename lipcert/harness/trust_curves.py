"""What survives an attack, by budget: the curves that tell a working attack from a failing one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Attack, Norm, verify
from lipcert.data.loader import seeded_generator
from lipcert.errors import InputError

DRAWS = 20

SLACK = 0.1
"""Share of the inputs by which one curve may be off another by chance; never below one input."""


@dataclass(frozen=True, slots=True)
class Curve:
    """How many of the inputs keep their class under an attack with a fixed budget.

    Attributes:
        name: the attack's name.
        epsilons: budgets in ascending order.
        survivors: number of inputs that keep their class, one number a budget.
        samples: number of inputs.
    """

    name: str
    epsilons: tuple[float, ...]
    survivors: tuple[int, ...]
    samples: int

    @property
    def slack(self) -> int:
        """By how many inputs the curve may be off by chance.

        Example:
            >>> [Curve("pgd", (), (), samples).slack for samples in (4, 16, 50)]
            [1, 1, 5]
        """
        return max(1, int(SLACK * self.samples))


def diameter(inputs: Tensor, norm: Norm = "l2") -> float:
    """Return the largest distance of two images in [0, 1] of the inputs' shape.

    Example:
        >>> diameter(torch.zeros(5, 1, 3, 3)), diameter(torch.zeros(5, 1, 3, 3), "linf")
        (3.0, 1.0)
    """
    size = inputs[0].numel()
    return {"l1": float(size), "l2": math.sqrt(size), "linf": 1.0}[norm]


def attack_curve(
    network: nn.Module, inputs: Tensor, labels: Tensor, attack: Attack, epsilons: Sequence[float], *, norm: Norm = "l2"
) -> Curve:
    """Return what survives an attack, run afresh at every budget.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` int64, the classes to leave.
        attack: an attack with a fixed budget.
        epsilons: budgets.
        norm: of the budgets.
    """

    def found(epsilon: float) -> Tensor:
        outcome = attack(network, inputs, labels, norm=norm, epsilon=epsilon)
        return outcome.verified.success & (outcome.verified.distance <= epsilon * (1 + 1e-5))

    return _curve(attack.name, epsilons, len(inputs), found)


def noise_curve(
    network: nn.Module, inputs: Tensor, labels: Tensor, epsilons: Sequence[float], *, seed: int = 0
) -> Curve:
    """Return what survives random noise of L2 length epsilon, clipped to the box; 20 draws an input.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` int64, the classes to leave.
        epsilons: L2 budgets.
        seed: of the noise.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
        >>> _ = network.load_state_dict({"1.weight": torch.tensor([[1.0], [0.0]]), "1.bias": torch.tensor([0.0, 0.25])})
        >>> noise_curve(network, torch.full((2, 1, 1, 1), 0.5), torch.tensor([0, 0]), [0.125, 0.375]).survivors
        (2, 0)
    """
    network = copy.deepcopy(network)

    def found(epsilon: float) -> Tensor:
        generator = seeded_generator(seed, DRAWS)
        success = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for _ in range(DRAWS):
                noise = torch.randn(inputs.shape, generator=generator).to(inputs)
                length = noise.flatten(1).norm(dim=1).view(-1, *[1] * (inputs.ndim - 1))
                success |= network((inputs + epsilon / length * noise).clamp(0, 1)).argmax(1) != labels
        return success

    return _curve("noise", epsilons, len(inputs), found)


def transfer_curve(
    network: nn.Module,
    surrogate: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    norm: Norm = "l2",
) -> Curve:
    """Return what survives adversarial examples that were made for another network.

    Args:
        network: in eval mode; it is left as it is.
        surrogate: a network with the same classes, in eval mode; an undefended one is the most telling.
        inputs: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` int64, the classes to leave.
        attack: run on the surrogate, with a fixed budget.
        epsilons: budgets.
        norm: of the budgets.

    Raises:
        InputError: the surrogate has other classes.
    """
    with torch.no_grad():
        expected, given = (model(inputs[:1]).shape[-1] for model in (network, surrogate))
    if expected != given:
        raise InputError(f"expected a surrogate with the network's {expected} classes, got one with {given}")

    def found(epsilon: float) -> Tensor:
        candidates = attack(surrogate, inputs, labels, norm=norm, epsilon=epsilon).candidates
        verified = verify(network, inputs, labels, candidates, norm=norm)
        return verified.success & (verified.distance <= epsilon * (1 + 1e-5))

    return _curve(f"{attack.name} on the surrogate", epsilons, len(inputs), found)


def _curve(name: str, epsilons: Sequence[float], samples: int, found: Callable[[float], Tensor]) -> Curve:
    survivors = tuple(samples - int(found(epsilon).sum()) for epsilon in epsilons)
    return Curve(name, tuple(epsilons), survivors, samples)
