"""From a detector's scores to a threshold, an operating point and probabilities; larger scores are more suspicious."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.errors import InputError

_BATCH = 500


def threshold_at(scores: Tensor, false_positive_rate: float, *, confidence: float | None = None) -> float:
    r"""Return the least threshold at which new clean inputs are flagged at most so often.

    With n clean scores in ascending order it is the k-th one, :math:`k = \lceil (n + 1)(1 - \alpha) \rceil`. If a new
    clean score comes from where these came from, in any order alike, it is above the threshold with probability at most
    :math:`\alpha`, averaged over what the n scores happened to be; ties only make it less. The rate of one calibrated
    detector scatters around that with a standard deviation of about :math:`\sqrt{\alpha (1 - \alpha) / n}`. With a
    ``confidence``, k is the smallest at which the rate of *this* threshold is at most :math:`\alpha` with that
    probability:

    .. math:: P(\mathrm{Binomial}(n, \alpha) \le n - k) \le 1 - \text{confidence}

    Args:
        scores: ``(n,)`` of clean inputs, none of them trained on.
        false_positive_rate: :math:`\alpha`, above 0 and below 1.
        confidence: above 0 and below 1; None for the guarantee on average.

    Returns:
        The threshold; an input is flagged if its score is above it.

    Raises:
        InputError: a rate out of range, scores that are not finite, or too few of them.

    Source: Vovk et al. (2005), "Algorithmic learning in a random world", section 4.1; Papadopoulos et al. (2002).

    Example:
        >>> threshold_at(torch.arange(1.0, 20.0), 0.1)
        18.0
    """
    ordered = _checked(scores, "scores").sort().values
    count = len(ordered)
    _check_rate("false_positive_rate", false_positive_rate)
    if confidence is None:
        above = math.floor((count + 1) * false_positive_rate + 1e-9) - 1
    else:
        _check_rate("confidence", confidence)
        above = _largest_tail(count, false_positive_rate, 1 - confidence)
    if above < 0:
        raise InputError(
            f"expected more clean scores for a false-positive rate of {false_positive_rate:g}, got {count}"
        )
    return float(ordered[count - 1 - above])


@torch.no_grad()
def scores_of(detector: nn.Module, inputs: Tensor) -> Tensor:
    """Return a detector's scores ``(N,)`` of images ``(N, C, H, W)``, batch by batch."""
    return torch.cat([detector(chunk) for chunk in inputs.split(_BATCH)])


def calibrate_threshold(
    detector: nn.Module, inputs: Tensor, false_positive_rate: float, *, confidence: float | None = None
) -> float:
    """Set and return the ``threshold`` of a detector that flags at most so many clean images.

    Args:
        detector: gives scores, and has a buffer ``threshold``.
        inputs: ``(N, C, H, W)``, clean images that were not trained on and will not be tested on.
        false_positive_rate: see :func:`threshold_at`.
        confidence: likewise.

    Raises:
        InputError: too few images for this rate.
    """
    threshold = threshold_at(scores_of(detector, inputs), false_positive_rate, confidence=confidence)
    detector.get_buffer("threshold").fill_(threshold)
    return threshold


def _largest_tail(count: int, rate: float, probability: float) -> int:
    """Return the largest m with P(Binomial(count, rate) <= m) <= probability; -1 if there is none."""
    successes = torch.arange(count + 1, dtype=torch.float64)
    total = torch.tensor(count + 1.0, dtype=torch.float64)
    logs = total.lgamma() - (successes + 1).lgamma() - (total - successes).lgamma()
    logs = logs + successes * math.log(rate) + (count - successes) * math.log1p(-rate)
    return int((logs.logcumsumexp(0) <= math.log(probability)).sum()) - 1


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a detector does at one threshold.

    Attributes:
        threshold: scores above it are flagged.
        false_positive_rate: share of the clean inputs that are flagged.
        true_positive_rate: share of the adversarial inputs that are flagged.
    """

    threshold: float
    false_positive_rate: float
    true_positive_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The receiver operating characteristic of a detector: all that thresholds can do.

    Attributes:
        thresholds: ``(T,)`` float64, descending: the scores that occur, and minus infinity, which flags everything.
        false_positive_rate: ``(T,)`` float64, share of clean inputs above each.
        true_positive_rate: ``(T,)`` float64, share of adversarial inputs above each.
        area: under the curve: the probability that an adversarial input has a larger score than a clean one, half of
            the ties counted.
    """

    thresholds: Tensor
    false_positive_rate: Tensor
    true_positive_rate: Tensor
    area: float


