"""A training that starts from the weights of another network instead of random ones."""

from __future__ import annotations

from pathlib import Path

import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError
from lipcert.harness.foreign import load_into, read_weights
from lipcert.runs import RunPaths

NETWORK = "network."


def start_from(source: str | Path, module: nn.Module) -> None:
    """Give the network of a Lightning module the weights of a trained one; nothing else of its training is taken over.

    Args:
        source: run directory, whose best checkpoint is read, or the last, or the exported network; or a checkpoint
            ``.ckpt`` of such a module; or a ``.safetensors`` or state dict of the network alone. No pickle is executed.
        module: has a ``network``.

    Raises:
        InputError: nothing usable is found there, or the tensors of another network.
    """
    network = getattr(module, "network", None)
    if not isinstance(network, nn.Module):
        raise InputError(f"expected a module with a network to give weights to, got {type(module).__name__}")
    path = _file_of(Path(source))
    state = read_weights(path)
    load_into(network, _of_network(state), model=type(network).__name__, path=path)


def _file_of(source: Path) -> Path:
    if not source.is_dir():
        return source
    paths = RunPaths(source)
    for path in (paths.best, paths.last, paths.network):
        if path.is_file():
            return path
    raise InputError(f"expected a run directory with a checkpoint or an exported network, found none at {source}")


def _of_network(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Lightning module's network alone; those of a plain state dict are all of a network."""
    own = {name.removeprefix(NETWORK): tensor for name, tensor in state.items() if name.startswith(NETWORK)}
    return own or state
