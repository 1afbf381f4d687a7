"""Metrics under attack and certificates as MAITE metrics, over the torchmetrics of ``lipcert.metrics``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lipcert.errors import InputError
from lipcert.interop.batches import classes
from lipcert.interop.maite.models import metadata_of
from lipcert.metrics import (
    AdversarialAccuracy,
    AverageCertifiedRadius,
    CertifiedAccuracy,
    CleanAccuracy,
    RobustAccuracy,
    SuccessfulPerturbation,
    check_epsilons,
)

_ATTACKED = "evaluate with augmentation=AttackAugmentation(...)"
_CERTIFIED = "evaluate with augmentation=CertifyAugmentation(...)"


class ClassificationMetric(ABC):
    """What the metrics share: batches are added up; predictions and targets may be classes, scores or one-hot rows.

    Args:
        id: of the metric.
        **metrics: what is summed up, by the name that :meth:`compute` gives it.

    Attributes:
        metadata: ``id``.
    """

    def __init__(self, id: str, **metrics: Metric) -> None:
        self.metadata = metadata_of(id, ())
        self.metrics = metrics
        self._updated = False

    def reset(self) -> None:
        """Forget all batches."""
        self._updated = False
        for metric in self.metrics.values():
            metric.reset()

    def update(
        self, pred_batch: Sequence[Any], target_batch: Sequence[Any], metadata_batch: Sequence[Any] | None = None, /
    ) -> None:
        """Add a batch.

        Args:
            pred_batch: N predictions: scores ``(K,)`` or classes.
            target_batch: N true classes, as numbers or one-hot rows.
            metadata_batch: N dictionaries; what has to be in them, the class says.

        Raises:
            InputError: as many of one as of the others are missing, or something in the metadata is.
        """
        preds, target = classes(pred_batch, what="predictions"), classes(target_batch)
        entries = [{}] * len(target) if metadata_batch is None else list(metadata_batch)
        if not len(preds) == len(target) == len(entries):
            found = f"{len(preds)}, {len(target)} and {len(entries)}"
            raise InputError(f"expected as many predictions as targets and metadata, got {found}")
        self.add(preds, target, entries)
        self._updated = True

    @abstractmethod
    def add(self, preds: Tensor, target: Tensor, metadata: Sequence[Any]) -> None:
        """Add a batch: ``(N,)`` predicted classes, ``(N,)`` true ones, and metadata."""

    def compute(self) -> dict[str, float]:
        """Return the values over all batches by name.

        Raises:
            InputError: no batch was added.
        """
        if not self._updated:
            raise InputError("expected at least one batch before compute, got none")
        return {name: float(metric.compute()) for name, metric in self.metrics.items()}


class CleanAccuracyMetric(ClassificationMetric):
    """Share of all images that are classified right, before any attack.

    Where the metadata have a ``benign_prediction``, predictions are of attacked images, and that one counts.

    Example:
        >>> metric = CleanAccuracyMetric()
        >>> metric.update([[0.1, 0.9], [0.8, 0.2]], [1, 1], [{"id": 0}, {"id": 1}])
        >>> metric.compute()
        {'clean_accuracy': 0.5}
    """

    def __init__(self, *, id: str = "clean_accuracy") -> None:
        super().__init__(id, clean_accuracy=CleanAccuracy())

    def add(self, preds: Tensor, target: Tensor, metadata: Sequence[Any]) -> None:
        """Add a batch."""
        if any("benign_prediction" in entry for entry in metadata):
            preds = _column(metadata, "benign_prediction", _ATTACKED)
        self.metrics["clean_accuracy"].update(preds, target)


class RobustAccuracyMetric(ClassificationMetric):
    """Share of *all* images that are right before the attack and stay so: ``benign_prediction`` and the prediction.

    Example:
        >>> metric = RobustAccuracyMetric()
        >>> metric.update([1, 1], [[0, 1], [0, 1]], [{"benign_prediction": 1}, {"benign_prediction": 0}])
        >>> metric.compute()
        {'robust_accuracy': 0.5}
    """

    def __init__(self, *, id: str = "robust_accuracy") -> None:
        super().__init__(id, robust_accuracy=RobustAccuracy())

    def add(self, preds: Tensor, target: Tensor, metadata: Sequence[Any]) -> None:
        """Add a batch."""
        self.metrics["robust_accuracy"].update(_column(metadata, "benign_prediction", _ATTACKED), preds, target)


class AdversarialAccuracyMetric(ClassificationMetric):
    """Share that stays right *of the images that were right* before the attack; not a number if none was."""

    def __init__(self, *, id: str = "adversarial_accuracy") -> None:
        super().__init__(id, adversarial_accuracy=AdversarialAccuracy())

    def add(self, preds: Tensor, target: Tensor, metadata: Sequence[Any]) -> None:
        """Add a batch."""
        self.metrics["adversarial_accuracy"].update(_column(metadata, "benign_prediction", _ATTACKED), preds, target)


class CertifiedAccuracyMetric(ClassificationMetric):
    """Share of all images that are right and certified at each epsilon, and the average certified radius (ACR).

    Both are of the ``radius`` and ``certified_prediction`` in the metadata, whatever the images became afterwards.

    Args:
        epsilons: in [0, 1] pixel units.
        id: of the metric.

    Raises:
        InputError: an epsilon that is negative or not finite.

    Example:
        >>> metric = CertifiedAccuracyMetric([0.0, 0.5])
        >>> metric.update([1], [1], [{"id": 0, "radius": 0.25, "certified_prediction": 1}])
        >>> metric.compute()
        {'certified_accuracy_0': 1.0, 'certified_accuracy_0.5': 0.0, 'average_certified_radius': 0.25}
    """

    def __init__(self, epsilons: Sequence[float], *, id: str = "certified_accuracy") -> None:
        self.epsilons = check_epsilons(epsilons)
        accuracies = {f"certified_accuracy_{epsilon:g}": CertifiedAccuracy([epsilon]) for epsilon in self.epsilons}
        super().__init__(id, **accuracies, average_certified_radius=AverageCertifiedRadius())

    def add(self, preds: Tensor, target: Tensor, metadata: Sequence[Any]) -> None:
        """Add a batch."""
        radius = _column(metadata, "radius", _CERTIFIED)
        certified = _column(metadata, "certified_prediction", _CERTIFIED)
        if len({entry.get("radius_norm") for entry in metadata}) > 1:
            raise InputError("expected radii in one norm")
        for metric in self.metrics.values():
            metric.update(radius, certified, target)


class PerturbationMetric(ClassificationMetric):
    """Mean and median ``delta`` of the attacks that succeeded; not a number if none did.

    A mean over all images would count those that were wrong from the start, and those on which the attack gave up.

    Example:
        >>> metric = PerturbationMetric()
        >>> metadata = [{"delta": delta, "benign_prediction": 0, "norm": "l2"} for delta in (0.5, 9.0)]
        >>> metric.update([1, 0], [0, 0], metadata)
        >>> metric.compute()
        {'mean_perturbation': 0.5, 'median_perturbation': 0.5}
    """

    def __init__(self, *, id: str = "perturbation") -> None:
        super().__init__(id, perturbation=SuccessfulPerturbation())

    def add(self, preds: Tensor, target: Tensor, metadata: Sequence[Any]) -> None:
        """Add a batch."""
        if len({entry.get("norm") for entry in metadata}) > 1:
            raise InputError("expected deltas in one norm")
        delta, benign = (_column(metadata, name, _ATTACKED) for name in ("delta", "benign_prediction"))
        self.metrics["perturbation"].update(delta.double(), benign, preds, target)

    def compute(self) -> dict[str, float]:
        """Return mean and median over all batches."""
        if not self._updated:
            return super().compute()
        found = self.metrics["perturbation"].compute()
        return {f"{name}_perturbation": float(value) for name, value in found.items()}


def _column(metadata: Sequence[Any], name: str, remedy: str) -> Tensor:
    missing = [entry for entry in metadata if name not in entry]
    if missing:
        raise InputError(
            f"expected {name!r} in the metadata of every image, got {', '.join(missing[0]) or 'nothing'}; {remedy}"
        )
    return torch.tensor([entry[name] for entry in metadata])
