"""Weights at their worst: training for a flat minimum, where what is robust in training is robust elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call

from lipcert.modules.crafting import untracked

Network = Callable[[Tensor], Tensor]


def uphill(network: nn.Module, objective: Callable[[Network], Tensor], size: float) -> Network:
    r"""Return the network with each weight moved to where the objective is larger; its own weights stay.

    .. math:: \theta_i + \gamma\, \|\theta_i\| \frac{g_i}{\|g_i\|}, \qquad g = \nabla_\theta\, L(f_\theta)

    for every weight of two dimensions or more, with L of the samples of all processes. Gradients of what is returned
    reach the parameters of the network as if these were moved; running statistics follow its passes alone.

    Args:
        network: what is trained.
        objective: L, called with the network.
        size: gamma, relative to the norm of each weight.

    Source: Wu et al. (2020), arXiv 2004.05884, equation 10.

    Example:
        >>> network, inputs = nn.Linear(2, 1, bias=False), torch.ones(1, 2)
        >>> network.weight.data = torch.tensor([[3.0, 4.0]])
        >>> moved = uphill(network, lambda f: f(inputs).sum(), 0.1)
        >>> [round(f(inputs).item(), 3) for f in (network, moved)]  # a step of 0.5 along (1, 1)
        [7.0, 7.707]
    """
    weights = {name: weight for name, weight in network.named_parameters() if weight.ndim > 1 and weight.requires_grad}
    with untracked(network):
        gradients = torch.autograd.grad(objective(network), list(weights.values()))
    moved = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if dist.is_initialized():
            dist.all_reduce(gradient)
        length = size * weight.detach().norm() / gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
        moved[name] = weight + length * gradient
    return partial(functional_call, network, moved)
