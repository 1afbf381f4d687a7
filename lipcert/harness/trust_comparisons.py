"""Do attacks behave as working attacks do? Curves of what survives them, read one against another."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from lipcert.attacks import FastGradient, ProjectedGradient, SquareAttack
from lipcert.attacks.verify import predictions
from lipcert.errors import InputError
from lipcert.harness.detectors import DetectedNetwork
from lipcert.harness.trust_curves import Curve, attack_curve, diameter, noise_curve, transfer_curve

SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
"""Budgets that are tried, as shares of the diameter of the box of images."""

MANY_PIXELS = 64
"""Among fewer, twenty random directions are a search."""

SINGLE = FastGradient("l2")
ITERATED = ProjectedGradient(steps=20, step_size=0.2)
WITHOUT_GRADIENTS = SquareAttack(queries=100)


def curve_checks(network: nn.Module, inputs: Tensor, labels: Tensor) -> list[str | None]:
    """Return what the curves of a few cheap attacks say against attacks that follow the network's gradients.

    The attack without gradients is run at the largest budget only at which some inputs survive the iterated attack.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1], a few.
        labels: ``(N,)`` int64, the network's own classes.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
        >>> _ = network[1].weight.data.copy_(torch.eye(2))
        >>> inputs = torch.rand(4, 1, 1, 2)
        >>> set(curve_checks(network, inputs, network(inputs).argmax(1)))
        {None}
    """
    reach = diameter(inputs)
    epsilons = [share * reach for share in SHARES]
    iterated = attack_curve(network, inputs, labels, ITERATED, epsilons)
    several = len(labels.unique()) > 1  # or there may be nothing to find in all of the box
    said = [
        not_falling_to_zero(iterated, reach) if several else None,
        not_monotone(iterated),
        single_step_beats_iterated(attack_curve(network, inputs, labels, SINGLE, epsilons), iterated),
    ]
    if inputs[0].numel() >= MANY_PIXELS:
        said.append(noise_as_good(noise_curve(network, inputs, labels, epsilons), iterated))
    survived = [place for place, kept in enumerate(iterated.survivors) if kept > iterated.slack]
    if survived:
        budget = [iterated.epsilons[survived[-1]]]
        white = Curve(iterated.name, tuple(budget), (iterated.survivors[survived[-1]],), iterated.samples)
        said.append(black_box_beats_white_box(attack_curve(network, inputs, labels, WITHOUT_GRADIENTS, budget), white))
    return said


def transfer_check(network: nn.Module, surrogate: nn.Module, inputs: Tensor) -> str | None:
    """Return a warning if adversarial examples of another network work better than the network's own.

    Args:
        network: in eval mode; it is left as it is. Of a classifier with a detector the classifier is looked at.
        surrogate: a network with the same classes, in eval mode; an undefended one is the most telling.
        inputs: ``(N, C, H, W)`` in [0, 1], a few.

    Raises:
        InputError: the surrogate has other classes.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> transfer_check(network, network, torch.rand(4, 1, 1, 2)) is None
        True
    """
    network = network.classifier if isinstance(network, DetectedNetwork) else network
    labels, epsilons = predictions(network, inputs), [share * diameter(inputs) for share in SHARES]
    return transfer_beats_white_box(
        transfer_curve(network, surrogate, inputs, labels, ITERATED, epsilons),
        attack_curve(network, inputs, labels, ITERATED, epsilons),
    )


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
