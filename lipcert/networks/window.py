"""Convolutional networks that are orthogonal throughout, made of large matrices: moved windows of pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.errors import InputError
from lipcert.layers import BatchCentering, MovedWindows
from lipcert.networks.parts import activation_named, check_even, convolution, dense_part, image_shape

_SIDE = 2


def window_network(
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    patch: int = 4,
    channels: int = 128,
    blocks: int = 4,
    widths: Sequence[int] = (512,),
    constraint: str = "projection",
) -> nn.Module:
    """Return patches, blocks of moved windows, orthogonal linear layers and an orthogonal head.

    A patch becomes ``channels`` numbers, read as a window of 2 x 2 pixels with a quarter of the channels each. A block
    moves the windows by one of these pixels, alternately back and forth, mixes each by an orthogonal 1 x 1 convolution,
    and sorts pairs. Every Jacobian is orthogonal up to the linear layers, and nothing is parametrised with the
    constraint ``"projection"``. The network is 1-Lipschitz.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of ``patch``.
        num_classes: K.
        patch: side of the disjoint patches that the first convolution encodes, in pixels.
        channels: of a patch, a multiple of 4.
        blocks: number of blocks.
        widths: features of the hidden linear layers, even; may be empty.
        constraint: word of :class:`~lipcert.layers.OrthogonalLinear`, or ``"none"`` for the unconstrained twin.

    Returns:
        A network from ``(N, C, H, W)`` in [0, 1] to ``(N, K)``.

    Raises:
        InputError: sizes that do not fit, or an unknown word.

    Example:
        >>> sum(parameter.numel() for parameter in window_network().parameters())
        3285130
    """
    size, height, width = image_shape(input_shape, patch)
    if channels % _SIDE**2 or channels < 1 or blocks < 0:
        raise InputError(
            f"expected channels a multiple of {_SIDE**2} and blocks >= 0, got {channels} channels and {blocks} blocks"
        )
    check_even([channels], "channels")
    layers = [
        BatchCentering(size, bias=False),
        convolution(size, channels, constraint, kernel_size=patch),
        activation_named("maxmin"),
    ]
    for block in range(blocks):
        move = 1 if block % 2 == 0 else -1
        layers += [MovedWindows(move, _SIDE), convolution(channels, channels, constraint), activation_named("maxmin")]
    features = channels * (height // patch) * (width // patch)
    return nn.Sequential(*layers, nn.Flatten(), *dense_part(features, widths, num_classes, constraint))
