"""Training on several devices: the loss of the global batch, and an end for every process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torchmetrics.utilities.distributed import gather_all_tensors

from lipcert.errors import InputError, interrupt

SECONDS_TO_END = 20.0


class WholeBatchLoss(Callback):
    """Hands the loss the logits and targets of all processes: it has the value and gradient that one device would get.

    The mean of the processes' own losses is another number: HKR divides by how often each class occurs in the batch,
    SoftHKR keeps a running mean of the outputs. This reaches the submodules that a module names in ``batch_losses``,
    ``loss`` if it names none: they are called with logits, targets and what is the same everywhere, such as by
    :class:`lipcert.modules.Classifier`, equally often by every process. On one device it does nothing.
    """

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reach the losses' arguments."""
        named = [getattr(pl_module, name, None) for name in getattr(pl_module, "batch_losses", ("loss",))]
        if trainer.world_size > 1:
            losses = [loss for loss in named if isinstance(loss, nn.Module)]
            self._hooks = [loss.register_forward_pre_hook(_gather_arguments) for loss in losses]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the losses as they were."""
        while self._hooks:
            self._hooks.pop().remove()


class EndsOnSigterm(Callback):
    """Lets SIGTERM end a fit as Ctrl-C does; Lightning would wait for the end of a batch, and for all processes.

    Rank zero is interrupted, and ends the others, which SIGTERM ends at once. Where SLURM is to start an unfinished
    job again, the signal is Lightning's.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal back; Lightning has its own handler by now, and puts back the old one at the end."""
        requeued = getattr(trainer._accelerator_connector.cluster_environment, "auto_requeue", False)
        if threading.current_thread() is threading.main_thread() and not requeued:
            signal.signal(signal.SIGTERM, interrupt if trainer.is_global_zero else signal.SIG_DFL)


def _gather_arguments(loss: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    logits, targets, *others = arguments  # others, such as bounds, are the same on every process
    return whole_batch(logits), whole_batch(targets), *others


def whole_batch(share: Tensor) -> Tensor:
    """Return the batches of all processes as one.

    Gradients reach this process's share only, multiplied by the number of processes: after DDP has averaged the
    gradients of all processes, each parameter has the gradient of a loss of the whole batch.

    Args:
        share: ``(N_r, ...)`` of this process; N_r may differ between them.

    Returns:
        ``(N, ...)`` in the order of the processes.
    """
    shares: list[Tensor] = gather_all_tensors(share)
    if share.requires_grad:
        own = share.view_as(share)
        own.register_hook(lambda gradient: gradient * len(shares))
        shares[dist.get_rank()] = own
    return torch.cat(shares)


def is_rank_zero() -> bool:
    """Return whether this process is the one that writes, as the environment tells before there is a trainer."""
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def check_launcher(trainer: Trainer) -> None:
    """Refuse strategies that train in processes which never come back to the command.

    Raises:
        InputError: the trainer forks or spawns its processes.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            "expected a strategy that runs the command once a device, such as ddp, got one that forks or spawns"
        )


def end_processes(trainer: Trainer, *, patience: float) -> list[int]:
    """End the processes that Lightning has started from this one.

    Args:
        trainer: the trainer that has finished or failed.
        patience: seconds after which one that is still running is killed.

    Returns:
        The exit codes of those that ended by themselves.
    """
    launcher: Any = trainer.strategy.launcher
    processes: list[subprocess.Popen[bytes]] = list(getattr(launcher, "procs", ()))
    if processes:
        launcher.procs.clear()  # Lightning's observer kills this process too when it sees that one of them has failed
    codes, deadline = [], time.monotonic() + patience
    for process in processes:
        try:
            codes.append(process.wait(max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return codes


def fit_on_devices(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, *, checkpoint: Path | None
) -> None:
    """Fit, and be the only process of the training from then on; an interrupt from the keyboard ends the fit too.

    Args:
        trainer: what fits; it tells afterwards whether it was interrupted.
        model: what is fitted.
        data: what it is fitted to.
        checkpoint: file to continue from; None to start.

    Raises:
        InputError: one of the processes that were started here died.
    """
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # how Lightning ends a fit that was interrupted
        end_processes(trainer, patience=0)
        if not trainer.interrupted:
            raise
    except RuntimeError as error:  # what waiting for a process that has died ends with
        died = [code for code in end_processes(trainer, patience=2) if code]
        if not died:
            raise
        directory = trainer.default_root_dir
        raise InputError(
            f"expected every process to finish, one ended with code {died[0]}; continue with --resume {directory}"
        ) from error
    except BaseException:
        end_processes(trainer, patience=0)
        raise
    end_processes(trainer, patience=SECONDS_TO_END)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()  # no metric may wait for the others any more


@contextmanager
def serving_rank_zero() -> Iterator[None]:
    """Leave it to rank zero to tell the user what went wrong, and what Ctrl-C means, which reaches every process.

    What stops rank zero as well ends this process before it can say so too; otherwise it is this process's alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    except Exception:
        time.sleep(SECONDS_TO_END)
        raise
