"""Linear and convolution layers of deployed networks, which round less often."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from lipcert.blocked_sums import conv2d_in_blocks, is_long, linear_in_blocks
from lipcert.layers.pooling import pair


class BlockedLinear(nn.Linear):
    """``nn.Linear`` with the same state dict, which adds up long sums in blocks in eval mode.

    Certificates for the network as it executes keep more of their radius; see :mod:`lipcert.blocked_sums`.

    Example:
        >>> layer = BlockedLinear(784, 10)
        >>> layer.load_state_dict(nn.Linear(784, 10).state_dict())
        <All keys matched successfully>
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(..., m)`` of ``(..., n)``."""
        return super().forward(input) if self.training else linear_in_blocks(input, self.weight, self.bias)


class BlockedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with the same state dict, which adds up long sums in blocks in eval mode.

    With several groups or another padding than zeros it is ``nn.Conv2d``.

    Certificates for the network as it executes keep more of their radius; see :mod:`lipcert.blocked_sums`.

    Example:
        >>> layer = BlockedConv2d(64, 8, 3)
        >>> layer.load_state_dict(nn.Conv2d(64, 8, 3).state_dict())
        <All keys matched successfully>
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(N, C_out, H', W')`` of ``(N, C_in, H, W)``."""
        if self.training or self.padding_mode != "zeros":
            return super().forward(input)
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return conv2d_in_blocks(input, self.weight, self.bias, *settings)  # type: ignore[arg-type]


def plain_linear(layer: nn.Linear) -> nn.Linear:
    """Return a layer without constraint that computes to the bit what a layer does in eval mode."""
    kind = BlockedLinear if is_long(layer.weight) else nn.Linear
    return _handed_over(layer, kind(layer.in_features, layer.out_features, bias=False, device="meta"))


def plain_conv2d(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a layer without constraint that computes to the bit what a layer does in eval mode."""
    kind = BlockedConv2d if layer.groups == 1 and is_long(layer.weight) else nn.Conv2d
    plain = kind(
        layer.in_channels,
        layer.out_channels,
        pair(layer.kernel_size),
        pair(layer.stride),
        pair(layer.padding),  # type: ignore[arg-type]
        groups=layer.groups,
        bias=False,
        device="meta",
    )
    return _handed_over(layer, plain)


_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


def _handed_over(layer: _Layer, plain: _Layer) -> _Layer:
    plain.weight = nn.Parameter(layer.weight.detach().clone())
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().clone())
    return plain
