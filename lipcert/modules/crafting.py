"""Adversarial samples for training: the network as an attack may see it, and unharmed afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from lipcert.attacks import Attack, Findings, Norm, Task
from lipcert.errors import InputError
from lipcert.sharding import kept_whole

Statistics = Literal["running", "batch"]


def craft(
    attack: Attack,
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    epsilon: float | None,
    seed: int = 0,
    statistics: Statistics = "running",
) -> Tensor:
    """Return what an attack makes of a batch, from the network that is being trained itself.

    This is the attack's own search alone. Calling an attack also copies the network, checks the arguments and verifies
    each example by itself, which is right for an audit and more than a training step should pay for.

    Args:
        attack: what searches.
        network: in any mode; it keeps its mode, gradients and running statistics.
        inputs: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` int64, the classes to leave.
        norm: of the budget.
        epsilon: the budget; None for an attack that needs none.
        seed: the only source of randomness.
        statistics: see :func:`searchable`.

    Returns:
        ``(N, C, H, W)`` without gradients; the input itself where the attack has nothing to offer.

    Example:
        >>> from lipcert.attacks import LossAscent
        >>> network, inputs = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)
        >>> found = craft(LossAscent(), network, inputs, torch.tensor([0, 1]), norm="linf", epsilon=0.1)
        >>> bool(((found - inputs).abs() <= 0.1).all()), network.training, network[1].weight.grad
        (True, True, None)
    """
    task = Task(inputs, labels, norm=norm, epsilon=epsilon, seed=seed)
    with searchable(network, statistics), torch.enable_grad():
        found = attack.run(network, task.copy())
    return (found.candidates if isinstance(found, Findings) else found).detach()


@contextmanager
def searchable(network: nn.Module, statistics: Statistics = "running") -> Iterator[None]:
    """Put a network into eval mode, without parameter gradients, for the time of a search.

    Dropout is off, and no layer that keeps running statistics updates them. Parameters ask for no gradients: none can
    reach ``grad``, whatever an attack calls, and half of a backward pass is saved. Every module and parameter is put
    back as it was, those that the user has frozen among them.

    Args:
        network: what is searched.
        statistics: how BatchNorm normalises meanwhile: by its ``"running"`` statistics, so that the attack is on the
            network that will be deployed and no sample depends on the others; or by those of the ``"batch"``, so that
            it is on the network that the step trains. In neither case are running statistics updated.

    Source: for the difference that it makes, Pang et al. (2021), arXiv 2010.00467, section 3.
    """
    with kept_whole(network):  # first: its parameters are then those of its passes
        modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in network.modules()]
        learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
        network.eval()
        for parameter in learned:
            parameter.requires_grad_(False)
        try:
            with untracked(network), parametrize.cached():
                if statistics == "batch":
                    for layer in _normalisers(network):
                        layer.training = True
                yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter in learned:
                parameter.requires_grad_(True)


@contextmanager
def untracked(network: nn.Module) -> Iterator[None]:
    """Keep BatchNorm in training mode from updating its running statistics.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> with untracked(layer):
        ...     _ = layer(torch.rand(4, 2) + 5)
        >>> layer.running_mean.tolist(), layer.num_batches_tracked.item(), layer.track_running_stats
        ([0.0, 0.0], 0, True)
    """
    tracking = [module for module in _normalisers(network) if module.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def check_attack(attack: Attack, norm: Norm, epsilon: float | None) -> None:
    """Refuse an attack that cannot search in a norm, or that needs a budget and has none.

    Raises:
        InputError: says what was expected and found.

    Example:
        >>> from lipcert.attacks import LossAscent
        >>> check_attack(LossAscent(), "linf", None)
        Traceback (most recent call last):
        lipcert.errors.InputError: expected an epsilon for loss-ascent, got none
    """
    if norm not in attack.norms:
        raise InputError(f"expected a norm among {', '.join(attack.norms)} for {attack.name}, got {norm!r}")
    if epsilon is None and attack.fixed_budget:
        raise InputError(f"expected an epsilon for {attack.name}, got none")
    if epsilon is not None and not 0 < epsilon < float("inf"):
        raise InputError(f"expected a finite epsilon > 0, got {epsilon:g}")


def check_statistics(statistics: str) -> None:
    """Refuse what is neither ``"running"`` nor ``"batch"``."""
    if statistics not in get_args(Statistics):
        raise InputError(f"expected crafting statistics among {', '.join(get_args(Statistics))}, got {statistics!r}")


def _normalisers(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]
