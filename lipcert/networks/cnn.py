"""Plain convolutional networks: what defenses are trained on, and their undefended twins."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.errors import InputError

POOLINGS = ("flatten", "mean")


def cnn(
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    stages: Sequence[tuple[int, int]] = ((32, 0), (64, 1)),
    kernel_size: int = 3,
    pooling: str = "flatten",
    widths: Sequence[int] = (256,),
    batch_norm: bool = False,
) -> nn.Module:
    """Return stages of convolutions with ReLU that each halve the image, linear layers and a head; nothing is bounded.

    A stage begins with a convolution of stride 2; each of its blocks is one of stride 1. Images of 28 x 28 or 32 x 32
    want two or three stages, and images of 224 x 224 five, ``((32, 0), (64, 1), (128, 1), (256, 1), (256, 1))``, with
    the mean over the last 7 x 7 pixels.

    Args:
        input_shape: ``(C, H, W)``.
        num_classes: K.
        stages: of each, the number of channels, and of blocks after the convolution that halves.
        kernel_size: of all convolutions, odd, in pixels; zeros are padded around.
        pooling: ``"flatten"``: the linear layers see every pixel of the last stage; ``"mean"``: the mean over them.
        widths: features of the hidden linear layers; may be empty.
        batch_norm: normalise each convolution's channels over the batch, in place of a bias.

    Returns:
        A network from ``(N, C, H, W)`` in [0, 1] to ``(N, K)``.

    Raises:
        InputError: sizes that do not fit, or an unknown pooling.

    Example:
        >>> sum(parameter.numel() for parameter in cnn().parameters())
        861386
        >>> import torch
        >>> stages = ((8, 0), (8, 0), (8, 0), (8, 0), (8, 1))
        >>> network = cnn((3, 224, 224), 6, stages=stages, pooling="mean", widths=(), batch_norm=True)
        >>> network(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 6])
    """
    _check(input_shape, num_classes, stages, kernel_size, pooling, widths)
    features, height, width = input_shape
    layers: list[nn.Module] = []
    for channels, blocks in stages:
        for block in range(blocks + 1):
            stride = 2 if block == 0 else 1
            convolution = nn.Conv2d(
                features, channels, kernel_size, stride, padding=kernel_size // 2, bias=not batch_norm
            )
            layers += [convolution, *([nn.BatchNorm2d(channels)] if batch_norm else []), nn.ReLU()]
            features = channels
        height, width = (height + 1) // 2, (width + 1) // 2
    if pooling == "mean":
        layers.append(nn.AdaptiveAvgPool2d(1))
    else:
        features *= height * width
    layers.append(nn.Flatten())
    for size in widths:
        layers += [nn.Linear(features, size), nn.ReLU()]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, num_classes))


def _check(
    input_shape: Sequence[int],
    num_classes: int,
    stages: Sequence[tuple[int, int]],
    kernel_size: int,
    pooling: str,
    widths: Sequence[int],
) -> None:
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise InputError(f"expected an input shape (C, H, W), got {tuple(input_shape)}")
    if num_classes < 2:
        raise InputError(f"expected at least 2 classes, got {num_classes}")
    if not stages or any(len(stage) != 2 or stage[0] < 1 or stage[1] < 0 for stage in stages):
        raise InputError(f"expected at least one stage (channels, blocks), got {[tuple(stage) for stage in stages]}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"expected an odd kernel size, got {kernel_size}")
    if pooling not in POOLINGS:
        raise InputError(f"expected a pooling among {', '.join(POOLINGS)}, got {pooling!r}")
    if any(width < 1 for width in widths):
        raise InputError(f"expected widths >= 1, got {list(widths)}")
