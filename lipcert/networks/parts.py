"""What the architectures are made of: layers by the word of their constraint, and the dense part up to the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from torch import nn

from lipcert.errors import InputError
from lipcert.layers import HalfAbs, MaxMin, NormalizedLinear, OrthogonalConv2d, OrthogonalLinear
from lipcert.layers.orthogonal import ConvConstraint, LinearConstraint

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"maxmin": MaxMin, "half-abs": HalfAbs}


def linear(in_features: int, out_features: int, constraint: str) -> nn.Linear:
    """Return an orthogonal layer by the word of its constraint, or with ``"none"`` a plain one.

    Raises:
        InputError: an unknown constraint.
    """
    if constraint == "none":
        return nn.Linear(in_features, out_features)
    for word in get_args(LinearConstraint):
        if constraint == word:
            return OrthogonalLinear(in_features, out_features, constraint=word)
    raise InputError(_expected_constraint(get_args(LinearConstraint), constraint))


def convolution(
    in_channels: int, out_channels: int, constraint: str, *, kernel_size: int = 1, stride: int | None = None
) -> nn.Conv2d:
    """Return a convolution by the word of its constraint, or with ``"none"`` a plain one.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        constraint: word of :class:`~lipcert.layers.OrthogonalConv2d`, or ``"none"``.
        kernel_size: in pixels.
        stride: in pixels; None for the kernel size. Windows that overlap are padded by zeros, half a kernel around.

    Raises:
        InputError: an unknown constraint, or one that guarantees nothing for windows that overlap.
    """
    steps = kernel_size if stride is None else stride
    padding = kernel_size // 2 if kernel_size > steps else 0
    if constraint == "none":
        return nn.Conv2d(in_channels, out_channels, kernel_size, steps, padding)
    for word in get_args(ConvConstraint):
        if constraint == word:
            return OrthogonalConv2d(
                in_channels, out_channels, kernel_size, stride=steps, padding=padding, constraint=word
            )
    raise InputError(_expected_constraint(get_args(ConvConstraint), constraint))


def dense_part(
    features: int,
    widths: Sequence[int],
    num_classes: int,
    constraint: str,
    *,
    head: str = "orthogonal",
    activation: str = "maxmin",
) -> list[nn.Module]:
    """Return linear layers of some widths, an activation after each, and the head.

    Args:
        features: what the first layer is given, ``(N, features)``.
        widths: features of the hidden layers.
        num_classes: K.
        constraint: of the linear layers, see :func:`linear`.
        head: ``"orthogonal"``, a linear layer as the others, or ``"normalized"``, rows of norm 1; both plain with the
            constraint ``"none"``.
        activation: see :func:`activation_named`.

    Raises:
        InputError: an odd width, or an unknown word.
    """
    check_even(widths, "widths")
    if head not in ("orthogonal", "normalized"):
        raise InputError(f"expected a head among orthogonal, normalized, got {head!r}")
    layers: list[nn.Module] = []
    for width in widths:
        layers += [linear(features, width, constraint), activation_named(activation)]
        features = width
    unit_rows = head == "normalized" and constraint != "none"
    return [
        *layers,
        NormalizedLinear(features, num_classes) if unit_rows else linear(features, num_classes, constraint),
    ]


def activation_named(name: str) -> nn.Module:
    """Return a new activation by its name.

    Raises:
        InputError: an unknown one.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def check_even(sizes: Sequence[int], name: str) -> None:
    """Refuse sizes that are odd or not positive: activations take features in pairs.

    Raises:
        InputError: says which.
    """
    if any(size % 2 or size < 2 for size in sizes):
        raise InputError(f"expected even {name}, got {list(sizes)}")


def image_shape(input_shape: Sequence[int], multiple: int) -> tuple[int, int, int]:
    """Return ``(C, H, W)`` where a network that divides the sides by ``multiple`` loses no pixel.

    Raises:
        InputError: not three sizes, or sides that are no multiples.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise InputError(f"expected an input shape (C, H, W), got {tuple(input_shape)}")
    channels, height, width = input_shape
    if height % multiple or width % multiple:
        raise InputError(f"expected images whose sides are multiples of {multiple}, got {height} x {width}")
    return channels, height, width


def _expected_constraint(words: Sequence[str], found: str) -> str:
    return f"expected a constraint among none, {', '.join(words)}, got {found!r}"
