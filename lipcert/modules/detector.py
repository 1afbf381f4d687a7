"""A network that tells adversarial from clean images, trained against attacks on a given classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import CatMetric, Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities.distributed import gather_all_tensors

from lipcert.attacks import Attack, Norm
from lipcert.data import ImageSet
from lipcert.defenses import BinaryDetector
from lipcert.defenses.calibration import threshold_at
from lipcert.errors import InputError
from lipcert.modules.classifier import Batch, Classifier, Stage, at_least_single
from lipcert.modules.crafting import check_attack, craft
from lipcert.modules.frozen import frozen_network

CHUNK = 1000


class DetectorClassifier(Classifier):
    r"""Trains a network with two logits, clean and adversarial, on what attacks make of a classifier's images.

    In every step one of the attacks, in turn, changes the batch against the classifier, which stays as it is. What
    leaves the predicted class is an adversarial sample; what does not is left out, for it would teach the detector to
    flag harmless images. Clean and adversarial samples weigh the same, however many there are. An image is flagged
    where its score is above a threshold,

    .. math:: s(x) = z_1(x) - z_0(x) > \tau

    **Calibration** is on the validation images, on which nothing is trained: one half of them gives the threshold, of
    which it flags at most the wanted share, the other half tells what it does to images that have not chosen it. The
    summary has the same of the test images. A detector knows the attacks that it has seen: measure it against others,
    and against an adversary who attacks it along with the classifier:

        python -m lipcert.audit RUN --detector lipcert.modules.detector:scoring_network \
            --detector-args '{"detector": "runs/DETECTOR"}' --threshold THRESHOLD

    Args:
        network: the detector, from inputs ``(N, C, H, W)`` in [0, 1] to two logits.
        classifier: run directory, ``network.safetensors`` or module of the classifier that is attacked.
        attacks: make the adversarial samples.
        norm: of the budget.
        epsilon: the budget; None for minimum-norm attacks.
        false_positive_rate: largest share of clean images to flag, in (0, 1).
        validation_samples: images that every attack changes in validation and test, the first ones of the split.
        **options: see :class:`Classifier`.

    Raises:
        InputError: a setting is out of range, or an attack that cannot do it; after an epoch without an adversarial
            sample, that there is only one class to learn.

    Source: Metzen et al. (2017), arXiv 1702.04267; Gong et al. (2017), arXiv 1704.04960; why to attack both: Carlini &
    Wagner (2017), arXiv 1705.07263.
    """

    in_progress_bar = ("accuracy", "detection_rate")
    monitor = "val/auroc"
    threshold: Tensor
    found: Tensor

    def __init__(
        self,
        network: nn.Module,
        classifier: str | Path | nn.Module,
        *,
        attacks: list[Attack],
        norm: Norm = "linf",
        epsilon: float | None = None,
        false_positive_rate: float = 0.05,
        validation_samples: int = 1000,
        **options: Any,
    ) -> None:
        if not attacks:
            raise InputError("expected at least one attack to learn from, got none")
        for attack in attacks:
            check_attack(attack, norm, epsilon)
        if not 0 < false_positive_rate < 1:
            raise InputError(f"expected a false positive rate in (0, 1), got {false_positive_rate}")
        if validation_samples < 1:
            raise InputError(f"expected validation_samples >= 1, got {validation_samples}")
        super().__init__(network, BalancedCrossEntropy(), num_classes=2, one_hot=False, **options)
        self.classifier = frozen_network(classifier)
        self.attacks = tuple(attacks)
        self.norm: Norm = norm
        self.epsilon = epsilon
        self.false_positive_rate = false_positive_rate
        self.validation_samples = validation_samples
        self.register_buffer("threshold", torch.tensor(math.inf))
        self.register_buffer("found", torch.tensor(0), persistent=False)

    def make_meters(self) -> dict[str, Metric]:
        """Return the metrics of one stage by name; the scores of validation images are kept."""
        return {**super().make_meters(), "clean": CatMetric(), "adversarial": CatMetric()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch and of the adversarial samples made of it."""
        inputs, _ = batch
        attack = self.attacks[self.global_step % len(self.attacks)]
        adversarial = self._adversarial(attack, inputs, seed=torch.initial_seed() + self.global_step)
        self.found += len(adversarial)
        logits = at_least_single(self.network(torch.cat([inputs, adversarial])))
        self._check_logits(logits)
        tampered = self._labels(inputs, adversarial)
        loss = self.loss_of(logits, tampered)
        self.measure("train", loss.detach(), logits.detach(), tampered)
        return loss

    def _adversarial(self, attack: Attack, inputs: Tensor, *, seed: int = 0) -> Tensor:
        """Return the adversarial samples ``(M, C, H, W)`` among what an attack makes of N images."""
        self.classifier.eval()
        with torch.no_grad():
            preds = self.classifier(inputs).argmax(1)
        made = craft(attack, self.classifier, inputs, preds, norm=self.norm, epsilon=self.epsilon, seed=seed)
        with torch.no_grad():
            return made[self.classifier(made).argmax(1) != preds]

    def _labels(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        return torch.arange(2, device=clean.device).repeat_interleave(
            torch.tensor([len(clean), len(adversarial)], device=clean.device)
        )

    def _check_logits(self, logits: Tensor) -> None:
        if logits.ndim != 2 or logits.shape[1] != 2:
            raise InputError(f"expected two logits of a detector, clean and adversarial, got {tuple(logits.shape[1:])}")

    def on_train_epoch_end(self) -> None:
        """Refuse to go on where there was only one class to learn, and log the training metrics."""
        found = gather_all_tensors(self.found) if self.trainer.world_size > 1 else [self.found]
        if not any(map(int, found)):
            names = ", ".join(attack.name for attack in self.attacks)
            raise InputError(f"expected adversarial samples to learn from, got none in an epoch of {names}: one class")
        self.found.zero_()
        super().on_train_epoch_end()

    def _evaluate(self, stage: Stage, batch: Batch) -> None:
        left = self.first_of_split(len(batch[0]), self.validation_samples)
        with torch.inference_mode(mode=False), torch.autocast(batch[0].device.type, enabled=False):
            inputs = batch[0].clone()
            made = [self._adversarial(attack, inputs[:left]) for attack in self.attacks] if left else []
            adversarial = torch.cat([inputs[:0], *made])
            with torch.no_grad():
                logits = self.deployed(torch.cat([inputs, adversarial]))
        self._check_logits(logits)
        tampered = self._labels(inputs, adversarial)
        self.measure(stage, self.loss_of(logits, tampered), logits, tampered)
        meters, scores = self.meters_of(stage), suspicion(logits)
        meters["clean"].update(scores[: len(inputs)])
        meters["adversarial"].update(scores[len(inputs) :])  # by all processes, or the others wait for it

    def report(self, stage: Stage) -> dict[str, Tensor]:
        """Return the scalars that are logged at the end of an epoch, by name."""
        meters = self.meters_of(stage)
        scalars = {name: meters[name].compute() for name in ("loss", "accuracy")}
        if stage == "train":
            return scalars
        clean, adversarial = (_scores(meters[name]) for name in ("clean", "adversarial"))
        if stage == "val":
            self.threshold.fill_(threshold_at(clean[::2], self.false_positive_rate))
            clean = clean[1::2] if len(clean) > 1 else clean
        return scalars | self._rates(clean, adversarial)

    def _rates(self, clean: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        threshold = self.threshold.to(clean)
        scores, tampered = torch.cat([clean, adversarial]), self._labels(clean, adversarial)
        # without adversarial samples nothing is detected, and nothing is told apart better than by chance
        ranks = scores.unique(return_inverse=True)[1] / len(scores)
        area = binary_auroc(ranks, tampered) if len(adversarial) else 0.5
        return {
            "threshold": threshold,
            "false_positive_rate": (clean > threshold).float().mean(),
            "detection_rate": (adversarial > threshold).sum() / max(len(adversarial), 1),
            "auroc": torch.as_tensor(area, device=clean.device),
        }

    def figures(self, deployed: nn.Module, images: ImageSet) -> dict[str, Any]:
        """Return what the deployed detector is worth on a split; clean accuracy is the share that is not flagged."""
        inputs = images.inputs()
        some = inputs[: self.validation_samples]
        clean = _suspicion_of(deployed, inputs)
        rates: dict[str, Any] = {}
        everything = []
        for number, attack in enumerate(self.attacks):
            made = torch.cat([self._adversarial(attack, chunk) for chunk in some.split(CHUNK)])
            scores = _suspicion_of(deployed, made)
            everything.append(scores)
            rates[f"{number}: {attack.name}"] = {
                "adversarial_samples": len(made),
                "detection_rate": round((scores > self.threshold).sum().item() / max(len(made), 1), 6),
            }
        figures = {name: value.item() for name, value in self._rates(clean, torch.cat(everything)).items()}
        told = {"false_positive_rate_wanted": self.false_positive_rate, "norm": self.norm, "epsilon": self.epsilon}
        accuracy = {"clean_accuracy": 1 - figures["false_positive_rate"], "samples": len(inputs)}
        return {**accuracy, **figures, **told, "attacks": rates}


class BalancedCrossEntropy(nn.Module):
    """Cross-entropy in which every class that occurs weighs the same, whatever its number of samples.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [20.0, -20.0]])
        >>> BalancedCrossEntropy()(logits, torch.tensor([0, 0, 1]))
        tensor(20.3466)
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of ``(N, K)`` logits for ``(N,)`` classes."""
        counts = torch.bincount(targets, minlength=logits.shape[1])
        weights = 1 / (counts[targets] * (counts > 0).sum())
        return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def scoring_network(detector: str) -> nn.Module:
    """Return the scores of a trained detector, as ``python -m lipcert.audit --detector`` wants them.

    Args:
        detector: run directory of a :class:`DetectorClassifier`, or its ``network.safetensors``.

    Raises:
        InputError: nothing usable is found there.
    """
    return BinaryDetector(frozen_network(detector)).eval()


def suspicion(logits: Tensor) -> Tensor:
    """Return the scores ``(N,)`` of two logits ``(N, 2)``: the log-odds of being adversarial."""
    return logits[:, 1] - logits[:, 0]


def _scores(metric: Metric) -> Tensor:
    scores = metric.compute() if metric.update_called else []
    return torch.zeros(0) if isinstance(scores, Sequence) else scores.reshape(-1)


def _suspicion_of(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([suspicion(network(chunk)) for chunk in inputs.split(CHUNK)])
