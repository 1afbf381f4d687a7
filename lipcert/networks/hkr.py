"""The convolutional network of deel-torchlip's Fashion-MNIST tutorial."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
from deel import torchlip

from lipcert.errors import InputError
from lipcert.layers import GroupSort2, L2NormPool2d
from lipcert.layers.bjorck import speed_up


def hkr_convnet(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
) -> nn.Module:
    r"""Return a 1-Lipschitz convolutional network with one output neuron a class, each 1-Lipschitz by itself.

    Every stage is a 3 x 3 orthogonalised convolution, GroupSort2 and a 2 x 2 L2-norm pooling; a dense layer and a head
    of independently normalised neurons follow. Trained with an HKR loss each output estimates a one-against-all
    Wasserstein distance. What it certifies is recomputed from the exported weights, see :func:`lipcert.certify`.

    Args:
        input_shape: ``(C, H, W)`` of the images.
        num_classes: number of outputs.
        channels: output channels of each stage; every stage halves height and width.
        hidden: width of the dense layer, even.

    Returns:
        A ``torchlip.Sequential`` in training mode.

    Raises:
        InputError: the images are too small for the stages, or a width is odd (GroupSort2 sorts pairs).

    Source: Serrurier et al. (2021), arXiv 2006.06520; deel-torchlip's tutorial on Fashion-MNIST.

    Example:
        >>> network = hkr_convnet()
        >>> sum(parameter.numel() for parameter in network.parameters())
        105866
    """
    in_channels, height, width = input_shape
    shrink = 2 ** len(channels)
    if min(height, width) < shrink:
        raise InputError(
            f"expected images of at least {shrink} x {shrink} for {len(channels)} stages, got {height} x {width}"
        )
    if any(size % 2 for size in (*channels, hidden)):
        raise InputError(f"expected even widths for GroupSort2, got channels {list(channels)} and hidden {hidden}")
    layers: list[nn.Module] = []
    for out_channels in channels:
        layers += [
            speed_up(torchlip.SpectralConv2d(in_channels, out_channels, kernel_size=(3, 3), padding="same")),
            GroupSort2(),
            L2NormPool2d((2, 2)),
        ]
        in_channels, height, width = out_channels, height // 2, width // 2
    layers += [
        nn.Flatten(),
        speed_up(torchlip.SpectralLinear(in_channels * height * width, hidden)),
        GroupSort2(),
        torchlip.FrobeniusLinear(hidden, num_classes, bias=True, disjoint_neurons=True),
    ]
    network: nn.Module = torchlip.Sequential(*layers)
    return network
