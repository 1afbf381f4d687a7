"""Total-variation minimisation: an image of small variation that agrees with some pixels of the given one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.attacks.randomness import hashed_uniform
from lipcert.defenses.base import Gradient, Transformation
from lipcert.errors import InputError

# Penalties of the two splits, of differences as a multiple of the strength, of pixels of the inverse of its fourth
# root: few iterations at strengths from 0.01 to 0.5.
_OF_DIFFERENCES, _OF_PIXELS = 3.0, 0.25
_RELAXATION = 1.7  # what converges is any number between 0 and 2; 1 is the plain method
_STEEP = 1e-3  # length of differences from which on they pull with their whole strength from the start

CHUNK = 1 << 17  # pixels at a time: what the caches hold


class TotalVariation(Transformation):
    r"""Drops pixels at random and returns the image of least variation that agrees with the others.

    .. math:: \min_z \; \|m \odot (z - x)\|_2
        + \lambda \Big( \sum_i \|z_{i+1, \cdot} - z_{i, \cdot}\|_2 + \sum_j \|z_{\cdot, j+1} - z_{\cdot, j}\|_2 \Big)

    in each channel by itself, with a mask m that keeps a pixel with probability ``keep``. It is minimised approximately
    by a fixed number of iterations, see :func:`minimize_total_variation`; the exact gradient is the derivative of these
    iterations with the mask held fixed.

    Args:
        strength: :math:`\lambda`. At 0.5 or so a 32 x 32 image is left with hardly any variation at all.
        keep: probability that a pixel of a channel counts, above 0, up to 1; with 1, nothing is drawn.
        iterations: from the image itself; 20 come within one percent of the least value on average.
        gradient: ``"exact"`` or ``"straight-through"``.
        seed: of the masks.

    Raises:
        InputError: a setting is out of range.

    Source: Guo et al. (2018), arXiv 1711.00117, total variance minimization. Strength and share of pixels are those of
    the authors' code (TVM_WEIGHT 0.03, PIXEL_DROP_RATE 0.5), whose solvers square the misfit.

    Example:
        >>> noisy = 0.5 + 0.1 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        >>> bool(TotalVariation(0.2)(noisy).std() < 0.5 * noisy.std())
        True
    """

    randomized = True

    def __init__(
        self,
        strength: float = 0.03,
        *,
        keep: float = 0.5,
        iterations: int = 20,
        gradient: Gradient | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(gradient=gradient, seed=seed)
        if not 0 < strength < math.inf:
            raise InputError(f"expected a finite strength > 0, got {strength:g}")
        if not 0 < keep <= 1:
            raise InputError(f"expected 0 < keep <= 1, got {keep:g}")
        if iterations < 1:
            raise InputError(f"expected iterations >= 1, got {iterations}")
        self.strength = strength
        self.keep = keep
        self.iterations = iterations

    def mask(self, inputs: Tensor, draw: int = 0) -> Tensor:
        """Return which pixels ``(N, C, H, W)`` of each image count in a draw."""
        if self.keep == 1:
            return torch.ones_like(inputs, dtype=torch.bool)
        images = inputs.detach().float()  # an image in float64 is the same image
        numbers = hashed_uniform(images, images[0].numel(), seed=self.seed * 2**32 + draw)
        return numbers.view_as(images).lt(self.keep)

    def transform(self, inputs: Tensor, draw: int) -> Tensor:
        """Return smoothed images ``(N, C, H, W)``."""
        mask = self.mask(inputs, draw)
        return minimize_total_variation(inputs, mask, strength=self.strength, iterations=self.iterations)


def total_variation_objective(images: Tensor, inputs: Tensor, mask: Tensor, *, strength: float) -> Tensor:
    """Return what :func:`minimize_total_variation` minimises, summed over channels.

    Args:
        images: ``(N, C, H, W)``, where it is evaluated.
        inputs: ``(N, C, H, W)``, the given images.
        mask: ``(N, C, H, W)`` bool, which of their pixels count.
        strength: weight of the variation.

    Returns:
        ``(N,)``.

    Example:
        >>> ramp = torch.tensor([0.0, 0.25, 0.5]).view(1, 1, 1, 3)
        >>> total_variation_objective(ramp, torch.zeros_like(ramp), ramp > 0.3, strength=2.0).item()
        1.5
    """
    misfit = torch.linalg.vector_norm((images - inputs) * mask, dim=(2, 3))
    rows = torch.linalg.vector_norm(images.diff(dim=2), dim=3).sum(2)
    columns = torch.linalg.vector_norm(images.diff(dim=3), dim=2).sum(2)
    return torch.add(misfit, rows + columns, alpha=strength).sum(1)


def minimize_total_variation(inputs: Tensor, mask: Tensor, *, strength: float, iterations: int) -> Tensor:
    r"""Return nearly the minimiser of :func:`total_variation_objective`, by the alternating direction method.

    The norms are split off: of the differences of rows and of columns, and of the pixels that count. What is left is a
    least-squares problem with one matrix for all images, which the discrete cosine transform diagonalises. Steps are
    over-relaxed, and the duals begin at the pull of the variation on the given images and at what the pixels that count
    hold against it: from zeros, the first steps would smooth as if no pixel counted.

    Args:
        inputs: ``(N, C, H, W)`` floats; gradients flow through the iterations.
        mask: ``(N, C, H, W)`` bool, which pixels count.
        strength: weight of the variation.
        iterations: all images make as many.

    Returns:
        ``(N, C, H, W)``.

    Source: Boyd et al. (2011), "Distributed optimization and statistical learning via the alternating direction method
    of multipliers", sections 3.1.1 and 3.4.3.

    Example:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4, 1)[None, None]
        >>> minimize_total_variation(step, step >= 0, strength=9.0, iterations=99).std().item() < 1e-3
        True
    """
    size = max(1, CHUNK // inputs[0].numel())
    parts = zip(inputs.split(size), mask.split(size), strict=True)
    return torch.cat([_minimized(part, kept, strength, iterations) for part, kept in parts])


def _minimized(inputs: Tensor, mask: Tensor, strength: float, iterations: int) -> Tensor:
    height, width = inputs.shape[2:]
    of_differences, of_counted = 1 / _OF_DIFFERENCES, strength**0.25 / _OF_PIXELS  # radii of the duals
    ratio = of_differences / (of_counted * strength)
    rows, row_spectrum = _cosines(height, inputs)
    columns, column_spectrum = _cosines(width, inputs)
    inverse = (1 / (row_spectrum[:, None] + column_spectrum + ratio))[..., None]
    # channels of all images lie side by side, (H, W, N C): differences and sums are then of long vectors
    given, weight = (each.flatten(0, 1).permute(1, 2, 0).contiguous() for each in (inputs, mask.to(inputs)))
    images = given
    row_values, column_values, pixel_values = images.diff(dim=0), images.diff(dim=1), images
    of_rows = _within(row_values, of_differences, dim=(1,), steep=_STEEP)
    of_columns = _within(column_values, of_differences, dim=(0,), steep=_STEEP)
    pull = _spread(torch.zeros_like(images), of_rows, of_columns).div(-ratio)
    of_pixels = _within(pull * weight, of_counted, dim=(0, 1))
    # each split keeps the sum of its values and of its dual, the part that the norm takes away
    row_sums, column_sums, pixel_sums = row_values + of_rows, column_values + of_columns, given + of_pixels
    for iteration in range(iterations):
        if iteration > 0:
            row_sums = row_sums.add(images.diff(dim=0).sub_(row_values), alpha=_RELAXATION)
            column_sums = column_sums.add(images.diff(dim=1).sub_(column_values), alpha=_RELAXATION)
            pixel_sums = pixel_sums.add(images - pixel_values, alpha=_RELAXATION)
            of_rows = _within(row_sums, of_differences, dim=(1,))
            of_columns = _within(column_sums, of_differences, dim=(0,))
            of_pixels = _within((pixel_sums - given) * weight, of_counted, dim=(0, 1))
        row_values, column_values, pixel_values = row_sums - of_rows, column_sums - of_columns, pixel_sums - of_pixels
        goal = (pixel_values - of_pixels).mul_(ratio)
        goal = _spread(goal, row_values - of_rows, column_values - of_columns)
        images = _each_row(columns.T, _each_column(rows.T, inverse * _each_column(rows, _each_row(columns, goal))))
    return images.permute(2, 0, 1).reshape(inputs.shape)


def _each_column(matrix: Tensor, planes: Tensor) -> Tensor:
    """Return products with the columns of planes ``(H, W, M)``."""
    return torch.matmul(matrix, planes.flatten(1)).view(planes.shape)


def _each_row(matrix: Tensor, planes: Tensor) -> Tensor:
    """Return products with the rows of planes ``(H, W, M)``."""
    return torch.matmul(matrix, planes)


def _spread(planes: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """Add what differences of rows and of columns ask of each pixel, the transpose of taking them; in place."""
    planes[1:].add_(of_rows)
    planes[:-1].sub_(of_rows)
    planes[:, 1:].add_(of_columns)
    planes[:, :-1].sub_(of_columns)
    return planes


def _within(vectors: Tensor, radius: float, *, dim: tuple[int, ...], steep: float | None = None) -> Tensor:
    """Return vectors along some dimensions projected onto a ball, or scaled to its radius if ``steep`` or longer."""
    # torch.linalg.vector_norm takes ten times as long over dimensions that are not the last
    squares = vectors.square().sum(dim, keepdim=True)
    return vectors * squares.clamp_min((steep or radius) ** 2).rsqrt().mul(radius)


def _cosines(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvectors ``(n, n)``, in rows, and eigenvalues ``(n,)`` of the squared difference operator."""
    places = torch.arange(size, dtype=torch.float64)
    vectors = torch.cos(math.pi / size * places[:, None] * (places + 0.5)) * math.sqrt(2 / size)
    vectors[0] = math.sqrt(1 / size)
    return vectors.to(like), (2 - 2 * torch.cos(math.pi / size * places)).to(like)
