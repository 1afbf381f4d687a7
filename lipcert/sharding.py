"""Weights that are split over processes, FSDP2: read whole where a matrix counts as a whole, written back in parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule


def is_split(tensor: Tensor) -> bool:
    """Return whether this process holds only a part of a tensor; torch's DTensors take a second to import."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor: a new one, for which all processes have to ask, if it is split, and itself otherwise."""
    return tensor.full_tensor() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a tensor that all processes have, split as another of its shape."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)


def write_(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor, in place, a value that all processes have; nothing is sent.

    Args:
        tensor: split or not.
        value: of its shape.
    """
    tensor.copy_(share_of(value, tensor) if is_split(tensor) else value)


def check_splittable(network: nn.Module) -> None:
    """Refuse a network with a weight that cannot be split.

    Raises:
        InputError: a parameter is a single number, such as a learned share of a residual branch.
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 0:
            raise InputError(f"expected parameters that can be split with fsdp2, got the number {name!r}; use ddp")


def split_(network: nn.Module, mesh: DeviceMesh) -> None:
    """Split the parameters of a network over processes, in place, each on its first dimension.

    Every process is given the values of the first one. A pass gathers them and lets go of them again: one layer after
    the other where the network is an ``nn.Sequential``, which calls each of its layers once, and all at once in others,
    whose way through their layers may depend on the images. The last layer stays gathered until the backward pass has
    gone through it, so that a loss can read the weight of the head.

    Args:
        network: on the device of the mesh.
        mesh: of one dimension, the processes.

    Raises:
        InputError: see :func:`check_splittable`.
    """
    from torch.distributed.fsdp import fully_shard

    check_splittable(network)
    for tensor in chain(network.parameters(), network.buffers()):
        dist.broadcast(tensor.data, 0)
    called = _called(network)
    layers = [layer for layer in called.children() if any(True for _ in layer.parameters())]
    if isinstance(called, nn.Sequential):
        for layer in layers[:-1]:
            fully_shard(layer, mesh=mesh)
    fully_shard(called, mesh=mesh)


def gathered(network: nn.Module, template: nn.Module) -> nn.Module:
    """Return a copy of a split network with whole weights, and the buffers of the first process.

    All processes have to ask. The network may be in the midst of a pass no longer: what is gathered is let go of.

    Args:
        network: see :func:`split_`, which makes it one that cannot be copied.
        template: what it was before; it is left as it is.
    """
    for unit in _units(network):
        unit.reshard()
    device = next(network.parameters()).device
    copied = copy.deepcopy(template).to(device)
    with torch.no_grad():
        for parameter, split in zip(copied.parameters(), network.parameters(), strict=True):
            parameter.copy_(whole(split))
        for buffer, present in zip(copied.buffers(), network.buffers(), strict=True):
            buffer.copy_(present)
            dist.broadcast(buffer, 0)
    return copied.train(network.training)


@contextmanager
def kept_whole(network: nn.Module) -> Iterator[None]:
    """Keep all weights of a split network gathered: passes then wait for no other process, however many they are.

    Without it, a process that needs fewer passes than the others, such as one whose attack is done, would leave them
    waiting for its weights. On a network that is not split it does nothing.

    Args:
        network: what is passed.
    """
    units = list(_units(network))
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.set_reshard_after_backward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for place, unit in enumerate(units):
            unit.set_reshard_after_forward(place > 0, recurse=False)  # as split_ has it: all but the outermost
            unit.set_reshard_after_backward(True, recurse=False)
            unit.reshard()


def _called(network: nn.Module) -> nn.Module:
    """The module whose passes gather: what only prepares views for another one need not pass its own ``forward``."""
    inner = getattr(network, "network", None)
    while isinstance(inner, nn.Module) and len(list(inner.parameters())) == len(list(network.parameters())):
        network, inner = inner, getattr(inner, "network", None)
    return network


def _units(network: nn.Module) -> Iterator[FSDPModule]:
    """The parts of a network that are gathered at once, the outermost one first."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed.fsdp import FSDPModule

    yield from (module for module in network.modules() if isinstance(module, FSDPModule))
