"""Classifiers that may reject an input, attacked together with what rejects it: a flagged example counts for nothing.

An adversary of a classifier with a detector has to do both: change the class, and not be flagged. Everything here is
built around one convention, **K + 1 logits**: a network that may reject gives K logits of classes and one more, the
last, that is the largest where the input is rejected. :class:`DetectedNetwork` makes such a network of a classifier and
a detector, and a network that was trained to reject is one as it is. :func:`jointly` makes any attack one that leaves
the class *and* stays below the detector's threshold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Attack, Findings, Task
from lipcert.attacks.task import within
from lipcert.certificates import Certificate, certify
from lipcert.errors import InputError
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
        self.threshold = threshold
        self.slope = slope

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, K + 1)`` logits."""
        logits: Tensor = self.classifier(inputs)
        excess, flagged = self._excess(inputs)
        largest = logits.amax(1)
        last = largest + self.slope * excess.to(logits)
        # a sum that rounds to the wrong side would let through what the detector flags, or the other way round
        settled = torch.where(flagged, torch.nextafter(largest, torch.full_like(largest, torch.inf)), largest).detach()
        wrong = (last > largest) != flagged
        return torch.cat([logits, torch.where(wrong & ~excess.isnan(), settled, last)[:, None]], dim=1)

    def flags(self, inputs: Tensor) -> Tensor:
        """Return which inputs ``(N,)`` the detector flags."""
        return self._excess(inputs)[1]

    def _excess(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        score = self.detector(inputs)
        if score.shape != (len(inputs),):
            raise InputError(f"expected flags or scores of shape ({len(inputs)},), got {tuple(score.shape)}")
        if score.dtype == torch.bool:
            return score.to(inputs) - 0.5, score
        return score - self.threshold, score > self.threshold


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


@dataclass(frozen=True)
class _Jointly(Attack):
    """An attack on networks with K + 1 logits, the last of which is rejection."""

    attack: Attack

    def run(self, model: nn.Module, task: Task) -> Findings:
        """Attack class by class; return the input itself where it is rejected, before or after."""
        candidates = task.inputs.clone()
        details: dict[str, list[str | int | None]] = {}
        with torch.no_grad():
            last = model(task.inputs[:1]).shape[1] - 1
        for label in task.labels.unique().tolist():
            chosen = (task.labels == label).nonzero().flatten()
            if label == last:  # what is rejected as it is has no class to leave
                continue
            found = self.attack.run(KeepsClass(model, label).eval(), _part(task, chosen))
            if isinstance(found, Findings):
                _enter(details, found, chosen.tolist(), samples=len(task.labels))
                found = found.candidates
            candidates[chosen] = found.detach().to(candidates)
        unusable = ~within(candidates, task.bounds) | _rejected(model, candidates, last)
        candidates = torch.where(unusable.view(-1, *[1] * (candidates.ndim - 1)), task.inputs, candidates)
        return Findings(candidates, {name: tuple(values) for name, values in details.items()})

    def parameters(self) -> dict[str, int | float | str]:
        """Return the settings of the attack."""
        return self.attack.parameters()

    def forward_budget(self, samples: int) -> int | None:
        """Return the passes of the attack, and those that look for rejection."""
        budget = self.attack.forward_budget(samples)
        return None if budget is None else budget + 2 * samples + 1


def _part(task: Task, chosen: Tensor) -> Task:
    tensors: dict[str, Any] = {
        field.name: value[chosen]
        for field in dataclasses.fields(task)
        if isinstance(value := getattr(task, field.name), Tensor)
    }
    return dataclasses.replace(task, **tensors)


def _enter(details: dict[str, list[str | int | None]], found: Findings, chosen: Sequence[int], *, samples: int) -> None:
    for name, values in found.details.items():
        of_all = details.setdefault(name, [None] * samples)
        for place, value in zip(chosen, values, strict=True):
            of_all[place] = value


@torch.no_grad()
def _rejected(model: nn.Module, candidates: Tensor, last: int) -> Tensor:
    """Return what is rejected ``(N,)`` in the batch or alone: verification looks at both."""
    alone = torch.cat([model(chunk).argmax(1) for chunk in candidates.split(1)])
    together: Tensor = model(candidates).argmax(1)
    return (together == last) | (alone == last)


def jointly(attack: Attack) -> Attack:
    """Return an attack on networks with K + 1 logits whose examples count only if misclassified and not rejected.

    The attack is run as it is, on the network as :class:`KeepsClass` shows it. An input that is rejected unattacked is
    left alone.

    Args:
        attack: any attack.

    Example:
        >>> from lipcert.attacks import CarliniWagner
        >>> jointly(CarliniWagner()).name
        'carlini-wagner-l2 with detector'
    """
    facts = {
        "name": f"{attack.name} with detector",
        "norms": attack.norms,
        "targeted": attack.targeted,
        "fixed_budget": attack.fixed_budget,
        "black_box": attack.black_box,
        "__doc__": _Jointly.__doc__,
    }
    kind: type[_Jointly] = type("Jointly", (_Jointly,), facts)
    return kind(attack)


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
