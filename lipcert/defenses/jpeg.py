"""JPEG compression."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.defenses.base import Gradient, Transformation, rounded_softly
from lipcert.defenses.jpeg_codec import (
    BLOCK,
    SUBSAMPLINGS,
    Subsampling,
    compress_,
    pad_to_multiple,
    quantization_table,
)
from lipcert.errors import InputError


class JPEG(Transformation):
    """What JPEG compression leaves of an image: to the bit that of Pillow, which reads and writes by libjpeg.

    Images are rounded to 8 bits, not truncated. Of three channels, brightness and colour differences are coded, these
    at half the resolution unless ``subsampling`` says otherwise: at low quality colours bleed by a pixel or two over
    edges. Any other number of channels is coded as grey images. Only the losses are computed, no file is written.

    Its own derivative is 0 almost everywhere. The ``"differentiable"`` one is that of the same steps with real numbers
    and :func:`rounded_softly` in place of rounding.

    Args:
        quality: from 1 to 100.
        subsampling: of colour differences, ``"4:2:0"`` or ``"4:4:4"`` for none.
        gradient: ``"straight-through"`` or ``"differentiable"``.
        seed: of no account.

    Raises:
        InputError: a setting is out of range.

    Source: ITU-T T.81 (1992); as a defense, Dziugaite et al. (2016), arXiv 1608.00853; its smooth stand-in, Shin & Song
    (2017), "JPEG-resistant adversarial images".

    Example:
        >>> images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> [(JPEG(quality)(images) - images).abs().mean().item() < limit for quality, limit in ((10, 0.3), (100, 0.2))]
        [True, True]
    """

    gradients: ClassVar[tuple[Gradient, ...]] = ("straight-through", "differentiable")

    def __init__(
        self,
        quality: int = 75,
        *,
        subsampling: Subsampling = "4:2:0",
        gradient: Gradient | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(gradient=gradient, seed=seed)
        if not 1 <= quality <= 100:
            raise InputError(f"expected quality from 1 to 100, got {quality}")
        if subsampling not in SUBSAMPLINGS:
            raise InputError(f"expected subsampling among {', '.join(SUBSAMPLINGS)}, got {subsampling!r}")
        self.quality = quality
        self.subsampling = subsampling

    def transform(self, inputs: Tensor, draw: int) -> Tensor:
        """Return images ``(N, C, H, W)`` after compression and decompression."""
        levels = (inputs * 255).round_().float()
        return compress_(levels, self.quality, subsampling=self.subsampling).to(inputs).div_(255)

    def surrogate(self, inputs: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` after the same steps, softly rounded."""
        luminance, chrominance = (quantization_table(self.quality, chrominance=which) for which in (False, True))
        levels = 255 * inputs
        if inputs.shape[1] != 3:
            return _coded(levels, luminance).clamp(0, 255) / 255
        matrix = _to_ycc().to(inputs)
        planes = torch.einsum("ij,njhw->nihw", matrix, levels)
        luma, differences = _coded(planes[:, :1], luminance), planes[:, 1:]
        if self.subsampling == "4:2:0":
            height, width = inputs.shape[-2:]
            small = _coded(F.avg_pool2d(pad_to_multiple(differences, 2), 2), chrominance, center=0)
            differences = F.interpolate(small, scale_factor=2.0, mode="bilinear")[..., :height, :width]
        else:
            differences = _coded(differences, chrominance, center=0)
        planes = torch.cat([luma, differences], 1)
        return torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), planes).clamp(0, 255) / 255


def _coded(planes: Tensor, table: Tensor, *, center: float = 128) -> Tensor:
    """Return planes ``(N, C, H, W)`` after their blocks were softly rounded in frequency."""
    height, width = planes.shape[-2:]
    grid = pad_to_multiple(planes - center, BLOCK).unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    transform, steps = _dct().to(planes), table.to(planes)
    coefficients = torch.einsum("ur,vc,nkarbc->nkabuv", transform, transform, grid)
    coefficients = rounded_softly(coefficients / steps) * steps
    grid = torch.einsum("ur,vc,nkabuv->nkarbc", transform, transform, coefficients)
    return grid.flatten(4, 5).flatten(2, 3)[..., :height, :width] + center


def _dct() -> Tensor:
    """Return the orthonormal discrete cosine transform ``(8, 8)``."""
    places = torch.arange(BLOCK, dtype=torch.float64)
    matrix = torch.cos(math.pi / BLOCK * places[:, None] * (places + 0.5)) * math.sqrt(2 / BLOCK)
    matrix[0] = math.sqrt(1 / BLOCK)
    return matrix


def _to_ycc() -> Tensor:
    """Return the matrix from red, green and blue to brightness, blue and red difference, at full range."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    blue = (torch.tensor([0.0, 0.0, 1.0]) - weights) * 0.5 / (1 - weights[2])
    red = (torch.tensor([1.0, 0.0, 0.0]) - weights) * 0.5 / (1 - weights[0])
    return torch.stack([weights, blue, red])
