"""Lightning's strategy for weights that are split over processes, ``--trainer.strategy fsdp2``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.optim import Optimizer

from lipcert.errors import InputError
from lipcert.modules import Classifier
from lipcert.sharding import check_splittable, is_split, share_of, whole

NAME = "fsdp2"
REFUSED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)
PRECISIONS = ("32-true", "bf16-mixed")
OLDEST_TORCH = (2, 8)  # has set_reshard_after_forward, and keeps the outermost unit gathered by default


class FullyShardedStrategy(ModelParallelStrategy):
    """Splits the weights of a :class:`lipcert.modules.Classifier`, their gradients and the optimizer's state: FSDP2.

    Every process has its share of each; :func:`lipcert.sharding.split_` says when weights are gathered. Checkpoints are
    those of one device: one file, with whole weights, so that a run goes on under any strategy on any number of
    devices, and read without pickles.

    Example:
        >>> Trainer(strategy=FullyShardedStrategy(), accelerator="cpu", logger=False).strategy.strategy_name
        'fsdp2'
    """

    strategy_name = NAME

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Read a checkpoint as early as on one device: modules look at what they have been given."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Leave it to Lightning to ask for the optimizer's state."""
        return True

    def setup_environment(self) -> None:
        """Find the other processes; all of them share the weights."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole tensors of the module on rank zero; the others only take part."""
        assert self.lightning_module is not None
        return self._for_rank_zero(self.lightning_module.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's share of the whole tensors of a checkpoint."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as the other strategies do, by the trainer's plugin."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's whole state on rank zero.

        torch's own function would take a step with an optimizer that has no state yet, which Adam would count.
        """
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = plain.state_dict()
        by_parameter = {number: self._for_rank_zero(entries) for number, entries in state["state"].items()}
        return {**state, "state": by_parameter} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's share of the optimizers' states: what has the shape of a parameter is split as it is."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            by_parameter = {
                number: {name: _like(value, parameters[number]) for name, value in entries.items()}
                for number, entries in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": by_parameter})

    def _for_rank_zero(self, values: Mapping[Any, Any]) -> dict[Any, Any]:
        """Gather one value after the other, into the memory of the host."""
        kept = {}
        for name, value in values.items():
            gathered = whole(value).cpu() if isinstance(value, Tensor) else value
            if self.is_global_zero:
                kept[name] = gathered
        return kept


def check_strategy(strategy: Any) -> None:
    """Refuse strategies that split weights and never put them together, before there is a trainer.

    A weight is orthogonal, or has a norm, as a whole: what keeps it on its manifold, exports and certifies it reads all
    of its rows and columns. Lightning's FSDP flattens it, its ModelParallelStrategy does not say how it is split.

    Args:
        strategy: word or object, as a trainer takes it.

    Raises:
        InputError: names what to use.

    Example:
        >>> check_strategy("fsdp")
        Traceback (most recent call last):
        lipcert.errors.InputError: expected ddp, or fsdp2 to split weights, got fsdp, which never has whole ones
    """
    refused = isinstance(strategy, REFUSED) and not isinstance(strategy, FullyShardedStrategy)
    if isinstance(strategy, str):
        refused = strategy != NAME and strategy.startswith(("fsdp", "deepspeed"))
    if refused:
        named = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise InputError(f"expected ddp, or {NAME} to split weights, got {named}, which never has whole ones")


def check_splitting(trainer: Trainer, model: LightningModule) -> None:
    """Refuse what cannot be trained with split weights, before a process is started.

    Raises:
        InputError: says what was expected and found.
    """
    if not isinstance(trainer.strategy, FullyShardedStrategy):
        return
    if not isinstance(model, Classifier):
        raise InputError(f"expected a lipcert Classifier with {NAME}, got {type(model).__name__}")
    check_splittable(model.network)
    if getattr(model, "weight_perturbation", 0):
        raise InputError(f"expected weight_perturbation 0 with {NAME}: whole weights are perturbed; use ddp")
    if trainer.precision not in PRECISIONS:
        raise InputError(f"expected a precision among {', '.join(PRECISIONS)} with {NAME}, got {trainer.precision}")
    if trainer.strategy._layer_sync is not None:
        raise InputError(f"expected sync_batchnorm false with {NAME}; use ddp")
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise InputError(f"expected no averaged weights with {NAME}: whole weights are averaged; use ddp")
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise InputError(f"expected torch {'.'.join(map(str, OLDEST_TORCH))} or newer for {NAME}; use ddp")


def _like(value: Any, own: Tensor | None) -> Any:
    if isinstance(own, Tensor) and isinstance(value, Tensor) and is_split(own) and value.shape == own.shape:
        return share_of(value, own)
    return value


StrategyRegistry.register(NAME, FullyShardedStrategy, description="FSDP2: weights split over all processes")
