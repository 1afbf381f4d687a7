"""What happens around a training loop: the run's files, the seed of an epoch, the loss that is not finite, the bar."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from torch import Tensor

from lipcert.errors import InputError
from lipcert.files import write_atomically
from lipcert.logs import fields, logger_of

_KEPT_ACCURACY = 0.8


class EpochSeed(Callback):
    """Seeds torch before every epoch from the run's seed and the epoch, so that a resumed run continues exactly.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the epoch that begins."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)


class FiniteLoss(Callback):
    """Stops training when the loss or a parameter is no longer finite, before anything of it is saved.

    The check runs on the device and is read every ``every`` steps and at the end of the epoch.

    Args:
        every: steps between two readings.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self.first_bad_step: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the first step whose loss is not finite."""
        loss = outputs["loss"].detach()
        if self.first_bad_step is None:
            self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=loss.device)
        first = (self.first_bad_step < 0) & ~torch.isfinite(loss)
        self.first_bad_step = torch.where(first, trainer.global_step, self.first_bad_step)
        if (batch_idx + 1) % self.every == 0:
            self._stop_if_bad(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before the network is exported and bounded."""
        self._stop_if_bad(trainer)
        for name, parameter in pl_module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                self._stop(trainer, f"parameter {name} is not finite after step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a checkpoint is written."""
        self.on_validation_start(trainer, pl_module)

    def _stop_if_bad(self, trainer: Trainer) -> None:
        step = -1 if self.first_bad_step is None else int(self.first_bad_step)
        if step >= 0:
            self._stop(trainer, f"the loss is not finite at step {step}")

    def _stop(self, trainer: Trainer, what: str) -> None:
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        raise InputError(
            f"{what} (epoch {trainer.current_epoch}); try a smaller learning rate; "
            f"the last good checkpoint is {last or 'none yet'}"
        )


class RunRecorder(ModelCheckpoint):
    """Keeps ``checkpoints/{best,last}.ckpt`` and ``metrics.csv`` of a run directory, one row an epoch.

    The rows are part of the checkpoint, so that a resumed run continues the file where its checkpoint stands.

    Args:
        directory: the run directory.
        monitor: metric by which the best checkpoint is chosen; the last one without it.
        mode: whether the largest or the smallest value is best.
    """

    def __init__(self, directory: Path, *, monitor: str | None, mode: str = "max") -> None:
        super().__init__(
            directory / "checkpoints",
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.metrics_file = directory / "metrics.csv"
        self.rows: list[dict[str, float]] = []
        self._epoch_seconds = 0.0
        self._epoch_images = 0
        self._started = 0.0

    @property
    def seconds(self) -> float:
        """Time spent in training steps, over all sessions of the run."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def images_per_second(self) -> float:
        """Training throughput, over all sessions of the run."""
        return sum(row["images"] for row in self.rows) / self.seconds if self.rows else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the untrained network, so that a run that is interrupted early is usable too."""
        super().on_train_start(trainer, pl_module)
        if not self.last_model_path:
            self._save_last(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self._started, self._epoch_images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count this process's images of a step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._epoch_images += len(batch[0])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the epoch's clock: validation is not training."""
        self._stop_clock(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's row, then its checkpoints."""
        self._stop_clock(pl_module)
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        images = trainer.strategy.reduce(torch.tensor(self._epoch_images, device=pl_module.device), reduce_op="sum")
        row |= {"seconds": self._epoch_seconds, "images": int(images)}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append(row)
        self._epoch_seconds = 0.0
        if trainer.is_global_zero:
            write_atomically(self.metrics_file, rows_to_csv(self.rows).encode())
            logger_of("train").debug("an epoch has ended", extra=fields(**row))
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say in one line if the metric has chosen a network that classifies much worse than another epoch's."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and self.monitor is not None:
            line = doubtful_choice(self.rows, self.monitor, largest=self.mode == "max")
            if line:
                logger_of("train").warning("warning: %s", line)

    def _save_last(self, trainer: Trainer) -> None:
        # Lightning's own save_last leaves out the epochs that are not the best.
        self.last_model_path = str(Path(str(self.dirpath)) / "last.ckpt")
        trainer.save_checkpoint(self.last_model_path)

    def _stop_clock(self, pl_module: LightningModule) -> None:
        if self._epoch_seconds == 0.0:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self._epoch_seconds = time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this callback."""
        return super().state_dict() | {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint, also where the run directory has been moved since."""
        super().load_state_dict({**state_dict, **_moved(state_dict, Path(str(self.dirpath)))})
        self.rows = list(state_dict["rows"])


def _moved(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The paths in a ModelCheckpoint's state, which Lightning would forget, with all scores, if they were elsewhere."""

    def here(path: str) -> str:
        return str(directory / Path(path).name) if path else path

    single = ("best_model_path", "last_model_path", "kth_best_model_path")
    paths: dict[str, Any] = {name: here(state[name]) for name in single if name in state}
    models = {here(path): score for path, score in state.get("best_k_models", {}).items()}
    return {**paths, "best_k_models": models, "dirpath": str(directory)}


def rows_to_csv(rows: list[dict[str, float]]) -> str:
    """Return rows as CSV text; the columns are the union of their keys, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def doubtful_choice(rows: list[dict[str, float]], monitor: str, *, largest: bool = True) -> str | None:
    """Return one line if the best epoch by a metric has less than 0.8 of the largest validation accuracy, else None.

    An average of radii can be large for a network that is good for nothing: the radii of a constant classifier, right
    for one class in K, have no limit.

    Args:
        rows: those of ``metrics.csv``.
        monitor: the metric by which the best epoch is chosen.
        largest: whether its largest value is best.

    Example:
        >>> row = {"epoch": 0, "val/accuracy": 0.9, "val/average_certified_radius": 0.8}
        >>> constant = {"epoch": 1, "val/accuracy": 0.1, "val/average_certified_radius": 1.1}
        >>> doubtful_choice([row, constant], "val/average_certified_radius")[:66]
        'val/average_certified_radius has chosen epoch 1, with accuracy 0.1'
    """
    measured = [row for row in rows if {monitor, "val/accuracy"} <= row.keys() and math.isfinite(row[monitor])]
    if not measured:
        return None
    chosen = (max if largest else min)(measured, key=lambda row: row[monitor])
    widest = max(measured, key=lambda row: row["val/accuracy"])
    if chosen["val/accuracy"] >= _KEPT_ACCURACY * widest["val/accuracy"]:
        return None
    return (
        f"{monitor} has chosen epoch {chosen['epoch']:.0f}, with accuracy {chosen['val/accuracy']:.3g} where epoch "
        f"{widest['epoch']:.0f} had {widest['val/accuracy']:.3g}; --monitor val/accuracy chooses otherwise"
    )


class Throughput:
    """Images per second of the last few seconds; pauses do not count.

    It reads the host's clock only. A device that lags behind is felt as soon as its queue is full.

    Args:
        memory: seconds after which a step counts 1/e.
        clock: returns seconds.

    Example:
        >>> seconds = iter([0.0, 2.0, 4.0])
        >>> throughput = Throughput(clock=lambda: next(seconds))
        >>> throughput.start()
        >>> throughput.add(100), throughput.add(100)
        (50.0, 50.0)
    """

    def __init__(self, memory: float = 5.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.memory = memory
        self.clock = clock
        self.images = 0.0
        self.seconds = 0.0
        self._last = 0.0

    def start(self) -> None:
        """Leave out the time since the last step."""
        self._last = self.clock()

    def add(self, images: int) -> float:
        """Count a step's images and return the present throughput."""
        now = self.clock()
        elapsed = now - self._last
        kept = math.exp(-elapsed / self.memory)
        self.images = kept * self.images + images
        self.seconds = kept * self.seconds + elapsed
        self._last = now
        return self.images / max(self.seconds, 1e-9)


class Progress(TQDMProgressBar):
    """The progress bar, refreshed a few times a second at most, with the training throughput."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)
        self.throughput = Throughput()
        self.images_per_second = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's bar and the clock."""
        super().on_train_epoch_start(trainer, pl_module)
        self.throughput.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of a step."""
        self.images_per_second = self.throughput.add(len(batch[0]) * trainer.world_size)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the validation's bar; training goes on from here."""
        super().on_validation_end(trainer, pl_module)
        self.throughput.start()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what the bar shows."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if self.images_per_second:
            metrics["images/s"] = f"{self.images_per_second:.0f}"
        return metrics
