"""The classifier whose robustness is certified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor
from torch.nn.utils import parametrize
from torchmetrics import Metric

from lipcert.certificates import class_pair_upper_bounds, margin_radius
from lipcert.errors import InputError
from lipcert.losses import PairwiseLoss, head_pair_bounds, head_weight
from lipcert.metrics import AverageCertifiedRadius, CertifiedAccuracy, KantorovichRubinstein, check_epsilons
from lipcert.modules.classifier import Batch, Classifier, Stage


class LipschitzClassifier(Classifier):
    """Trains a Lipschitz-constrained network and certifies its plain export after every epoch.

    At each validation the network is exported, its Lipschitz constants are bounded from the exported weights, and the
    certified accuracy (VRA) at every epsilon and the average certified radius (ACR) are logged beside loss, accuracy
    and the Kantorovich-Rubinstein term (KR). A network that cannot be bounded soundly is refused before training.

    A :class:`~lipcert.losses.PairwiseLoss` is told the progress of the training and the constants of logit differences:
    those of the head as it is in a step, after a body taken to be 1-Lipschitz; in validation those that certify.

    Args:
        network: maps inputs ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        loss: called with logits and targets, for example ``deel.torchlip.HKRMulticlassLoss``.
        epsilons: L2 budgets, in [0,1] pixel units, at which certified accuracy is logged.
        input_shape: ``(C, H, W)``; by default the data module's.
        **options: see :class:`Classifier`.
    """

    in_progress_bar = ("accuracy", "average_certified_radius")
    monitor = "val/average_certified_radius"

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        *,
        epsilons: Sequence[float] = (0.1, 0.25, 0.5, 1.0, 1.58),
        input_shape: tuple[int, int, int] | None = None,
        **options: Any,
    ) -> None:
        self.epsilons = check_epsilons(epsilons)
        self.input_shape = input_shape
        super().__init__(network, loss, **options)
        self._pair_upper_bounds: Tensor | None = None

    def make_meters(self) -> dict[str, Metric]:
        """Return the metrics of one stage by name."""
        return {
            **super().make_meters(),
            "kr": KantorovichRubinstein(self.num_classes),
            "certified_accuracy": CertifiedAccuracy(self.epsilons),
            "average_certified_radius": AverageCertifiedRadius(),
        }

    def measure(self, stage: Stage, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch to the metrics of a stage; certificates only where the network is deployed."""
        super().measure(stage, loss, logits, labels)
        meters = self.meters_of(stage)
        meters["kr"].update(logits, labels)
        if stage != "train":
            assert self._pair_upper_bounds is not None
            preds, radius = margin_radius(logits, self._pair_upper_bounds)
            meters["certified_accuracy"].update(radius, preds, labels)
            meters["average_certified_radius"].update(radius, preds, labels)

    def report(self, stage: Stage) -> dict[str, Tensor]:
        """Return the scalars that are logged at the end of an epoch, one per epsilon among them."""
        certified = ("certified_accuracy", "average_certified_radius")
        scalars = {
            name: meter.compute()
            for name, meter in self.meters_of(stage).items()
            if stage != "train" or name not in certified
        }
        if stage == "train":
            return scalars
        shares = scalars.pop("certified_accuracy").reshape(-1)  # torchmetrics makes a scalar of a single budget
        return scalars | {
            f"certified_accuracy_{eps:g}": share for eps, share in zip(self.epsilons, shares, strict=True)
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        if not isinstance(self.loss, PairwiseLoss):
            return super().training_step(batch, batch_idx)
        self.loss.progress = min(1.0, self.trainer.global_step / self.trainer.estimated_stepping_batches)
        with parametrize.cached():  # the head's weight is computed once, for the logits and for the loss
            return super().training_step(batch, batch_idx)

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of ``(N, K)`` logits for ``(N,)`` labels."""
        if not isinstance(self.loss, PairwiseLoss):
            return super().loss_of(logits, labels)
        if not self.training:
            return self.loss(logits, self.targets(logits, labels), self._pair_upper_bounds)  # type: ignore[no-any-return]
        head = head_weight(self.network, self.num_classes)
        bounds = None if head is None else head_pair_bounds(head)
        return self.loss(logits, self.targets(logits, labels), bounds)  # type: ignore[no-any-return]

    def deploy(self) -> None:
        """Export the network as it is now and bound it."""
        super().deploy()
        bounds, _ = class_pair_upper_bounds(self.deployed, self._input_shape())
        self._pair_upper_bounds = bounds.to(self.device)

    def on_fit_start(self) -> None:
        """Refuse a network that cannot be bounded before any work is done."""
        self.deploy()

    def _input_shape(self) -> tuple[int, ...]:
        shape = self.input_shape or getattr(self.trainer.datamodule, "input_shape", None)  # type: ignore[attr-defined]
        if shape is None:
            raise InputError("expected input_shape=(C, H, W), or a data module that has it")
        return tuple(shape)
