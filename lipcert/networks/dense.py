"""Dense networks that keep distances: orthogonal matrices between activations that sort."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn as nn

from lipcert.layers import BatchCentering
from lipcert.networks.parts import dense_part


def dense_network(
    input_shape: Sequence[int] = (1, 28, 28),
    widths: Sequence[int] = (512, 512, 512),
    num_classes: int = 10,
    *,
    constraint: str = "projection",
) -> nn.Module:
    """Return orthogonal linear layers with MaxMin between them, up to an orthogonal head.

    Pixels are centred by their running means: orthogonal layers keep a common offset, and the large gradients that it
    makes. The network is 1-Lipschitz and its head's rows are orthonormal: a logit gap of m certifies m over root 2.

    Args:
        input_shape: ``(C, H, W)``.
        widths: features of the hidden layers, even.
        num_classes: K.
        constraint: word of :class:`~lipcert.layers.OrthogonalLinear`, or ``"none"`` for the unconstrained twin.

    Returns:
        A network from ``(N, C, H, W)`` in [0, 1] to ``(N, K)``.

    Raises:
        InputError: an odd width, or an unknown constraint.

    Example:
        >>> network = dense_network(widths=(512, 512, 512, 512))
        >>> sum(parameter.numel() for parameter in network.parameters())
        1195018
    """
    pixels = math.prod(input_shape)
    centred = BatchCentering(pixels, bias=False)
    return nn.Sequential(nn.Flatten(), centred, *dense_part(pixels, widths, num_classes, constraint))