def roc_curve(clean: Tensor, adversarial: Tensor) -> Curve:
    """Return the receiver operating characteristic of two sets of scores.

    torchmetrics flags what reaches a threshold, and squashes scores beyond [0, 1]; here what is above one is flagged,
    as everywhere in lipcert, and scores are taken as they are.

    Args:
        clean: ``(n,)`` scores of clean inputs.
        adversarial: ``(m,)`` scores of adversarial inputs.

    Raises:
        InputError: no scores, or some that are not finite.

    Example:
        >>> curve = roc_curve(torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.4]))
        >>> curve.area, curve.true_positive_rate.tolist()
        (0.75, [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    clean, adversarial = _checked(clean, "clean scores"), _checked(adversarial, "adversarial scores")
    found = torch.cat([clean, adversarial]).unique()
    thresholds = torch.cat([found.flip(0), torch.tensor([-math.inf], dtype=torch.float64, device=found.device)])
    false_positives, true_positives = (_share_above(scores, thresholds) for scores in (clean, adversarial))
    area = float(torch.trapezoid(true_positives, false_positives))
    return Curve(thresholds, false_positives, true_positives, area)


def operating_point(clean: Tensor, adversarial: Tensor, threshold: float) -> OperatingPoint:
    """Return what a detector does at a threshold.

    Args:
        clean: ``(n,)`` scores of clean inputs, others than the threshold was chosen on.
        adversarial: ``(m,)`` scores of adversarial inputs.
        threshold: scores above it are flagged.

    Raises:
        InputError: no scores, or some that are not finite.

    Example:
        >>> operating_point(torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.4]), 0.2)
        OperatingPoint(threshold=0.2, false_positive_rate=0.5, true_positive_rate=0.5)
    """
    rates = []
    for scores, what in ((clean, "clean"), (adversarial, "adversarial")):
        _checked(scores, f"{what} scores")
        rates.append(float((scores > torch.tensor(threshold).to(scores)).double().mean()))  # as detectors compare
    return OperatingPoint(threshold, *rates)


def platt(scores: Tensor, labels: Tensor, *, iterations: int = 100) -> tuple[float, float]:
    r"""Return scale a and shift b that make :math:`\sigma(a s + b)` the probability of label 1.

    They minimise the cross-entropy by Newton's method, with Platt's targets :math:`(n_1 + 1) / (n_1 + 2)` and
    :math:`1 / (n_0 + 2)` instead of 1 and 0, so that scores which separate the labels do not lead to infinity.

    Args:
        scores: ``(n,)``.
        labels: ``(n,)``, 0 or 1, both among them.
        iterations: at most.

    Raises:
        InputError: labels of one kind only, or of another kind, or scores that are not finite or all the same.

    Source: Platt (1999), "Probabilistic outputs for support vector machines"; the safe steps, Lin et al. (2007), "A
    note on Platt's probabilistic outputs".

    Example:
        >>> scale, shift = platt(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0, 1, 0, 1]))
        >>> scale > 0, round(shift / scale, 3)
        (True, -1.5)
    """
    values = _checked(scores, "scores")
    if labels.shape != values.shape or not bool(((labels == 0) | (labels == 1)).all()):
        raise InputError(f"expected {len(values)} labels, 0 for clean and 1 for adversarial, got others")
    ones = int(labels.sum())
    zeros = len(values) - ones
    if not ones or not zeros:
        raise InputError(f"expected clean and adversarial samples, got {zeros} and {ones}")
    if bool((values == values[0]).all()):
        raise InputError(f"expected scores that differ, got {values[0].item():g} for all of {len(values)}")
    center, spread = values.mean(), values.std()
    design = torch.stack([(values - center) / spread, torch.ones_like(values)], 1)
    targets = torch.where(labels == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2)).to(values)
    found = torch.zeros(2, dtype=torch.float64, device=values.device)
    loss = _cross_entropy(design @ found, targets)
    for _ in range(iterations):
        probability = (design @ found).sigmoid()
        slope = design.T @ (probability - targets)
        curvature = (design.T * (probability * (1 - probability))) @ design
        step = torch.linalg.solve(curvature + 1e-12 * torch.eye(2).to(curvature), slope)
        size = 1.0
        while size > 1e-10 and _cross_entropy(design @ (found - size * step), targets) > loss:
            size /= 2
        found = found - size * step
        previous, loss = loss, _cross_entropy(design @ found, targets)
        if previous - loss <= 1e-14 * abs(previous):
            break
    scale = float(found[0] / spread)
    return scale, float(found[1]) - scale * float(center)


def _cross_entropy(logits: Tensor, targets: Tensor) -> float:
    return float(nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum"))


def _share_above(scores: Tensor, thresholds: Tensor) -> Tensor:
    below = torch.searchsorted(scores.sort().values, thresholds, right=True)
    return 1 - below.double() / len(scores)


def _checked(scores: Tensor, what: str) -> Tensor:
    if scores.ndim != 1 or len(scores) == 0:
        raise InputError(f"expected {what} of shape (n,), got {tuple(scores.shape)}")
    if not bool(scores.isfinite().all()):
        raise InputError(f"expected finite {what}, got nan or infinity")
    return scores.detach().double()


def _check_rate(name: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise InputError(f"expected 0 < {name} < 1, got {rate:g}")
