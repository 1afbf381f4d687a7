"""Training on adversarial samples that are crafted in every step."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
import torch.nn as nn
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from lipcert.attacks import Attack, FastGradient, LossAscent, Norm, ProjectedGradient
from lipcert.attacks.verify import distance_upper_bound
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.losses import TradesLoss
from lipcert.losses.arguments import not_negative, share
from lipcert.modules.classifier import Batch, Classifier, Stage, at_least_single
from lipcert.modules.crafting import Statistics, check_attack, check_statistics, craft, untracked
from lipcert.modules.weight_perturbation import Network, uphill

Followed = Literal["both", "clean", "adversarial"]

CRAFTED = ("robust_accuracy", "fgsm_accuracy")


class AdversarialClassifier(Classifier):
    r"""Trains a network on samples that an attack has made of the batch, and watches how robust it becomes.

    .. math:: \min_\theta \; \mathbb{E} \big[ r \, \ell(f_\theta(x'), y) + (1 - r) \, \ell(f_\theta(x), y) \big], \qquad
        x' = \mathrm{attack}(f_\theta, x, y)

    With :class:`~lipcert.attacks.LossAscent` and r = 1 this is PGD training as Madry et al. have it; one step of it, or
    :class:`~lipcert.attacks.FastGradient`, is FGSM training; r = 0.5 is the double batch of clean and adversarial. With
    :class:`~lipcert.losses.TradesLoss` and ascent on the divergence it is TRADES. Any other attack may stand in the
    loop: one that returns the input where it does not fool, such as ``ProjectedGradient`` or ``DecoupledDirection``,
    trains on the clean sample there.

    An attack of s steps makes a training step s + 1 forward and backward passes, s + 2 where clean samples are passed
    as well. No gradient flows through the crafting. Validation attacks some images by a short PGD, whose robust
    accuracy is an upper bound of the true one and chooses the checkpoint, and by FGSM. FGSM accuracy that is far above
    that of PGD is catastrophic overfitting: the network has learned to deceive single steps, and is not robust.

    Robust accuracy in training runs away from that of other images sooner than accuracy does. A ``weight_perturbation``
    (AWP) holds it back: the gradient is that of the network with its weights at their worst, for one more pass.

    **BatchNorm** sees two distributions. Samples are crafted on the network in eval mode and never move its running
    statistics, see :func:`~lipcert.modules.crafting.searchable`. By default a double batch is normalised as one. With
    ``running_statistics`` of one half, each half is normalised by itself, and what is deployed follows that half.

    Args:
        network: maps inputs ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        loss: called with logits and targets; or a :class:`~lipcert.losses.TradesLoss`, whose beta weighs both.
        attack: makes the samples; ``LossAscent()`` if None.
        norm: of the budget.
        epsilon: the budget, in [0, 1] pixel units; None for a minimum-norm attack without one: robust accuracy is then
            not measured.
        ratio: r, share of the loss that is of adversarial samples: 1 for these alone, 0 for none.
        warmup: share of the training in which the budget grows from 0 to epsilon, step by step.
        weight_perturbation: how far weights are moved uphill while the gradient is taken, relative to their norms, from
            the end of the warm-up on; 0 for none, 0.005 to 0.02 is usual. See
            :func:`~lipcert.modules.weight_perturbation.uphill`.
        crafting_statistics: how BatchNorm normalises while samples are crafted: ``"running"`` or ``"batch"``.
        running_statistics: what BatchNorm follows: ``"both"`` as one batch, ``"clean"`` or ``"adversarial"`` samples.
        validation_attack: measures robust accuracy; ``ProjectedGradient(10, 0.25, loss="margin")`` if None.
        validation_samples: images that it attacks, the first ones of the split.
        overfitting_gap: by how much FGSM accuracy may be above the robust one before a warning is printed.
        **options: see :class:`Classifier`.

    Raises:
        InputError: a setting is out of range, or an attack that cannot do it.

    Source: Goodfellow et al. (2015), arXiv 1412.6572; Madry et al. (2018), arXiv 1706.06083; Zhang et al. (2019), arXiv
    1901.08573; catastrophic overfitting: Wong et al. (2020), arXiv 2001.03994; statistics of one half: Xie et al.
    (2020), arXiv 1911.09665; weights at their worst: Wu et al. (2020), arXiv 2004.05884.
    """

    in_progress_bar = ("accuracy", "robust_accuracy")

    def __init__(  # noqa: PLR0913 - one keyword a setting of a configuration
        self,
        network: nn.Module,
        loss: nn.Module,
        *,
        attack: Attack | None = None,
        norm: Norm = "linf",
        epsilon: float | None = None,
        ratio: float = 1.0,
        warmup: float = 0.0,
        weight_perturbation: float = 0.0,
        crafting_statistics: Statistics = "running",
        running_statistics: Followed = "both",
        validation_attack: Attack | None = None,
        validation_samples: int = 1000,
        overfitting_gap: float = 0.2,
        **options: Any,
    ) -> None:
        self.attack = LossAscent() if attack is None else attack
        self.norm: Norm = norm
        self.epsilon = epsilon
        self.ratio = share("ratio", ratio)
        self.warmup = share("warmup", warmup)
        self.weight_perturbation = not_negative("weight_perturbation", weight_perturbation)
        self.crafting_statistics: Statistics = crafting_statistics
        self.running_statistics: Followed = running_statistics
        self.validation_attack = validation_attack or ProjectedGradient(10, 0.25, loss="margin")
        self.validation_samples = validation_samples
        self.overfitting_gap = overfitting_gap
        self._check(loss)
        self.monitor = "val/accuracy" if epsilon is None else "val/robust_accuracy"
        super().__init__(network, loss, **options)

    def _check(self, loss: nn.Module) -> None:
        check_attack(self.attack, self.norm, self.epsilon)
        if self.epsilon is not None:
            check_attack(self.validation_attack, self.norm, self.epsilon)
        check_statistics(self.crafting_statistics)
        if self.running_statistics not in get_args(Followed):
            words = ", ".join(get_args(Followed))
            raise InputError(f"expected running statistics among {words}, got {self.running_statistics!r}")
        if self.validation_samples < 1:
            raise InputError(f"expected validation_samples >= 1, got {self.validation_samples}")
        if isinstance(loss, TradesLoss) and self.ratio != 1:
            raise InputError(f"expected ratio 1 with TradesLoss, whose beta weighs both halves, got {self.ratio:g}")

    def make_meters(self) -> dict[str, Metric]:
        """Return the metrics of one stage by name."""
        return super().make_meters() | {name: MeanMetric() for name in CRAFTED}

    def report(self, stage: Stage) -> dict[str, Tensor]:
        """Return the scalars that are logged at the end of an epoch, by name; what was not measured is left out."""
        meters = self.meters_of(stage)
        scalars = {name: meter.compute() for name, meter in meters.items() if meter.update_called}
        if stage != "train" and "fgsm_accuracy" in scalars:
            scalars["overfitting_gap"] = scalars["fgsm_accuracy"] - scalars["robust_accuracy"]
        return scalars

    @property
    def present_epsilon(self) -> float | None:
        """The budget of the next step: it grows over the warm-up."""
        if self.epsilon is None or self.warmup == 0:
            return self.epsilon
        steps = self.warmup * self._number_of_steps()
        return self.epsilon * min(1.0, (self.global_step + 1) / steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Craft adversarial samples of a batch and return the loss."""
        inputs, labels = batch
        if self.ratio == 0:
            return super().training_step(batch, batch_idx)
        adversarial = craft(
            self.attack,
            self.network,
            inputs,
            labels,
            norm=self.norm,
            epsilon=self.present_epsilon,
            seed=torch.initial_seed() + self.global_step,
            statistics=self.crafting_statistics,
        )

        def passed(network: Network) -> tuple[Tensor | None, Tensor, Tensor]:
            clean, logits = self._logits(network, inputs, adversarial)
            return clean, logits, self._loss(clean, logits, labels)

        network: Network = self.network
        if self.weight_perturbation and self.present_epsilon == self.epsilon:
            network = uphill(self.network, lambda network: passed(network)[-1], self.weight_perturbation)
        clean, logits, loss = passed(network)
        meters = self.meters_of("train")
        if clean is not None:
            meters["accuracy"].update(clean.detach(), labels)
        meters["loss"].update(loss.detach(), len(labels))
        meters["robust_accuracy"].update((logits.detach().argmax(1) == labels).float())
        return loss

    def _logits(self, network: Network, inputs: Tensor, adversarial: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the logits of clean samples, None if these are not trained on, and of adversarial ones."""
        if self.ratio == 1 and not isinstance(self.loss, TradesLoss):
            return None, at_least_single(network(adversarial))
        if self.running_statistics == "both":
            first, second = at_least_single(network(torch.cat([inputs, adversarial]))).chunk(2)
            return first, second
        logits = []
        for name, half in (("clean", inputs), ("adversarial", adversarial)):
            with nullcontext() if name == self.running_statistics else untracked(self.network):
                logits.append(at_least_single(network(half)))
        return logits[0], logits[1]

    def _loss(self, clean: Tensor | None, adversarial: Tensor, labels: Tensor) -> Tensor:
        if clean is None:
            return self.loss_of(adversarial, labels)
        if isinstance(self.loss, TradesLoss):
            return self.loss_of(torch.stack([clean, adversarial], 1), labels)
        return self.ratio * self.loss_of(adversarial, labels) + (1 - self.ratio) * self.loss_of(clean, labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a validation batch, and attack it."""
        super().validation_step(batch, batch_idx)
        self._attack("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a test batch, and attack it."""
        super().test_step(batch, batch_idx)
        self._attack("test", batch)

    def _attack(self, stage: Stage, batch: Batch) -> None:
        """Measure the accuracy under both attacks of the first images of a split, however many processes share it."""
        if self.epsilon is None:
            return
        left = self.first_of_split(len(batch[1]), self.validation_samples)
        device = batch[0].device.type
        with torch.inference_mode(mode=False), torch.autocast(device, enabled=False):
            inputs, labels = (tensor[:left].clone() for tensor in batch)
            for name, attack in (("robust_accuracy", self.validation_attack), ("fgsm_accuracy", self._fgsm())):
                right = self._right_under(attack, self.deployed, inputs, labels) if left else labels  # none of either
                self.meters_of(stage)[name].update(right.float())

    def _fgsm(self) -> Attack:
        return FastGradient("l2" if self.norm == "l2" else "sign", loss="cross-entropy")

    def _right_under(self, attack: Attack, network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return which of N images ``(N,)`` are classified right, also as what an attack finds within the budget."""
        assert self.epsilon is not None
        found = craft(attack, network, inputs, labels, norm=self.norm, epsilon=self.epsilon)
        valid = (found.flatten(1).aminmax(dim=1).min >= 0) & (found.flatten(1).amax(1) <= 1)
        valid &= distance_upper_bound(inputs, found, self.norm) <= self.epsilon
        with torch.no_grad():
            right: Tensor = network(inputs).argmax(1) == labels
            withstands: Tensor = network(found).argmax(1) == labels
        return right & (withstands | ~valid)

    def figures(self, deployed: nn.Module, images: ImageSet) -> dict[str, Any]:
        """Return the accuracy of the deployed network under the validation attack, on the first images of a split."""
        if self.epsilon is None:
            return {}
        inputs, labels = images.inputs(torch.arange(min(self.validation_samples, len(images)))), images.labels
        right = self._right_under(self.validation_attack, deployed, inputs, labels[: len(inputs)])
        return {
            "robust_accuracy": round(right.double().mean().item(), 6),
            "robust_accuracy_of": {
                "attack": self.validation_attack.name,
                **self.validation_attack.parameters(),
                **{"norm": self.norm, "epsilon": self.epsilon, "samples": len(inputs)},
            },
        }

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, and warn of catastrophic overfitting."""
        super().on_validation_epoch_end()
        gap = self.trainer.callback_metrics.get("val/overfitting_gap")
        if gap is not None and self.ratio > 0 and gap > self.overfitting_gap and self.trainer.is_global_zero:
            metrics = self.trainer.callback_metrics
            print(
                f"warning: catastrophic overfitting in epoch {self.current_epoch}: accuracy is "
                f"{metrics['val/fgsm_accuracy']:.3f} under one step, {metrics['val/robust_accuracy']:.3f} under PGD; "
                "take more steps, a random start or a smaller step",
                file=sys.stderr,
            )
