"""Every linear stretch of a network as the dense matrix that it is on its real input grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from lipcert.errors import InputError
from lipcert.verification.chain import Stretch
from lipcert.verification.norm import accumulated, nonnegative_norm_upper_bound, spectral_norm_upper_bound

LARGEST_MATRIX = 2**27
LARGEST_ORDER = 8192
CHUNK = 64


@dataclass(frozen=True)
class Dense:
    """A linear map, by feeding the identity.

    Attributes:
        matrix: ``(D, M)`` float64, a row an input.
        absolute: ``(D, M)`` float64, what the absolute values of all weights give.
        errors: ``(M,)`` upper bounds of what the Euclidean norms of either's columns are off by, through rounding.
    """

    matrix: Tensor
    absolute: Tensor
    errors: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return what the matrix makes of inputs ``(N, ...)``, as ``(N, M)``."""
        return inputs.flatten(1) @ self.matrix

    def norm_upper_bound(self) -> float:
        """Return an upper bound of the map's Lipschitz constant."""
        rounding = float(torch.linalg.vector_norm(self.errors))
        return (spectral_norm_upper_bound(self.matrix) + rounding) * (1 + 2.0**-48)

    def absolute_norm_upper_bound(self) -> float:
        """Return an upper bound of the Lipschitz constant of the map with the absolute values of all weights."""
        rounding = float(torch.linalg.vector_norm(self.errors))
        return (nonnegative_norm_upper_bound(self.absolute) + rounding) * (1 + 2.0**-48)

    def column_upper_bounds(self) -> Tensor:
        """Return upper bounds ``(M,)`` of the norms that an output's absolute weights have."""
        norms: Tensor = torch.linalg.vector_norm(self.absolute, dim=0) * (1 + accumulated(len(self.absolute) + 8))
        return (norms + self.errors) * (1 + 2.0**-48)

    def pair_upper_bounds(self) -> Tensor:
        """Return upper bounds ``(M, M)`` of the Lipschitz constants of all differences of two outputs."""
        columns = self.matrix.T
        norms = [torch.linalg.vector_norm(columns - column, dim=1) for column in columns]
        slack = 1 + accumulated(len(self.matrix) + 8)
        return torch.stack(norms) * slack + (self.errors[:, None] + self.errors) * (1 + 2.0**-48)


def dense(stretch: Stretch, input_shape: Sequence[int]) -> Dense:
    """Build the matrix of a stretch.

    Args:
        stretch: linear layers.
        input_shape: shape of one input to them.

    Returns:
        The matrix, and a bound of its rounding: with N roundings on the way to an entry, at most
        gamma_N times what the absolute values of all weights give.

    Raises:
        InputError: the matrix would be too large for this check.
    """
    inputs = math.prod(input_shape)
    plain, absolute = stretch.linear_part(), stretch.linear_part(absolute=True)
    outputs = plain(torch.zeros(1, *input_shape, dtype=torch.float64)).numel()
    if inputs * outputs > LARGEST_MATRIX or min(inputs, outputs) > LARGEST_ORDER:
        raise InputError(
            f"expected layers whose dense matrix has at most {LARGEST_MATRIX:,} entries and a side of at most "
            f"{LARGEST_ORDER:,}, got {outputs:,} x {inputs:,} for layer {stretch.name}"
        )
    matrix, positive = (torch.empty(inputs, outputs, dtype=torch.float64) for _ in range(2))
    positions = torch.arange(inputs).split(CHUNK)
    for chunk in tqdm(positions, desc=f"matrix of {stretch.name}", unit="chunk", disable=None, leave=False):
        basis = torch.zeros(len(chunk), inputs, dtype=torch.float64)
        basis[torch.arange(len(chunk)), chunk] = 1
        basis = basis.view(-1, *input_shape)
        matrix[chunk] = plain(basis).flatten(1)
        positive[chunk] = absolute(basis).flatten(1)
    sizes = torch.linalg.vector_norm(positive, dim=0)
    if not bool(torch.isfinite(sizes).all() and torch.isfinite(matrix).all()):
        raise InputError(f"expected finite weights whose products stay finite, got others in layer {stretch.name}")
    # The factor covers the rounding of the absolute values' own sums.
    return Dense(matrix, positive, accumulated(_roundings(stretch, input_shape)) * sizes * (1 + 1e-6))


def _roundings(stretch: Stretch, input_shape: Sequence[int]) -> int:
    """More roundings than lie on the way from an input of the stretch to an output."""
    total, value = 0, torch.zeros(1, *input_shape, dtype=torch.float64)
    for layer in stretch.layers:
        weights = max((parameter.numel() for parameter in layer.parameters()), default=0)
        total += max(value.numel(), weights) + 16
        with torch.no_grad():
            value = layer(value)
    return total
