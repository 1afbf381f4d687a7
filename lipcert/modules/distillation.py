"""Defensive distillation: a student that learns the softened answers of a teacher of its own kind."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.utils import parametrize

from lipcert.errors import InputError
from lipcert.losses import DistillationLoss, OffsetCrossEntropy
from lipcert.modules.classifier import Batch, Classifier, at_least_single
from lipcert.modules.frozen import frozen_network


class DistilledClassifier(Classifier):
    r"""Trains a student on a teacher's soft labels at a temperature, and deploys it at temperature 1.

    The teacher is trained on hard labels through :math:`\mathrm{softmax}(f / T)`, the student on the teacher's
    :math:`\mathrm{softmax}(f^t / T)` through the same. What is validated and exported gives the student's logits as
    they are. They are about T times as large as those of a network that was trained at temperature 1: its softmax is
    saturated, and the gradients of its cross-entropy vanish in float32. That hides examples from attacks that follow
    such gradients, and removes none: attack it through :class:`lipcert.attacks.RescaledNetwork` too.

    A teacher that is not given is trained first, in the same run: the student's network anew, the same optimizer, data
    and number of epochs. It becomes part of the checkpoints. So that T can be swept from the command line:

        python experiments/frontier.py experiments/fashion_mnist/distilled.yaml \
            --vary model.init_args.temperature=1,5,20,50,100

    Args:
        network: the student, from inputs ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        temperature: T, of teacher and student.
        teacher: run directory, ``network.safetensors`` or module of a trained teacher that gives logits; it should have
            been trained at T, as with ``OffsetCrossEntropy(0, T)``. None: train one.
        teacher_epochs: epochs of a teacher that is trained here; the student's if None.
        **options: see :class:`Classifier`.

    Raises:
        InputError: a temperature that is not above 0; a teacher that cannot be loaded; in the first step, one with
            other classes, or a network that gives probabilities, of which a second softmax would be taken.

    Source: Papernot et al. (2016), arXiv 1511.04508; why it is no defense: Carlini & Wagner (2017), arXiv 1608.04644.
    """

    batch_losses = ("loss", "distillation")

    def __init__(
        self,
        network: nn.Module,
        *,
        temperature: float = 20.0,
        teacher: str | Path | nn.Module | None = None,
        teacher_epochs: int | None = None,
        **options: Any,
    ) -> None:
        distillation = DistillationLoss(temperature)
        if teacher_epochs is not None and teacher_epochs < 1:
            raise InputError(f"expected teacher_epochs >= 1, got {teacher_epochs}")
        super().__init__(network, OffsetCrossEntropy(0.0, temperature), one_hot=False, **options)
        self.distillation = distillation
        self.temperature = temperature
        self.teacher_epochs = teacher_epochs
        self.options = options
        self.teacher = _anew(network) if teacher is None else frozen_network(teacher)
        self.teacher.requires_grad_(False)
        self.register_buffer("taught", torch.tensor(teacher is not None))

    def on_fit_start(self) -> None:
        """Train the teacher if there is none yet; a run that is resumed has it in its checkpoint."""
        if not self.taught:
            self._train_teacher()
        self.teacher.requires_grad_(False).eval()

    def _train_teacher(self) -> None:
        trainer, data = self.trainer, self.trainer.datamodule  # type: ignore[attr-defined]
        if trainer.world_size > 1 or data is None:
            raise InputError(
                "expected one device and a data module to train the teacher with; train it first and give its run"
            )
        inner = Trainer(
            max_epochs=self.teacher_epochs or trainer.max_epochs,
            accelerator=self.device.type,
            devices=1 if self.device.index is None else [self.device.index],
            precision=trainer.precision,
            limit_train_batches=trainer.limit_train_batches,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        lesson = Classifier(self.teacher.requires_grad_(True), self.loss, one_hot=False, **self.options)
        device = self.device
        inner.fit(lesson, data.train_dataloader(), data.val_dataloader())
        self.to(device)
        assert isinstance(self.taught, Tensor)
        self.taught.fill_(True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, of which the labels are only measured."""
        inputs, labels = batch
        logits = at_least_single(self.network(inputs))
        with torch.no_grad():
            answers = at_least_single(self.teacher.eval()(inputs))
        if self.global_step == 0:
            for name, values in (("student", logits), ("teacher", answers)):
                _check_logits(name, values.detach())
        loss: Tensor = self.distillation(logits, answers)
        self.measure("train", loss.detach(), logits.detach(), labels)
        return loss


def _anew(network: nn.Module) -> nn.Module:
    """Return a copy of a network with new weights where its layers know how to draw them."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if not parametrize.is_parametrized(module) and callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return copied


def _check_logits(name: str, values: Tensor) -> None:
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all()):
        raise InputError(f"expected logits from the {name}, got probabilities: a softmax would be taken twice")
