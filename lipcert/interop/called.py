"""Networks that can only be called: whatever maps arrays to logits, as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor

from lipcert.errors import InputError

Function = Callable[[NDArray[np.float32]], Any]


class CalledNetwork(nn.Module):
    """A function of arrays as a network: attacked by its answers alone, or with the gradients that it has to offer.

    Nothing of it can be certified: its operations are out of sight.

    Args:
        function: from images ``(N, C, H, W)``, float32 in [0, 1], to logits ``(N, K)``.
        jacobian: from the same images to the gradients ``(N, K, C, H, W)`` of all logits; None: there are none.

    Example:
        >>> network = CalledNetwork(lambda images: images.reshape(len(images), -1)).eval()
        >>> network(torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)).tolist()
        [[0.25, 0.75]]
    """

    def __init__(self, function: Function, jacobian: Function | None = None) -> None:
        super().__init__()
        self.function = function
        self.jacobian = jacobian

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``(N, K)``."""
        if type(inputs) is not Tensor:  # what bounds networks by looking at their operations
            raise InputError("expected a network of PyTorch operations, got one that can only be called")
        logits: Tensor = _Called.apply(inputs, self.function, self.jacobian)  # type: ignore[no-untyped-call]
        return logits

    def __deepcopy__(self, memo: dict[int, object]) -> CalledNetwork:
        """Return a module of its own for the same function, which may be anything."""
        return CalledNetwork(self.function, self.jacobian).train(self.training)


class _Called(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, function: Function, jacobian: Function | None) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.jacobian = jacobian
        logits = _tensor(function(_array(inputs)), inputs)
        if logits.ndim != 2 or len(logits) != len(inputs):
            raise InputError(f"expected logits ({len(inputs)}, K) of a call, got {tuple(logits.shape)}")
        if jacobian is None:
            ctx.mark_non_differentiable(logits)
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inputs,) = ctx.saved_tensors
        with torch.enable_grad():  # the function's own way to its gradients may be torch's
            found = _tensor(ctx.jacobian(_array(inputs)), inputs)
        if found.shape != (*gradient.shape, *inputs.shape[1:]):
            expected = (*gradient.shape, *inputs.shape[1:])
            raise InputError(f"expected gradients {expected} of a call, got {tuple(found.shape)}")
        return torch.einsum("nk,nk...->n...", gradient, found), None, None


def _array(inputs: Tensor) -> NDArray[np.float32]:
    return np.array(inputs.detach().cpu().numpy(), dtype=np.float32)


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(np.array(values, dtype=np.float32)).to(like)
