"""Float32 executions that add up products one by one, in a chosen order."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OneByOne(TorchFunctionMode):
    """Runs linear layers and 2-d convolutions as sums one by one: from first to last, or shuffled by a seed."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = seed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return self.linear(*args, **(kwargs or {}))
        if func is torch.conv2d:
            return self.convolution(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._sum(inputs[..., None, :] * weight, bias)

    def convolution(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any = (1, 1),
        groups: int = 1,
    ) -> Tensor:
        if padding == "same":
            padding = [size // 2 for size in weight.shape[2:]]
        parts = []
        for part, kernel in zip(inputs.chunk(groups, 1), weight.chunk(groups, 0), strict=True):
            patches = F.unfold(part, kernel.shape[2:], dilation, padding or 0, stride).transpose(1, 2)
            parts.append(patches[..., None, :] * kernel.flatten(1))
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(inputs.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        ]
        return self._sum(torch.cat(parts, 2), bias).transpose(1, 2).reshape(len(inputs), -1, *size)

    def _sum(self, products: Tensor, bias: Tensor | None) -> Tensor:
        shifts = torch.zeros(products.shape[-2]) if bias is None else bias
        columns = [*products.unbind(-1), shifts.expand(products.shape[:-1])]
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed)
            columns = [columns[i] for i in torch.randperm(len(columns), generator=generator)]
        total = torch.zeros_like(columns[0])
        for column in columns:
            total = total + column
        return total
