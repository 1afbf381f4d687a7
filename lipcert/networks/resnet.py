"""Residual networks with batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lipcert.errors import InputError


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity, or beside a 1 x 1 convolution where the shape changes.

    Args:
        in_channels: of the inputs.
        out_channels: of the outputs.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_normalized(in_channels, out_channels, 3, stride), nn.ReLU(), *_normalized(out_channels, out_channels, 3)
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Sequential(*([] if same else _normalized(in_channels, out_channels, 1, stride)))
        self.activation = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, out_channels, ...)``."""
        return self.activation(self.branch(inputs) + self.shortcut(inputs))  # type: ignore[no-any-return]


def resnet(
    input_shape: Sequence[int] = (3, 224, 224),
    num_classes: int = 1000,
    *,
    channels: Sequence[int] = (64, 128, 256, 512),
    blocks: int = 2,
    large_images: bool = True,
) -> nn.Module:
    """Return a residual network of basic blocks; the defaults are ResNet-18.

    BatchNorm normalises by the statistics of what it is trained on. Where that is views of images, which are mostly
    empty, those of whole images are of no use: a network that starts from weights that were trained on whole images
    must go on training, if only for a few steps, before it is deployed.

    Args:
        input_shape: ``(C, H, W)``.
        num_classes: K.
        channels: of each stage; all but the first halve the image.
        blocks: of each stage.
        large_images: begin with a 7 x 7 convolution of stride 2 and pooling, instead of a 3 x 3 convolution.

    Raises:
        InputError: sizes that do not fit.

    Source: He et al. (2016), arXiv 1512.03385, sections 3.3 and 4.2.

    Example:
        >>> sum(parameter.numel() for parameter in resnet().parameters())
        11689512
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise InputError(f"expected an input shape (C, H, W), got {tuple(input_shape)}")
    if not channels or min(channels) < 1 or blocks < 1 or num_classes < 2:
        raise InputError("expected at least one stage with channels, one block a stage and two classes")
    features = channels[0]
    layers = _normalized(input_shape[0], features, *((7, 2) if large_images else (3, 1)))
    layers.append(nn.ReLU())
    if large_images:
        layers.append(nn.MaxPool2d(3, 2, 1))
    for stage, width in enumerate(channels):
        for block in range(blocks):
            layers.append(BasicBlock(features, width, 2 if stage > 0 and block == 0 else 1))
            features = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, num_classes))


def resnet_small_images(
    input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, *, width: int = 64
) -> nn.Module:
    """Return a :func:`resnet` for 28 x 28 or 32 x 32 pixels: four stages of two blocks, no pooling before them.

    Args:
        input_shape: ``(C, H, W)``.
        num_classes: K.
        width: channels of the first stage, doubled from stage to stage.

    Example:
        >>> import torch
        >>> resnet_small_images((2, 28, 28), width=4)(torch.rand(2, 2, 28, 28)).shape
        torch.Size([2, 10])
    """
    channels = [width * 2**stage for stage in range(4)]
    return resnet(input_shape, num_classes, channels=channels, blocks=2, large_images=False)


def _normalized(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels)]
