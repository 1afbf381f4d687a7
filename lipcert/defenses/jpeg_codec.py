"""Baseline JPEG on batches of tensors: what libjpeg's integer arithmetic does to an image, without its bit stream.

Everything is whole numbers in floating point, within the range where these are exact: the result is that of libjpeg's
default transforms to the bit, on every device and in every batch. Entropy coding loses nothing and is left out. Large
images on a CPU are the exception: there libjpeg itself is faster, by way of Pillow, and gives the same.
"""

from __future__ import annotations

import io
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

Subsampling = Literal["4:2:0", "4:4:4"]

SUBSAMPLINGS: tuple[Subsampling, ...] = get_args(Subsampling)

BLOCK = 8
LARGE = 96 * 96  # pixels from which on Pillow is the faster one
CHUNK = 1 << 18  # pixels coded at a time: what the caches hold

# Tables K.1 and K.2 of ITU-T T.81.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * BLOCK,) * 4,
)

# The orthonormal DCT times 2^13 times the square root of 8, as the products of libjpeg's factorisation add up.
_DCT = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)
_SCALE_BITS, _EXTRA_BITS = 13, 2  # of the DCT; kept between its two passes

# ITU-R BT.601 at full range, times 2^16: brightness, blue and red difference; what both differences add to a colour.
_TO_YCC = ((19595.0, 38470.0, 7471.0), (-11059.0, -21709.0, 32768.0), (32768.0, -27439.0, -5329.0))
_YCC_OFFSETS = (0.5, *(128.5 - 2.0**-16,) * 2)
_TO_RGB = ((0.0, 91881.0), (-22554.0, -46802.0), (116130.0, 0.0))


def quantization_table(quality: int, *, chrominance: bool = False) -> Tensor:
    """Return the steps ``(8, 8)`` in which coefficients are kept: the standard's examples, scaled as libjpeg does.

    Args:
        quality: from 1 to 100.
        chrominance: of colour differences instead of brightness.

    Source: ITU-T T.81 (1992), annex K; the scale is the Independent JPEG Group's.

    Example:
        >>> quantization_table(50)[0, :4].tolist(), quantization_table(100).unique().tolist()
        ([16.0, 11.0, 10.0, 16.0], [1.0])
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    standard = torch.tensor(_CHROMINANCE if chrominance else _LUMINANCE)
    return ((standard * scale + 50) // 100).clamp(1, 255).double()


def compress_(levels: Tensor, quality: int, *, subsampling: Subsampling = "4:2:0") -> Tensor:
    """Replace images, in place, by what is left of them after JPEG compression and decompression.

    Args:
        levels: ``(N, C, H, W)`` float32, whole numbers from 0 to 255. One channel is grey; three are red, green and
            blue, coded as brightness and two colour differences; any other number of channels is coded as grey images.
        quality: from 1 to 100.
        subsampling: ``"4:2:0"`` keeps colour differences at half the resolution, ``"4:4:4"`` at the full one.

    Returns:
        The levels, whole numbers from 0 to 255 again.

    Example:
        >>> compress_(torch.full((1, 1, 5, 5), 77.0), 50).unique().tolist()
        [76.0]
    """
    if levels.device.type == "cpu" and levels.shape[1] in (1, 3) and levels[0, 0].numel() >= LARGE:
        _by_pillow_(levels, quality, subsampling)
        return levels
    for chunk in levels.split(max(1, CHUNK // levels[0].numel())):
        if levels.shape[1] == 3:
            chunk.copy_(_coded_colors(chunk, quality, halve=subsampling == "4:2:0"))
        else:
            chunk.copy_(_coded(chunk, quantization_table(quality)))
    return levels


def _by_pillow_(levels: Tensor, quality: int, subsampling: Subsampling) -> None:
    """Write and read images by Pillow, one after the other: threads wait for one another.

    Pillow joins and splits channels faster than arrays are transposed.
    """
    options = {} if levels.shape[1] == 1 else {"subsampling": subsampling}
    for image in levels.numpy():
        planes = [Image.fromarray(plane) for plane in image.astype(np.uint8)]
        file = io.BytesIO()
        (planes[0] if len(planes) == 1 else Image.merge("RGB", planes)).save(file, "JPEG", quality=quality, **options)
        file.seek(0)
        for channel, plane in zip(image, JpegImageFile(file).split(), strict=True):
            channel[...] = np.asarray(plane)


def _coded_colors(levels: Tensor, quality: int, *, halve: bool) -> Tensor:
    height, width = levels.shape[-2:]
    planes = _mixed(_TO_YCC, levels).mul_(2.0**-16)
    planes = planes.add_(torch.tensor(_YCC_OFFSETS).to(levels)[:, None, None]).floor_()
    luma, differences = planes[:, :1], planes[:, 1:]
    luma = _coded(luma, quantization_table(quality))
    differences = _halved(differences) if halve else differences
    differences = _coded(differences, quantization_table(quality, chrominance=True))
    if halve:
        differences = _doubled(differences[..., : -(-width // 2)])[..., :height, :width]
    return _shifted(_mixed(_TO_RGB, differences - 128), 16).add_(luma).clamp_(0, 255)


def _mixed(matrix: tuple[tuple[float, ...], ...], planes: Tensor) -> Tensor:
    """Return sums over channels; of levels, they stay below 2^24."""
    mixed = torch.matmul(torch.tensor(matrix).to(planes), planes.flatten(2))
    return mixed.view(len(planes), -1, *planes.shape[2:])


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Return planes ``(N, C, H, W)`` after their blocks were rounded in frequency."""
    height, width = planes.shape[-2:]
    padded = pad_to_multiple(planes, BLOCK)
    grid = padded.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))  # N, C, rows, 8, columns, 8
    blocks = grid.permute(3, 5, 0, 1, 2, 4)
    shape = blocks.shape
    blocks = _inverse_dct(_quantized(_dct(blocks.flatten(2)), table.to(planes.device)))
    return blocks.view(shape).permute(2, 3, 4, 0, 5, 1).reshape(padded.shape)[..., :height, :width]


