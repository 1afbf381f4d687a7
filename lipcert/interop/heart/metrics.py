"""HEART's metrics."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

from lipcert.errors import InputError
from lipcert.interop.batches import classes
from lipcert.interop.heart.items import id_or_random
from lipcert.interop.maite.augmentations import extended
from lipcert.interop.maite.metrics import (
    AdversarialAccuracyMetric,
    ClassificationMetric,
    CleanAccuracyMetric,
    PerturbationMetric,
    RobustAccuracyMetric,
)


class AccuracyPerturbationMetric:
    """HEART's clean and robust or adversarial accuracy, and the mean ``delta`` of the attacks that succeeded.

    Args:
        benign_predictions: scores of the clean images, in the order in which batches are added.
        metadata: of the attacked images, in the same order, with ``delta``.
        accuracy_type: ``"robust"``, of all images, or ``"adversarial"``, of those that were right.
        metadata_id: of the metric; drawn at random if None.

    Raises:
        InputError: another type, or not as many predictions as metadata.
    """

    def __init__(
        self,
        benign_predictions: Sequence[Any],
        metadata: Sequence[Mapping[str, Any]],
        accuracy_type: str = "robust",
        metadata_id: str | None = None,
    ) -> None:
        kinds: dict[str, type[ClassificationMetric]] = {
            "robust": RobustAccuracyMetric,
            "adversarial": AdversarialAccuracyMetric,
        }
        if accuracy_type not in kinds:
            raise InputError(f"expected accuracy_type {' or '.join(kinds)}, got {accuracy_type!r}")
        benign = classes(benign_predictions, what="predictions").tolist() if len(benign_predictions) else []
        if len(benign) != len(metadata):
            raise InputError(f"expected as many predictions as metadata, got {len(benign)} and {len(metadata)}")
        self._entries = extended(metadata, {"benign_prediction": benign})
        self._metrics = (CleanAccuracyMetric(), kinds[accuracy_type](), PerturbationMetric())  # type: ignore[call-arg]
        self._next = 0
        self.metadata = {"id": id_or_random(metadata_id)}

    def reset(self) -> None:
        """Forget all batches."""
        self._next = 0
        for metric in self._metrics:
            metric.reset()

    def update(self, preds_batch: Sequence[Any], targets_batch: Sequence[Any], metadata_batch: Any = None, /) -> None:
        """Add the next batch: scores of attacked images, and true classes, as numbers or one-hot rows."""
        entries = self._entries[self._next : self._next + len(preds_batch)]
        if len(entries) < len(preds_batch):
            raise InputError(f"expected no more than the {len(self._entries)} predictions that the metric was given")
        for metric in self._metrics:
            metric.update(preds_batch, targets_batch, entries)
        self._next += len(entries)

    def compute(self) -> dict[str, float]:
        """Return the two accuracies and ``mean_delta``."""
        found = dict(itertools.chain.from_iterable(metric.compute().items() for metric in self._metrics))
        found.pop("median_perturbation")
        return {("mean_delta" if name == "mean_perturbation" else name): value for name, value in found.items()}


class HeartAccuracyMetric(ClassificationMetric):
    """HEART's accuracy, over torchmetrics'.

    Args:
        is_logits: of no account: scores and classes are told apart by their shape.
        metadata_id: of the metric; drawn at random if None.
        task: ``"multiclass"`` or ``"binary"``.
        **settings: of torchmetrics' accuracy, for example ``num_classes`` and ``average``.
    """

    def __init__(self, is_logits: bool = True, metadata_id: str | None = None, *, task: str, **settings: Any) -> None:
        kinds = {"multiclass": MulticlassAccuracy, "binary": BinaryAccuracy}
        if task not in kinds:
            raise InputError(f"expected task {' or '.join(kinds)}, got {task!r}")
        super().__init__(id_or_random(metadata_id), accuracy=kinds[task](**settings))

    def add(self, preds: Any, target: Any, metadata: Sequence[Any]) -> None:
        """Add a batch."""
        self.metrics["accuracy"].update(preds, target)
