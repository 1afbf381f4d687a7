"""Residual networks of norm at most 1: convex combinations of the identity and of constrained convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipcert.errors import InputError
from lipcert.layers import MaxMin
from lipcert.layers.polar import orthogonal_matrices
from lipcert.networks.parts import check_even, convolution, dense_part, image_shape


class ConvexResidual(nn.Module):
    r"""Convex combination of the identity and of a branch.

    .. math:: y = (1 - a)\, x + a f(x), \qquad 0 \le a \le 1

    1-Lipschitz if f is. A learned a is the sigmoid of a parameter; what is exported has its value.

    Args:
        branch: f, whose outputs have the shape of its inputs.
        share: a, where training starts, in (0, 1).
        learned: whether a is learned.

    Raises:
        InputError: a share that is not in (0, 1).

    Example:
        >>> ConvexResidual(nn.ReLU(), 0.25)(torch.tensor([-4.0, 4.0])).tolist()
        [-3.0, 4.0]
    """

    share: Tensor

    def __init__(self, branch: nn.Module, share: float = 0.5, *, learned: bool = False) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise InputError(f"expected a share in (0, 1), got {share}")
        self.branch = branch
        if learned:
            self.share = nn.Parameter(torch.tensor(share))
            parametrize.register_parametrization(self, "share", _Sigmoid())
        else:
            self.register_buffer("share", torch.tensor(share))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the combination, of the inputs' shape."""
        branch: Tensor = self.branch(inputs)
        return torch.lerp(inputs, branch, self.share.to(branch.dtype))


class _Sigmoid(nn.Module):
    def forward(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def right_inverse(self, share: Tensor) -> Tensor:
        return share.logit()


def residual_network(
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    channels: Sequence[int] = (64, 128),
    blocks: int = 4,
    widths: Sequence[int] = (256,),
    share: float = 0.5,
    learned_shares: bool = True,
    head: str = "orthogonal",
    constraint: str = "aol",
) -> nn.Module:
    """Return a stem, convex residual blocks of 3 x 3 convolutions, orthogonal patches, linear layers and a head.

    The stem is a 5 x 5 convolution with stride 2, a block's branch a 3 x 3 convolution and MaxMin, and the neck encodes
    2 x 2 patches. Kernels that are rescaled, ``"aol"``, start orthogonal, those of blocks as the identity. The network
    is 1-Lipschitz if the head is orthogonal. The defaults are a small network.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of 4.
        num_classes: K.
        channels: of the blocks and of the neck, even.
        blocks: how many.
        widths: features of the hidden linear layers, even; may be empty.
        share: weight of a block's branch at the start, in (0, 1).
        learned_shares: whether the weights of the branches are learned.
        head: ``"orthogonal"`` or ``"normalized"``, see :class:`~lipcert.layers.NormalizedLinear`.
        constraint: of the kernels that overlap, ``"aol"`` or ``"rko"`` (see :class:`~lipcert.layers.OrthogonalConv2d`),
            or ``"none"`` for the unconstrained twin. The other weights are kept orthogonal by projection.

    Returns:
        A network from ``(N, C, H, W)`` in [0, 1] to ``(N, K)``.

    Raises:
        InputError: sizes that do not fit, or an unknown word.

    Source: Hu, Zou, Wang, Leino & Fredrikson (2023), arXiv 2301.12549 (residual convolutions under a Lipschitz bound).

    Example:
        >>> network = residual_network()
        >>> sum(parameter.numel() for parameter in network.parameters())
        1790734
    """
    if constraint not in ("aol", "rko", "none"):
        raise InputError(f"expected a constraint among none, aol, rko, got {constraint!r}")
    if len(channels) != 2 or blocks < 0:
        raise InputError(
            f"expected channels of the blocks and of the neck, blocks >= 0, got {list(channels)}, {blocks}"
        )
    check_even(channels, "channels")
    in_channels, height, width = image_shape(input_shape, 4)
    body, neck = channels
    layers: list[nn.Module] = [_stem(in_channels, body, constraint), MaxMin()]
    for _ in range(blocks):
        layers.append(ConvexResidual(_branch(body, constraint), share, learned=learned_shares))
    orthogonal = "none" if constraint == "none" else "projection"
    layers += [convolution(body, neck, orthogonal, kernel_size=2), MaxMin(), nn.Flatten()]
    dense = dense_part(neck * (height // 4) * (width // 4), widths, num_classes, orthogonal, head=head)
    return nn.Sequential(*layers, *dense)


def residual_network_large(
    input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, *, constraint: str = "aol"
) -> nn.Module:
    """Return a :func:`residual_network` for an accelerator: 12 blocks of 384 channels, 88 million parameters.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of 4.
        num_classes: K.
        constraint: see :func:`residual_network`.
    """
    return residual_network(
        input_shape, num_classes, channels=(384, 512), blocks=12, widths=(2048, 2048), constraint=constraint
    )


def _stem(in_channels: int, out_channels: int, constraint: str) -> nn.Conv2d:
    """A 5 x 5 convolution with stride 2; a rescaled kernel starts at an orthogonal matrix on disjoint patches."""
    layer = convolution(in_channels, out_channels, constraint, kernel_size=5, stride=2)
    if constraint == "aol":
        kernel = torch.zeros_like(layer.weight)
        patches = orthogonal_matrices(1, out_channels, 4 * in_channels)
        kernel[:, :, 2:4, 2:4] = patches.view(out_channels, in_channels, 2, 2)
        _start_at(layer, kernel)
    return layer


def _branch(channels: int, constraint: str) -> nn.Module:
    """A 3 x 3 convolution and MaxMin; a rescaled kernel starts at the identity."""
    layer = convolution(channels, channels, constraint, kernel_size=3, stride=1)
    if constraint == "aol":
        _start_at(layer, nn.init.dirac_(torch.empty_like(layer.weight)))
    return nn.Sequential(layer, MaxMin())


def _start_at(layer: nn.Conv2d, kernel: Tensor) -> None:
    """Assign a kernel that rescaling leaves as it is; one drawn at random would lose most of what it is given."""
    with torch.no_grad():
        layer.weight = kernel
