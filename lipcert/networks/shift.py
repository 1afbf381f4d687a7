"""Convolutional networks that are orthogonal throughout: shifts bring pixels together, 1 x 1 convolutions mix them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.errors import InputError
from lipcert.layers import BatchCentering, L2NormPool2d, SpatialShift
from lipcert.networks.parts import activation_named, check_even, convolution, dense_part, image_shape


def shift_network(
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    patch: int = 2,
    stages: Sequence[tuple[int, int]] = ((64, 2), (128, 4)),
    widths: Sequence[int] = (256,),
    downsampling: str = "patch",
    neck: str = "flatten",
    head: str = "orthogonal",
    activation: str = "maxmin",
    constraint: str = "projection",
) -> nn.Module:
    """Return patches, stages of shift blocks, orthogonal linear layers and a head; the defaults are a small network.

    A block is a shift by one pixel that wraps around the image, an orthogonal 1 x 1 convolution and an activation: its
    Jacobian is orthogonal, and so is that of a stage. The network is 1-Lipschitz if the head is orthogonal; a
    normalised head's rows are each 1-Lipschitz. Nothing is parametrised with the constraint ``"projection"``: a forward
    pass costs what that of the unconstrained twin does.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of ``patch`` times 2 for every stage after the first.
        num_classes: K.
        patch: side of the disjoint patches that the first convolution encodes, in pixels.
        stages: of each, the number of channels, even and at least 6, and of blocks.
        widths: features of the hidden linear layers, even; may be empty.
        downsampling: between stages, ``"patch"`` encodes 2 x 2 patches by an orthogonal convolution, ``"pool"`` takes
            their L2 norms by channel and mixes them by a 1 x 1 convolution.
        neck: ``"flatten"`` hands all pixels to the linear layers, ``"norm"`` the L2 norm of each channel.
        head: ``"orthogonal"`` or ``"normalized"``, see :class:`~lipcert.layers.NormalizedLinear`.
        activation: ``"maxmin"`` or ``"half-abs"``.
        constraint: word of :class:`~lipcert.layers.OrthogonalLinear`, or ``"none"`` for the unconstrained twin.

    Returns:
        A network from ``(N, C, H, W)`` in [0, 1] to ``(N, K)``.

    Raises:
        InputError: sizes that do not fit, or an unknown word.

    Source: Hu, Hu & Fredrikson (2026), arXiv 2601.18513 (shifts between orthogonal matrices, without stem and stages).

    Example:
        >>> network = shift_network()
        >>> sum(parameter.numel() for parameter in network.parameters())
        1716042
    """
    _check(patch, stages, downsampling, neck)
    shrink = patch * 2 ** (len(stages) - 1)
    size, height, width = image_shape(input_shape, shrink)
    if min(height, width) < 2 * shrink:
        raise InputError(f"expected images of at least {2 * shrink} x {2 * shrink}, got {height} x {width}")
    height, width = height // patch, width // patch
    layers: list[nn.Module] = [BatchCentering(size, bias=False)]
    for stage, (channels, blocks) in enumerate(stages):
        if stage == 0:
            layers.append(convolution(size, channels, constraint, kernel_size=patch))
        else:
            layers += _downsampling(downsampling, size, channels, constraint)
            height, width = height // 2, width // 2
        layers.append(activation_named(activation))
        for _ in range(blocks):
            layers += [SpatialShift(), convolution(channels, channels, constraint), activation_named(activation)]
        size = channels
    layers += [L2NormPool2d((height, width))] if neck == "norm" else []
    features = size if neck == "norm" else size * height * width
    dense = dense_part(features, widths, num_classes, constraint, head=head, activation=activation)
    return nn.Sequential(*layers, nn.Flatten(), *dense)


def shift_network_large(
    input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, *, constraint: str = "projection"
) -> nn.Module:
    """Return a :func:`shift_network` for an accelerator: 24 blocks of up to 512 channels, 40 million parameters.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of 4.
        num_classes: K.
        constraint: see :func:`shift_network`.
    """
    return shift_network(
        input_shape, num_classes, stages=((256, 8), (512, 16)), widths=(1024, 1024), constraint=constraint
    )


def _check(patch: int, stages: Sequence[tuple[int, int]], downsampling: str, neck: str) -> None:
    if patch < 1:
        raise InputError(f"expected patch >= 1, got {patch}")
    if not stages or any(len(stage) != 2 for stage in stages):
        raise InputError(f"expected at least one stage (channels, blocks), got {list(stages)}")
    check_even([channels for channels, _ in stages], "channels")
    if any(channels < 6 or blocks < 0 for channels, blocks in stages):
        raise InputError(f"expected stages of at least 6 channels and 0 blocks, got {list(stages)}")
    for name, given, words in (("downsampling", downsampling, ("patch", "pool")), ("neck", neck, ("flatten", "norm"))):
        if given not in words:
            raise InputError(f"expected {name} among {', '.join(words)}, got {given!r}")


def _downsampling(kind: str, in_channels: int, out_channels: int, constraint: str) -> list[nn.Module]:
    if kind == "patch":
        return [convolution(in_channels, out_channels, constraint, kernel_size=2)]
    return [L2NormPool2d((2, 2)), convolution(in_channels, out_channels, constraint)]
