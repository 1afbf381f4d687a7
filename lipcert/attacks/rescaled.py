"""Logits on a scale that attacks can work with: what undoes the gradient masking of large logits."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError


class RescaledNetwork(nn.Module):
    r"""A network whose logits are divided by a power of two, for all samples one or for each its own.

    .. math:: z'(x) = 2^{-k} z(x), \qquad k = \lceil \log_2 T \rceil \quad \text{or} \quad
        k = \lceil \log_2 (\max_j z_j(x) - \min_j z_j(x)) \rceil

    Where logits are large, their softmax is saturated: it rounds to 0 and 1, the cross-entropy has no gradient, and
    attacks that follow it see nothing. Defensive distillation does that, and so does any network that is trained for
    long. Dividing by a power of two loses no bit, so that no class and no order of logits changes; what is found here
    holds for the network itself.

    Gradients of each sample's own scale are not taken: the direction of every gap's gradient stays the network's.

    Args:
        network: gives logits ``(N, K)``.
        temperature: T, what to divide by; None for each sample's own spread.

    Raises:
        InputError: a temperature that is not above 0.

    Source: Carlini & Wagner (2016), arXiv 1607.04311, who divide the logits of distilled networks by T.

    Example:
        >>> import torch.nn.functional as F
        >>> inputs, label = torch.tensor([[400.0, 100.0]], requires_grad=True), torch.tensor([0])
        >>> for network in (nn.Identity(), RescaledNetwork(nn.Identity()), RescaledNetwork(nn.Identity(), 100)):
        ...     gradient = torch.autograd.grad(F.cross_entropy(network(inputs), label), inputs)[0]
        ...     print(bool((gradient != 0).any()), network(inputs).tolist())
        False [[400.0, 100.0]]
        True [[0.78125, 0.1953125]]
        True [[3.125, 0.78125]]
    """

    def __init__(self, network: nn.Module, temperature: float | None = None) -> None:
        super().__init__()
        if temperature is not None and not 0 < temperature < math.inf:
            raise InputError(f"expected a finite temperature > 0, got {temperature:g}")
        self.network = network
        self.temperature = temperature
        self.train(network.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)``."""
        logits: Tensor = self.network(inputs)
        if self.temperature is not None:
            return logits * 2.0 ** -math.ceil(math.log2(self.temperature))
        low, high = logits.detach().aminmax(dim=1, keepdim=True)
        exponents = torch.frexp(high - low).exponent
        # a factor of its own: the backward pass of torch.ldexp takes powers of two as integers, which are 0
        return logits * torch.ldexp(torch.ones_like(high), torch.where(high > low, -exponents, 0))
