"""Can the attacks on a network be trusted at all? Every reason not to is one warning, with figures and what to do.

Two calls make up the report's warnings: :func:`trust_checks` before the attacks, from the network and a few inputs, and
:func:`result_checks` after them, from what they found. Each check is a function of its own, in the modules below; one
more needs another network, see :func:`lipcert.harness.trust_comparisons.transfer_check`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.verify import predictions
from lipcert.certificates.lower_bound import lipschitz_lower_bound
from lipcert.errors import InputError
from lipcert.harness.detectors import DetectedNetwork, flat_detector
from lipcert.harness.result import AttackRow
from lipcert.harness.trust_comparisons import curve_checks
from lipcert.harness.trust_forward import (
    batch_dependent,
    dynamic,
    finite_logits,
    not_finite,
    randomised,
    softmax_outputs,
    training_mode,
)
from lipcert.harness.trust_gradient import margin_slopes, masked_gradients, vanishing_gradients, zero_gradients

SAMPLES = 32
"""Inputs that are looked at, spread over those that are handed in."""

TITLES = (
    "Training mode",
    "Logits that are not finite",
    "Randomised",
    "Batch dependence",
    "Dynamic",
    "Softmax outputs",
    "Zero gradients",
    "Vanishing gradients",
    "Masked gradients",
    "Detector without a slope",
    "False Lipschitz constant",
    "Accuracy not falling to zero",
    "Non-monotone curve",
    "Iterated attack weaker than a single step",
    "Black box beating white box",
    "Transfer beating white box",
    "Random noise as good as an attack",
    "Too few classes",
)
"""How the warnings of this module begin, before a colon."""

ATTACKED = 16
STEEPEST = 4
STEPS = 30
CLEARLY = 0.95
SHARE = 0.1


def trust_checks(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    lipschitz_upper_bound: float = math.inf,
    has_slope: bool = True,
) -> tuple[str, ...]:
    """Return what speaks against trusting attacks on a network, and against its claimed constant.

    A network that is not a fixed function of one input, because it is in training mode, randomised, or dependent on the
    batch, is told so and not looked at any further; one that returns nan is not attacked. Of a classifier with a
    detector the classifier is looked at, and whether attacks can see the detector.

    Args:
        network: as it will be attacked; it is left as it is, and so are torch's random numbers.
        inputs: ``(N, C, H, W)`` in [0, 1]; all are evaluated once, at most 32 are looked at closely, and at most 16
            attacked, by a few cheap attacks.
        labels: ``(N,)`` int64, the classes that attacks are to leave: the network's own predictions.
        lipschitz_upper_bound: the L2 constant that certificates claim; infinite if they claim none.
        has_slope: whether the outputs are logits with a slope, which is then looked at and followed.

    Returns:
        One sentence or two a defect.

    Raises:
        InputError: no inputs, labels that do not fit, or fewer than two logits.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
        >>> _ = network[1].weight.data.copy_(torch.eye(2))
        >>> inputs = torch.tensor([[0.75, 0.5], [0.25, 0.5]]).view(2, 1, 1, 2)
        >>> trust_checks(network, inputs, network(inputs).argmax(1))
        ()
        >>> trust_checks(nn.Sequential(network, nn.Dropout()), inputs, network(inputs).argmax(1))[0][:13]
        'Training mode'
    """
    in_training = training_mode(network)
    if in_training:
        return (in_training,)
    with torch.random.fork_rng(devices=[]):
        _check(network, inputs, labels)
        said = [not_finite(network, inputs) if has_slope else None]  # votes are counts, and may be of some images only
        few = _spread(finite_logits(network, inputs), SAMPLES)
        if len(few):
            inputs, labels = inputs[few], labels[few]
            unsteady = randomised(network, inputs) or batch_dependent(network, inputs)
            said += [unsteady] if unsteady else [dynamic(network, inputs), flat_detector(network, inputs)]
            if isinstance(network, DetectedNetwork):  # what has logits, a slope and a constant is the classifier
                network = network.classifier
            if not unsteady and has_slope:
                said += _checks_of_a_function(network, inputs, lipschitz_upper_bound)
            if not unsteady and has_slope and said[0] is None:
                said += _checks_under_attack(network, inputs, labels)
    return tuple(warning for warning in said if warning is not None)


def _check(network: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    if inputs.ndim < 2 or len(inputs) == 0 or labels.shape != inputs.shape[:1]:
        found = f"{tuple(inputs.shape)} and {tuple(labels.shape)}"
        raise InputError(f"expected inputs (N, C, H, W) with labels (N,), got {found}")
    with torch.no_grad():
        logits = network(inputs[:2])
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InputError(f"expected at least two logits an input, got outputs of shape {tuple(logits.shape)}")


def _spread(usable: Tensor, count: int) -> Tensor:
    """Return at most so many positions of what is usable, evenly spread: data are often sorted by class."""
    positions = usable.nonzero().flatten()
    if len(positions) <= count:
        return positions
    return positions[torch.linspace(0, len(positions) - 1, count, device=positions.device).long()]


def _checks_of_a_function(network: nn.Module, inputs: Tensor, constant: float) -> list[str | None]:
    slopes = margin_slopes(network, inputs)
    return [
        softmax_outputs(network, inputs),
        zero_gradients(slopes),
        vanishing_gradients(slopes),
        masked_gradients(network, slopes),
        false_constant(network, inputs, constant),
    ]


def _checks_under_attack(network: nn.Module, inputs: Tensor, labels: Tensor) -> list[str | None]:
    own = (predictions(network, inputs) == labels).nonzero().flatten()
    own = own[_spread(torch.ones_like(own, dtype=torch.bool), ATTACKED)]
    return curve_checks(network, inputs[own], labels[own]) if len(own) else []


def false_constant(network: nn.Module, inputs: Tensor, lipschitz_upper_bound: float) -> str | None:
    """Return a warning if the logits of two images are further apart than the claimed constant allows.

    No radius has to be refuted for that, so a constant that is too small is found out even where attacks are far from
    the radii.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1], where the search begins; the first four are enough.
        lipschitz_upper_bound: the claimed constant; infinite claims nothing.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
        >>> _ = network[1].weight.data.copy_(torch.eye(2))
        >>> false_constant(network, torch.full((1, 1, 1, 2), 0.5), 1.0) is None
        True
        >>> false_constant(network, torch.full((1, 1, 1, 2), 0.5), 0.9)[:53]
        'False Lipschitz constant: two images have logits 1 ti'
    """
    if math.isinf(lipschitz_upper_bound):
        return None
    try:
        found = lipschitz_lower_bound(network, inputs[:STEEPEST], steps=STEPS)
    except RuntimeError:  # no second derivatives, no float64: the search finds nothing
        return None
    if found <= lipschitz_upper_bound * (1 + 1e-9):
        return None
    return (
        f"False Lipschitz constant: two images have logits {found:.6g} times as far apart as they are, the "
        f"certificates claim at most {lipschitz_upper_bound:.6g}. No radius that was divided by it is proved, refuted "
        "or not."
    )


def result_checks(
    attacks: Sequence[AttackRow],
    *,
    classes: int,
    found: Mapping[str, Mapping[int, float]] | None = None,
    black_box: Collection[str] = (),
) -> tuple[str, ...]:
    """Return what the outcome of the attacks says against themselves.

    Args:
        attacks: what every attack did.
        classes: number of classes K.
        found: by the name of an attack, the distance of what it found, by sample; infinite where it found nothing.
        black_box: names of the attacks that use no gradients.

    Example:
        >>> row = AttackRow("autoattack", {}, 9, 1.0, 0.5, 0, 1.0, 9, 9)
        >>> [warning[:28] for warning in result_checks([row], classes=3)]
        ['Too few classes: with 3 clas']
        >>> distances = {"pgd": {0: 1.0, 1: 2.0}, "square": {0: 0.5, 1: 2.0}}
        >>> [warning[:38] for warning in result_checks([], classes=10, found=distances, black_box=["square"])]
        ['Black box beating white box: at 1 of 2']
    """
    said = [
        too_few_classes([attack.name for attack in attacks], classes),
        nearer_without_gradients(found or {}, black_box),
    ]
    return tuple(warning for warning in said if warning is not None)


def too_few_classes(attacks: Collection[str], classes: int) -> str | None:
    """Return a warning if AutoAttack's targeted loss, which needs four logits, cannot be what it is meant to be.

    Source: the difference-of-logits-ratio loss of Croce & Hein (2020), arXiv 2003.01690, section 4.

    Example:
        >>> too_few_classes(["autoattack"], 4) is None, too_few_classes(["pgd"], 2) is None
        (True, True)
    """
    ran = sorted(name for name in attacks if name.startswith("autoattack"))
    if not ran or classes >= 4:
        return None
    return (
        f"Too few classes: with {classes} classes {ran[0]} has no targeted difference-of-logits ratio, which needs "
        "four logits: it is weaker here than its name promises; look at the other attacks."
    )


def nearer_without_gradients(found: Mapping[str, Mapping[int, float]], black_box: Collection[str]) -> str | None:
    """Return a warning if attacks without gradients come clearly nearer than all others, on a tenth of the samples.

    Source: after Carlini et al. (2019), arXiv 1902.06705, on attacks that should be stronger.
    """
    white = _best(distances for name, distances in found.items() if name not in black_box)
    black = _best(distances for name, distances in found.items() if name in black_box)
    both = sorted(set(white) & set(black))
    nearer = [sample for sample in both if black[sample] < CLEARLY * white[sample]]
    return told_of_black_boxes(len(both), len(nearer), sum(math.isinf(white[sample]) for sample in nearer))


def told_of_black_boxes(both: int, nearer: int, only: int) -> str | None:
    """Return the warning of :func:`nearer_without_gradients`, given what it rests on.

    Args:
        both: number of samples that attacks with and without gradients have attacked.
        nearer: on how many those without came clearly nearer,
        only: and on how many of these the others found nothing at all.
    """
    if not nearer or nearer < SHARE * both:
        return None
    return (
        f"Black box beating white box: at {nearer:,} of {both:,} samples that both attacked, what was found "
        f"without gradients is more than {1 - CLEARLY:.0%} nearer than what was found with them, which is nothing at "
        f"all at {only:,}. The gradients are masked: distances are too large, attack with more queries."
    )


def _best(found: Iterable[Mapping[int, float]]) -> dict[int, float]:
    best: dict[int, float] = {}
    for distances in found:
        for sample, distance in distances.items():
            best[sample] = min(distance, best.get(sample, math.inf))
    return best
