"""Classifiers that may reject an input, attacked together with what rejects it: a flagged example counts for nothing.

An adversary of a classifier with a detector has to do both: change the class, and not be flagged. Everything here is
built around one convention, **K + 1 logits**: a network that may reject gives K logits of classes and one more, the
last, that is the largest where the input is rejected. :class:`DetectedNetwork` makes such a network of a classifier and
a detector, and a network that was trained to reject is one as it is. :func:`lipcert.harness.joint_attack.jointly` makes
any attack one that leaves the class *and* stays below the detector's threshold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.certificates import Certificate, certify
from lipcert.errors import InputError
from lipcert.harness.foreign import load_foreign
from lipcert.harness.result import SampleRow

REJECTED = "rejected"
"""The name of the last class of a network that may reject."""


class Detector(Protocol):
    """What says whether an input looks tampered with."""

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """Return ``(N,)`` bool flags, or ``(N,)`` scores that are larger the more suspicious an input is."""


class DetectedNetwork(nn.Module):
    r"""A classifier and a detector as one network with K + 1 logits, the last one the largest where it is flagged.

    .. math:: z_{K+1}(x) = \max_{j \le K} z_j(x) + \alpha \, (s(x) - \tau)

    An input is rejected, that is :math:`z_{K+1} > \max_j z_j`, if and only if its score :math:`s` is above the
    threshold :math:`\tau`, whatever rounding does to the sum. Gradients of the last logit lead below the threshold.
    Flags without a score have no slope: only attacks that ask for classes get around such a detector.

    Args:
        classifier: gives K logits.
        detector: a module, or anything that can be copied, that gives ``(N,)`` bool flags or floating-point scores.
        threshold: score above which an input is flagged; flags are taken as they are.
        slope: :math:`\alpha`, how many units of logit a unit of score is worth to an attack; it changes no decision.

    Raises:
        InputError: a threshold that is nan, or a slope that is not above 0.

    Source: after Carlini & Wagner (2017), arXiv 1705.07263, who attack detector and classifier at once.

    Example:
        >>> class TooBright(nn.Module):
        ...     def forward(self, inputs):
        ...         return inputs.flatten(1).mean(1)
        >>> joint = DetectedNetwork(nn.Flatten(), TooBright(), threshold=0.5).eval()
        >>> joint(torch.tensor([[0.25, 0.5], [0.75, 0.5]]).view(2, 1, 1, 2)).argmax(1).tolist()
        [1, 2]
    """

    threshold: Tensor
    slope: Tensor

    def __init__(
        self, classifier: nn.Module, detector: Detector, *, threshold: float = 0.5, slope: float = 1.0
    ) -> None:
        super().__init__()
        if threshold != threshold:
            raise InputError("expected a threshold, got nan")
        if not 0 < slope < float("inf"):
            raise InputError(f"expected a finite slope > 0, got {slope:g}")
        self.classifier = classifier
        self.detector = detector
        # buffers: what is audited is known by its tensors
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float64))
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, K + 1)`` logits."""
        logits: Tensor = self.classifier(inputs)
        excess, flagged = self._judged(inputs)
        largest = logits.amax(1)
        last = largest + self.slope.to(logits) * excess.to(logits)
        # a sum that rounds to the wrong side would let through what the detector flags, or the other way round
        settled = torch.where(flagged, torch.nextafter(largest, torch.full_like(largest, torch.inf)), largest).detach()
        wrong = (last > largest) != flagged
        return torch.cat([logits, torch.where(wrong & ~excess.isnan(), settled, last)[:, None]], dim=1)

    def flags(self, inputs: Tensor) -> Tensor:
        """Return which inputs ``(N,)`` the detector flags."""
        return self._judged(inputs)[1]

    def excess(self, inputs: Tensor) -> Tensor:
        """Return how far the score of each input ``(N,)`` is above the threshold."""
        return self._judged(inputs)[0]

    def _judged(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        score = self.detector(inputs)
        if score.shape != (len(inputs),):
            raise InputError(f"expected flags or scores of shape ({len(inputs)},), got {tuple(score.shape)}")
        if score.dtype == torch.bool:
            return score.to(inputs) - 0.5, score
        threshold = self.threshold.to(score)
        return score - threshold, score > threshold


class KeepsClass(nn.Module):
    r"""A network with K + 1 logits seen by an attack on one class: K logits, and being rejected counts as keeping it.

    .. math:: z'_y = \max(z_y, z_{K+1}), \qquad z'_j = z_j \text{ for } j \ne y

    The class is another than y if and only if the input is not rejected and its class is not y, ties apart.

    Args:
        joint: gives K + 1 logits.
        label: the class to leave.

    Example:
        >>> network = KeepsClass(nn.Flatten(), 0)
        >>> network(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 0.0]]).view(2, 1, 1, 3)).argmax(1).tolist()
        [0, 1]
    """

    def __init__(self, joint: nn.Module, label: int) -> None:
        super().__init__()
        self.joint = joint
        self.label = label

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, K)`` logits."""
        logits = self.joint(inputs)
        classes, last = logits[:, :-1], logits[:, -1]
        kept = torch.maximum(classes[:, self.label], last)
        return torch.cat([classes[:, : self.label], kept[:, None], classes[:, self.label + 1 :]], dim=1)


def certify_detected(
    model: nn.Module, inputs: Tensor, *, certifier: Callable[[nn.Module, Tensor], Certificate] = certify
) -> Certificate:
    """Return the certificates of a :class:`DetectedNetwork`: its classifier's.

    As long as the classifier keeps its class there is nothing for the detector to miss, so within the radius nothing is
    misclassified and not flagged. A clean input that is flagged is certified for nothing and has the last class.

    Args:
        model: a :class:`DetectedNetwork` in eval mode; anything else is handed to the certifier as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].
        certifier: certifies the classifier.
    """
    if not isinstance(model, DetectedNetwork):
        return certifier(model, inputs)
    found = certifier(model.classifier, inputs)
    with torch.no_grad():
        flagged = torch.cat([model.flags(chunk) for chunk in inputs.split(500)]).to(found.prediction.device)
        last = model(inputs[:1]).shape[1] - 1
    said = (
        "A certificate is the classifier's: within the radius it keeps its class, or the input is flagged, which "
        "counts as keeping it.",
    )
    return dataclasses.replace(
        found,
        prediction=torch.where(flagged, last, found.prediction),
        radius=torch.where(flagged, 0.0, found.radius),
        assumptions=(*found.assumptions, *said),
    )


def flat_detector(network: nn.Module, inputs: Tensor) -> str | None:
    """Return a warning if nothing leads an attack around a detector: its score has no gradient anywhere.

    Args:
        network: in eval mode; anything but a :class:`DetectedNetwork` has no detector.
        inputs: ``(N, C, H, W)`` in [0, 1].

    Example:
        >>> class Dark(nn.Module):
        ...     def forward(self, inputs):
        ...         return inputs.flatten(1).mean(1) < 0.25
        >>> flat_detector(DetectedNetwork(nn.Flatten(), Dark()).eval(), torch.rand(4, 1, 2, 2))[:51]
        'Detector without a slope: its score has no gradient'
    """
    if not isinstance(network, DetectedNetwork):
        return None
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        score = network.excess(leaf).sum()
        slope = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
    if slope is not None and bool((slope != 0).any()):
        return None
    return (
        f"Detector without a slope: its score has no gradient at any of {len(inputs):,} inputs, so attacks that follow "
        "gradients only stay clear of it by chance. Give the score instead of the flag, and attack with hop-skip-jump "
        "and boundary, which ask for decisions."
    )


def false_alarms(rows: Sequence[SampleRow], rejected: int) -> str | None:
    """Return a warning with the share of clean images that are rejected, None if none is.

    Args:
        rows: every sample of the split.
        rejected: number of the last class.

    Example:
        >>> false_alarms([SampleRow(0, 1, 3, 0.0), SampleRow(1, 1, 1, 0.0)], 3)[:62]
        'The detector flags 1 of 2 clean images (50.0%), which count as'
    """
    flagged = sum(row.prediction == rejected for row in rows)
    if not flagged:
        return None
    return (
        f"The detector flags {flagged:,} of {len(rows):,} clean images ({flagged / len(rows):.1%}), which count as "
        "misclassified; a detector that flags everything cannot be fooled."
    )


def load_detected(
    classifier: nn.Module,
    detector: str,
    *,
    weights: str | Path | None = None,
    arguments: str | Mapping[str, Any] | None = None,
    threshold: float = 0.5,
) -> DetectedNetwork:
    """Return the classifier with the detector of ``--detector package.module:factory --threshold T``.

    Args:
        classifier: network in eval mode.
        detector: import path of a class or function that returns the detector, an ``nn.Module``.
        weights: its weights, see :func:`lipcert.harness.foreign.load_foreign`.
        arguments: keyword arguments of the factory, or the JSON object that holds them.
        threshold: score above which an input is flagged.

    Raises:
        InputError: it cannot be loaded.
    """
    loaded = load_foreign(detector, weights=weights, arguments=arguments)
    return DetectedNetwork(classifier, loaded.network, threshold=threshold).eval()


def check_rejects(network: nn.Module, inputs: Tensor, classes: int) -> None:
    """Refuse a network that does not give one logit a class and one more for rejection.

    Args:
        network: in eval mode.
        inputs: ``(N, C, H, W)`` in [0, 1]; one is enough.
        classes: number of classes K of the data.

    Raises:
        InputError: says what was expected and found.

    Example:
        >>> check_rejects(nn.Flatten(), torch.rand(1, 1, 1, 4), 4)
        Traceback (most recent call last):
        lipcert.errors.InputError: expected 5 logits, one a class and one for rejection, got 4
    """
    try:
        with torch.no_grad():
            found = network(inputs).shape[1]
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"expected a detector that runs on images {tuple(inputs.shape[1:])}, got {reason}") from error
    if found != classes + 1:
        raise InputError(f"expected {classes + 1} logits, one a class and one for rejection, got {found}")
