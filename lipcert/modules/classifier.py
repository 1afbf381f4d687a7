"""The base classifier: a network, a loss, an optimizer, and the metrics that every classifier has."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn as nn
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities.distributed import gather_all_tensors

from lipcert.data import ImageSet
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.layers import retract_
from lipcert.metrics import MeanLoss
from lipcert.schedules import OneCycle
from lipcert.sharding import gathered, split_

Batch = tuple[Tensor, Tensor]
Stage = Literal["train", "val", "test"]


class Classifier(LightningModule):
    """Trains any network with any loss; validates and tests the plain network that would be deployed.

    Metrics are summed on the device and read once an epoch: a training step never waits for the device.

    Args:
        network: maps inputs ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        loss: called with logits and targets.
        num_classes: K.
        optimizer: makes the optimizer from the network's parameters.
        lr_scheduler: makes a learning-rate scheduler from the optimizer.
        lr_interval: whether the scheduler steps after every epoch or every step; ``OneCycle`` does after every step.
        one_hot: hand the loss one-hot targets ``(N, K)``, as torchlip's losses want them, instead of classes ``(N,)``.
        retract_every: steps between retractions of the weights that a layer leaves to be kept orthogonal by projection,
            see :func:`lipcert.layers.retract_`. What is validated and exported is projected to float precision.
    """

    in_progress_bar: tuple[str, ...] = ("accuracy",)
    monitor = "val/accuracy"

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        *,
        num_classes: int = 10,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.Adam,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        one_hot: bool = True,
        retract_every: int = 8,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.num_classes = num_classes
        self.make_optimizer = _Shared(optimizer)
        self.make_lr_scheduler = None if lr_scheduler is None else _Shared(lr_scheduler)
        self.lr_interval = lr_interval
        self.one_hot = one_hot
        self.retract_every = _at_least_one(retract_every)
        self.meters = nn.ModuleDict(
            {f"{stage}_": nn.ModuleDict(self.make_meters()) for stage in ("train", "val", "test")}
        )
        self._deployed: list[nn.Module] = []
        self._before_split: list[nn.Module] = []
        self._evaluated = 0

    def configure_model(self) -> None:
        """Split the weights of the network over the processes where the strategy is to: ``fsdp2``."""
        if self.device_mesh is None or self._before_split:
            return
        self._before_split = [copy.deepcopy(self.network)]
        split_(self.network.to(self.trainer.strategy.root_device), self.device_mesh["data_parallel"])

    def whole_network(self) -> nn.Module:
        """Return the network, or a copy with whole weights if they are split; all processes have to ask."""
        return gathered(self.network, self._before_split[0]) if self._before_split else self.network

    def undo_split(self) -> None:
        """Put the network as it was before training back, for the weights of a checkpoint; no process is asked."""
        if self._before_split:
            self.network = self._before_split.pop()

    def make_meters(self) -> dict[str, Metric]:
        """Return the metrics of one stage by name."""
        return {
            "loss": MeanLoss(),
            "accuracy": MulticlassAccuracy(self.num_classes, average="micro", validate_args=False),
        }

    def measure(self, stage: Stage, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch to the metrics of a stage: its mean loss, ``(N, K)`` logits and ``(N,)`` labels."""
        meters = self.meters_of(stage)
        meters["loss"].update(loss, len(labels))
        meters["accuracy"].update(logits, labels)

    def meters_of(self, stage: Stage) -> dict[str, Metric]:
        """Return the metrics of one stage by name."""
        return dict(self.meters[f"{stage}_"].items())  # type: ignore[operator]

    def report(self, stage: Stage) -> dict[str, Tensor]:
        """Return the scalars that are logged at the end of an epoch, by name."""
        return {name: meter.compute() for name, meter in self.meters_of(stage).items()}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of the network in its present mode."""
        return self.network(inputs)  # type: ignore[no-any-return]

    def loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of ``(N, K)`` logits for ``(N,)`` labels."""
        return self.loss(logits, self.targets(logits, labels))  # type: ignore[no-any-return]

    def targets(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return ``(N,)`` labels as the loss wants them."""
        return nn.functional.one_hot(labels, self.num_classes).to(logits.dtype) if self.one_hot else labels

    def place_in_batch(self, count: int) -> tuple[int, int]:
        """Return how many images of a batch the processes before this one have, and how many all of them have.

        What depends on an image's place in the batch is the same for any number of processes by that. All of them have
        to ask.

        Args:
            count: images of the batch that this process has.
        """
        if self.trainer.world_size == 1:
            return 0, count
        counts = [int(each) for each in gather_all_tensors(torch.tensor(count, device=self.device))]
        return sum(counts[: self.global_rank]), sum(counts)

    def first_of_split(self, count: int, wanted: int) -> int:
        """Return how many images, with which a batch begins, are among the first that are validated or tested.

        They are the same images for any number of processes, each of which has to ask once a batch.

        Args:
            count: images of the batch that this process has.
            wanted: images of the split.
        """
        before, total = self.place_in_batch(count)
        left = wanted - self._evaluated - before
        self._evaluated += total
        return min(max(left, 0), count)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        inputs, labels = batch
        logits = at_least_single(self.network(inputs))
        loss = self.loss_of(logits, labels)
        self.measure("train", loss.detach(), logits.detach(), labels)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Pull the weights that are kept by projection back towards their manifold, every few steps."""
        if self.global_step % self.retract_every == 0:
            retract_(self.network)

    @property
    def deployed(self) -> nn.Module:
        """The plain network exported at the start of the running validation or test."""
        return self._deployed[0]

    def deploy(self) -> None:
        """Export the network as it is now; what is validated and tested is what would be saved."""
        with torch.inference_mode(mode=False):  # so that attacks can follow its gradients
            self._deployed = [export(self.whole_network()).requires_grad_(False)]
        self._evaluated = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a validation batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a test batch."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: Stage, batch: Batch) -> None:
        inputs, labels = batch
        with torch.autocast(inputs.device.type, enabled=False):  # in the precision that is deployed
            logits = self.deployed(inputs)
        self.measure(stage, self.loss_of(logits, labels), logits, labels)

    def _log_stage(self, stage: Stage) -> None:
        for name, value in self.report(stage).items():
            self.log(f"{stage}/{name}", value, prog_bar=stage == "val" and name in self.in_progress_bar)
        for meter in self.meters_of(stage).values():
            meter.reset()

    def on_validation_epoch_start(self) -> None:
        """Export what is validated."""
        self.deploy()

    def on_test_epoch_start(self) -> None:
        """Export what is tested."""
        self.deploy()

    def on_train_epoch_end(self) -> None:
        """Log the training metrics."""
        self._log_stage("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_stage("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_stage("test")

    def figures(self, deployed: nn.Module, images: ImageSet) -> dict[str, Any]:
        """Return what ``summary.json`` says of the deployed network on a split.

        Accuracy and L2 certificates are measured beside it unless ``clean_accuracy`` and ``samples`` are among this.
        """
        return {}

    def configure_optimizers(self) -> Any:
        """Return the optimizer and, if there is one, the scheduler."""
        optimizer = self.make_optimizer(self.network.parameters())
        if self.make_lr_scheduler is None:
            return optimizer
        scheduler = self.make_lr_scheduler(optimizer)
        if isinstance(scheduler, OneCycle) and scheduler.total_steps is None:
            scheduler.total_steps = self._number_of_steps()
        interval = "step" if isinstance(scheduler, OneCycle) else self.lr_interval
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def _number_of_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise InputError("expected max_epochs or max_steps for OneCycle, got a training without end")
        return int(steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the tensors that a loss holds outside its buffers, such as torchlip's running mean of SoftHKR."""
        checkpoint["loss_tensors"] = {
            f"{path}.{name}": value
            for path, module in self.loss.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor)
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give them back to the loss."""
        for name, value in checkpoint["loss_tensors"].items():
            path, _, attribute = name.rpartition(".")
            setattr(self.loss.get_submodule(path), attribute, value)


def at_least_single(logits: Tensor) -> Tensor:
    """Margins are not for half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _at_least_one(every: int) -> int:
    if every < 1:
        raise InputError(f"expected retract_every >= 1, got {every}")
    return every


class _Shared:
    """Calls a function that copies of a module have in common: a command line's lead to its trainer and processes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self
