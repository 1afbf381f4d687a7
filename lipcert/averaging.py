"""Averages of the weights over the steps of a training."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import AveragedModel

from lipcert.errors import InputError


class AveragedWeights(WeightAveraging):
    r"""Validates, keeps and exports an exponential moving average of the parameters instead of their last values.

    .. math:: \bar\theta_t = \bar\theta_{t-1} + (1 - d_t)(\theta_t - \bar\theta_{t-1}), \qquad
        d_t = \min\Big(d, \frac{t}{t + 9}\Big), \qquad \bar\theta_0 = \theta_0

    What is averaged are the parameters before their constraints; buffers are those of the last step. The constraints
    are applied to the average when it is exported, which recomputes torchlip's cached weights, and the export is
    bounded like any other, so that certificates hold whatever the average is.

    During validation the module holds the average, checkpoints have it as ``state_dict`` and the weights in training
    beside it, and after ``fit`` the module keeps it. A resumed run continues both. Lightning's callback does all that;
    the update here neither waits for the device nor leaves it.

    Args:
        decay: d; about the last 1 / (1 - d) steps count.

    Raises:
        InputError: a decay outside of [0, 1).

    Example:
        >>> AveragedWeights(0.99).decay_of(1), AveragedWeights(0.99).decay_of(10_000)
        (0.1, 0.99)
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"expected a decay of at least 0 and below 1, got {decay}")
        super().__init__(use_buffers=False)
        self.decay = decay

    def decay_of(self, step: int) -> float:
        """Return the decay of an optimizer step, counted from 1; early ones forget the untrained network sooner."""
        return min(self.decay, step / (step + 9))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module as it is; Lightning would warn of one that can split its weights, also where it does not."""
        if stage == "fit":
            self._average_model = AveragedModel(pl_module, device=pl_module.device, use_buffers=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module to its device, where it arrives after Lightning has copied it."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the weights after an optimizer step into the average."""
        if trainer.global_step <= self._latest_update_step:
            return  # gradients are being accumulated
        assert self._average_model is not None
        average = self._average_model.module
        torch._foreach_lerp_(
            list(average.parameters()), list(pl_module.parameters()), 1 - self.decay_of(trainer.global_step)
        )
        for kept, present in zip(average.buffers(), pl_module.buffers(), strict=True):
            kept.copy_(present)
        self._latest_update_step = trainer.global_step
