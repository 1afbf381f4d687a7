"""Convolutional networks that are orthogonal throughout: overlapping kernels in stages that halve the image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.errors import InputError
from lipcert.layers import BatchCentering
from lipcert.networks.parts import activation_named, check_even, convolution, dense_part, image_shape

_OVERLAPPING = ("none", "aoc", "aol", "rko")


def conv_network(
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    *,
    patch: int = 2,
    stages: Sequence[tuple[int, int]] = ((64, 1), (128, 1)),
    kernel_size: int = 3,
    widths: Sequence[int] = (512,),
    head: str = "orthogonal",
    activation: str = "maxmin",
    constraint: str = "aoc",
) -> nn.Module:
    """Return patches, stages of convolutions, orthogonal linear layers and a head; the defaults suit two CPU cores.

    A stage after the first begins with a convolution of stride 2; each block is one of stride 1. With ``"aoc"`` all of
    them are orthogonal, but for what leaves the image at its borders. The network is 1-Lipschitz if the head is
    orthogonal.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of ``patch`` times 2 for every stage after the first.
        num_classes: K.
        patch: side of the disjoint patches that the first convolution encodes, in pixels.
        stages: of each, the number of channels, even, and of blocks.
        kernel_size: of the overlapping convolutions, odd, in pixels.
        widths: features of the hidden linear layers, even; may be empty.
        head: ``"orthogonal"`` or ``"normalized"``, see :class:`~lipcert.layers.NormalizedLinear`.
        activation: ``"maxmin"`` or ``"half-abs"``.
        constraint: of the kernels that overlap, ``"aoc"``, ``"aol"`` or ``"rko"`` (see
            :class:`~lipcert.layers.OrthogonalConv2d`), or ``"none"`` for the unconstrained twin. The other weights are
            kept orthogonal by projection.

    Returns:
        A network from ``(N, C, H, W)`` in [0, 1] to ``(N, K)``.

    Raises:
        InputError: sizes that do not fit, or an unknown word.

    Source: after KW-Large of Wong et al. (2018), arXiv 1805.12514, and Trockman & Kolter (2021), arXiv 2104.07167.

    Example:
        >>> sum(parameter.numel() for parameter in conv_network().parameters())
        4299402
    """
    if constraint not in _OVERLAPPING:
        raise InputError(f"expected a constraint among {', '.join(_OVERLAPPING)}, got {constraint!r}")
    if patch < 1 or kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"expected patch >= 1 and an odd kernel size, got {patch} and {kernel_size}")
    if not stages or any(len(stage) != 2 or stage[1] < 0 for stage in stages):
        raise InputError(f"expected at least one stage (channels, blocks), got {list(stages)}")
    check_even([channels for channels, _ in stages], "channels")
    shrink = patch * 2 ** (len(stages) - 1)
    size, height, width = image_shape(input_shape, shrink)
    orthogonal = "none" if constraint == "none" else "projection"
    layers: list[nn.Module] = [BatchCentering(size, bias=False)]
    for stage, (channels, blocks) in enumerate(stages):
        if stage == 0:
            layers.append(convolution(size, channels, orthogonal, kernel_size=patch))
        else:
            layers.append(convolution(size, channels, constraint, kernel_size=kernel_size, stride=2))
        layers.append(activation_named(activation))
        for _ in range(blocks):
            layers.append(convolution(channels, channels, constraint, kernel_size=kernel_size, stride=1))
            layers.append(activation_named(activation))
        size = channels
    features = size * (height // shrink) * (width // shrink)
    dense = dense_part(features, widths, num_classes, orthogonal, head=head, activation=activation)
    return nn.Sequential(*layers, nn.Flatten(), *dense)
