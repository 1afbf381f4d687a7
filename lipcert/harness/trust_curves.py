"""Do attacks behave as working attacks do? Curves of what survives by budget, measured and compared."""

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
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Budgets of a curve, as shares of the diameter of the box of images."""

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
    """Return what survives random noise of L2 length epsilon, clipped to the box; the best of 20 draws counts.

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


def not_falling_to_zero(curve: Curve, reach: float) -> str | None:
    """Return a warning if inputs keep their class at a budget that reaches every image there is.

    Args:
        curve: of an attack.
        reach: the diameter of the box; budgets below it say nothing.

    Source: after Carlini et al. (2019), arXiv 1902.06705, on attacks without a bound.

    Example:
        >>> not_falling_to_zero(Curve("pgd", (1.0, 28.0), (16, 9), 16), 28.0)[:55]
        'Accuracy not falling to zero: 9 of 16 inputs keep their'
    """
    left = [kept for epsilon, kept in zip(curve.epsilons, curve.survivors, strict=True) if epsilon >= reach]
    if not left or min(left) <= curve.slack:
        return None
    return (
        f"Accuracy not falling to zero: {min(left):,} of {curve.samples:,} inputs keep their class under {curve.name} "
        f"with a budget of {reach:.3g}, which reaches every image in the box. The attack is failing, not the "
        "adversary: its gradients are masked or its steps are too few."
    )


def not_monotone(curve: Curve) -> str | None:
    """Return a warning if a larger budget leaves more inputs their class.

    Example:
        >>> not_monotone(Curve("pgd", (1.0, 2.0, 4.0), (16, 3, 11), 16))[:64]
        'Non-monotone curve: under pgd 3 of 16 inputs keep their class at'
    """
    worst = (0, 0, 0)
    for later in range(1, len(curve.survivors)):
        earlier = min(range(later), key=lambda place: curve.survivors[place])
        worst = max(worst, (curve.survivors[later] - curve.survivors[earlier], earlier, later))
    rise, earlier, later = worst
    if rise <= curve.slack:
        return None
    return (
        f"Non-monotone curve: under {curve.name} {curve.survivors[earlier]:,} of {curve.samples:,} inputs keep their "
        f"class at a budget of {curve.epsilons[earlier]:.3g} and {curve.survivors[later]:,} at "
        f"{curve.epsilons[later]:.3g}. What the smaller budget found lies within the larger one too: the attack is not "
        "to be trusted here; use more steps and restarts."
    )


def single_step_beats_iterated(single: Curve, iterated: Curve) -> str | None:
    """Return a warning if one step finds more than many.

    Example:
        >>> step, steps = Curve("fast-gradient", (1.0,), (4,), 16), Curve("pgd", (1.0,), (12,), 16)
        >>> single_step_beats_iterated(step, steps)[:49]
        'Iterated attack weaker than a single step: at a b'
    """
    said = _beats(single, iterated)
    if said is None:
        return None
    return (
        f"Iterated attack weaker than a single step: {said}. Steps along a true gradient do not lose to one step: the "
        "gradients are masked, or the step size does not suit the budget."
    )


def black_box_beats_white_box(black: Curve, white: Curve) -> str | None:
    """Return a warning if an attack without gradients finds more than one with.

    Example:
        >>> queries, gradients = Curve("square", (1.0,), (4,), 16), Curve("pgd", (1.0,), (12,), 16)
        >>> black_box_beats_white_box(queries, gradients)[:38]
        'Black box beating white box: at a budg'
    """
    said = _beats(black, white)
    if said is None:
        return None
    return (
        f"Black box beating white box: {said}. Knowing the gradients cannot hurt: they are masked, and the distances "
        "of attacks that follow them are too large."
    )


def transfer_beats_white_box(transfer: Curve, white: Curve) -> str | None:
    """Return a warning if adversarial examples of another network work better than the network's own.

    Example:
        >>> other, own = Curve("pgd on the surrogate", (1.0,), (4,), 16), Curve("pgd", (1.0,), (12,), 16)
        >>> transfer_beats_white_box(other, own)[:40]
        'Transfer beating white box: at a budget '
    """
    said = _beats(transfer, white)
    if said is None:
        return None
    return (
        f"Transfer beating white box: {said}. The network's own gradients are worth less than another network's: they "
        "are masked; attack through a smooth stand-in."
    )


def noise_as_good(noise: Curve, attack: Curve) -> str | None:
    """Return a warning if random noise does at some budget what the attack does, while some inputs survive the attack.

    Example:
        >>> noise_as_good(Curve("noise", (1.0, 2.0), (16, 10), 16), Curve("pgd", (1.0, 2.0), (16, 11), 16))[:37]
        'Random noise as good as an attack: at'
    """
    for epsilon, by_noise, by_attack in zip(noise.epsilons, noise.survivors, attack.survivors, strict=True):
        fooled = noise.samples - by_noise
        if fooled > noise.slack and by_attack > attack.slack and by_noise <= by_attack:
            return (
                f"Random noise as good as an attack: at a budget of {epsilon:.3g} it changes the class of {fooled:,} "
                f"of {noise.samples:,} inputs, {attack.name} that of {attack.samples - by_attack:,}. An attack whose "
                "directions are no better than chance measures nothing: look for masked gradients."
            )
    return None


def _beats(weaker: Curve, stronger: Curve) -> str | None:
    """Say where the attack that should be weaker leaves fewer inputs their class, by more than chance."""
    if weaker.epsilons != stronger.epsilons or weaker.samples != stronger.samples:
        raise InputError(f"expected {weaker.name} and {stronger.name} at the same budgets on the same inputs")
    gains = [other - own for own, other in zip(weaker.survivors, stronger.survivors, strict=True)]
    place = max(range(len(gains)), key=gains.__getitem__, default=None)
    if place is None or gains[place] <= weaker.slack:
        return None
    return (
        f"at a budget of {weaker.epsilons[place]:.3g}, {weaker.name} leaves {weaker.survivors[place]:,} of "
        f"{weaker.samples:,} inputs their class and {stronger.name} {stronger.survivors[place]:,}"
    )