def pad_to_multiple(images: Tensor, multiple: int, *, rows: bool = True, columns: bool = True) -> Tensor:
    """Return images whose last row and column are repeated until the sides are multiples of a number."""
    height, width = images.shape[-2:]
    right, bottom = (-width % multiple if columns else 0), (-height % multiple if rows else 0)
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if right or bottom else images


def _dct(blocks: Tensor) -> Tensor:
    """Return 8 times the coefficients of blocks ``(8, 8, M)``, whole numbers in float64."""
    matrix = torch.tensor(_DCT).to(blocks)
    once = _shifted(matrix @ blocks, _SCALE_BITS - _EXTRA_BITS).double()  # along rows; sums stay below 2^24
    twice = _shifted(matrix.double() @ once.flatten(1), _SCALE_BITS + _EXTRA_BITS).view_as(blocks)
    twice[0, 0] -= BLOCK**2 * 128  # levels are centred: all other rows of the matrix add up to 0
    return twice


def _inverse_dct(coefficients: Tensor) -> Tensor:
    """Return levels from 0 to 255 of the coefficients of blocks ``(8, 8, M)``, as float32."""
    matrix = torch.tensor(_DCT).to(coefficients).T
    once = _shifted(matrix @ coefficients.flatten(1), _SCALE_BITS - _EXTRA_BITS).view_as(coefficients)
    return _shifted(matrix @ once, _SCALE_BITS + _EXTRA_BITS + 3, offset=128).clamp_(0, 255).float()


def _shifted(numbers: Tensor, bits: int, *, offset: int = 0) -> Tensor:
    """Divide whole numbers by a power of two, round, halves upwards, and add an offset; in place."""
    return numbers.mul_(2.0**-bits).add_(0.5 + offset).floor_()


def _quantized(coefficients: Tensor, table: Tensor) -> Tensor:
    """Round 8 times coefficients to multiples of the table's steps, halves away from zero; in place."""
    steps = table[..., None]
    # what is exactly half way is moved away from zero by far less than lies between two whole numbers
    return coefficients.mul_((1 + 2.0**-40) / (8 * steps)).round_().mul_(steps)


def _halved(planes: Tensor) -> Tensor:
    """Return colour differences at half the resolution, in columns padded to whole blocks."""
    # libjpeg repeats columns before it averages, rows before and after; halves go down and up in turn.
    padded = pad_to_multiple(pad_to_multiple(planes, 2 * BLOCK, rows=False), 2, columns=False)
    halved = F.avg_pool2d(padded, 2)
    return halved.add_(_alternating(0.25, 0.5, halved)).floor_()


def _doubled(planes: Tensor) -> Tensor:
    """Return colour differences at the full resolution, interpolated linearly."""
    if planes.shape[-1] <= 2:  # too narrow for libjpeg to interpolate
        return F.interpolate(planes, scale_factor=2.0)
    doubled = F.interpolate(planes, scale_factor=2.0, mode="bilinear")
    return doubled.add_(_alternating(8 / 16, 7 / 16, doubled)).floor_()


def _alternating(even: float, odd: float, planes: Tensor) -> Tensor:
    return torch.tensor([even, odd]).to(planes).repeat(planes.shape[-1] // 2)
