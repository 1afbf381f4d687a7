"""Dense networks that keep distances: orthogonal matrices between activations that sort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch.nn as nn

from lipcert.errors import InputError
from lipcert.layers import MaxMin, OrthogonalLinear
from lipcert.layers.orthogonal import LinearConstraint


def dense_network(
    input_shape: Sequence[int] = (1, 28, 28),
    widths: Sequence[int] = (512, 512, 512),
    num_classes: int = 10,
    *,
    constraint: str = "projection",
) -> nn.Module:
    """Return orthogonal linear layers with MaxMin between them, up to an orthogonal head.

    The network is 1-Lipschitz and its head's rows are orthonormal: a logit gap of m certifies m over root 2.

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
    if any(width % 2 or width < 2 for width in widths):
        raise InputError(f"expected even widths, got {list(widths)}")
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(input_shape)
    for width in widths:
        layers += [linear(features, width, constraint), MaxMin()]
        features = width
    return nn.Sequential(*layers, linear(features, num_classes, constraint))


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
    words = ", ".join(get_args(LinearConstraint))
    raise InputError(f"expected a constraint among none, {words}, got {constraint!r}")
