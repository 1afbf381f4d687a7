"""Centring of channels over a batch, which keeps the Lipschitz constant."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lipcert.errors import InputError


class BatchCentering(nn.Module):
    r"""Subtracts from each channel its mean over the batch, and adds a learned bias.

    .. math:: y_c = x_c - \mu_c + \beta_c

    In training :math:`\mu` is the mean over samples and pixels, differentiated through, and over all processes where
    there are several; in eval mode it is the running mean, a constant, so that the layer is a translation: an isometry.
    It exports to :class:`Translation`.

    Args:
        num_features: C.
        momentum: weight of a new batch in the running mean, in (0, 1].
        bias: whether to learn :math:`\beta`, which starts at zero.

    Shapes: ``(N, C, ...)`` to the same.

    Source: BatchCentering of deel-torchlip; Ioffe & Szegedy (2015), arXiv 1502.03167.

    Example:
        >>> BatchCentering(2)(torch.tensor([[1.0, 5.0], [3.0, 9.0]]))
        tensor([[-1., -2.],
                [ 1.,  2.]], grad_fn=<AddBackward0>)
    """

    running_mean: Tensor

    def __init__(self, num_features: int, *, momentum: float = 0.1, bias: bool = True) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise InputError(f"expected a momentum in (0, 1], got {momentum}")
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features)) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the centred channels."""
        if not self.training:
            return inputs + _by_channel(self._offset(self.running_mean), inputs)
        mean = self._batch_mean(inputs)
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
        return inputs + _by_channel(self._offset(mean), inputs)

    def vanilla_export(self) -> Translation:
        """Return the translation that this is in eval mode."""
        return Translation(self._offset(self.running_mean).detach().clone())

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{len(self.running_mean)}, momentum={self.momentum}, bias={self.bias is not None}"

    def _offset(self, mean: Tensor) -> Tensor:
        return -mean if self.bias is None else self.bias - mean

    def _batch_mean(self, inputs: Tensor) -> Tensor:
        others = [0, *range(2, inputs.ndim)]
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return inputs.mean(dim=others)
        count = inputs.new_full((1,), inputs.numel() / inputs.shape[1])
        total: Tensor = _SumOfProcesses.apply(torch.cat([inputs.sum(dim=others), count]))  # type: ignore[no-untyped-call]
        mean: Tensor = total[:-1] / total[-1]
        return mean


class _SumOfProcesses(torch.autograd.Function):
    """A tensor's sum over all processes; its gradient is the sum of theirs, which torch deprecates to have ready."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class Translation(nn.Module):
    """Adds a constant to each channel.

    Args:
        offset: ``(C,)``.

    Shapes: ``(N, C, ...)`` to the same.

    Example:
        >>> Translation(torch.tensor([1.0, 2.0]))(torch.zeros(1, 2)).tolist()
        [[1.0, 2.0]]
    """

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        self.offset = nn.Parameter(offset)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the translated channels."""
        return inputs + _by_channel(self.offset, inputs)


def _by_channel(values: Tensor, inputs: Tensor) -> Tensor:
    return values.view(-1, *[1] * (inputs.ndim - 2))
