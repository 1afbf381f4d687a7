"""L1 certificates: a vote over all views that deterministic splitting noise makes of an 8-bit image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.certificates.certificate import Certificate
from lipcert.certificates.votes import ranked_classes, vote_counts
from lipcert.data.loader import seeded_generator
from lipcert.errors import InputError

WHITE = 255
"""Largest grey level of 8 bits."""

ASSUMPTIONS = (
    "Images and perturbed images have 8 bits: every value is one of 0, 1/255, ..., 1. Radii are in units of pixel "
    "values in [0, 1], summed over all pixels and channels.",
    "Every view's votes are a function of its values and of nothing else: neither the other views of its batch, nor "
    "the batch's size, nor chance, nor statistics of the batch.",
    "The deployed classifier makes the very views of this noise, counts the votes of all of them, and elects the first "
    "among the classes with the most.",
)
"""What has to hold beside the mathematics."""


@dataclass(frozen=True)
class SplittingNoise:
    r"""Deterministic splitting noise: L views of an image, of which one grey level changes at most one.

    In grey levels, view o splits the values of pixel i at the points :math:`t + \tfrac12 + jL`, for all integers j and
    :math:`t = (v_i + o) \bmod L`, with a fixed random :math:`v_i`, and shows the midpoint of the part of [0, 255] in
    which the pixel lies. Over all o from 0 to L - 1, every t occurs once. Two neighbouring grey levels are separated by
    exactly one of them, so of L views at most

    .. math:: \sum_i |a_i - a_i'|

    differ between two images of grey levels a and a': their L1 distance, in grey levels. All in integers, without
    rounding. For L at least 255 it shows (min(s, 1) + [x > s]) / 2 with s = (t + 1/2) / 255.

    Args:
        levels: L; the width of the noise is :math:`2 \lambda = L / 255`, its standard deviation
            :math:`\lambda / \sqrt 3`.
        seed: of the :math:`v_i`.

    Raises:
        InputError: ``levels`` is not a whole number of at least 2.

    Source: Levine and Feizi (2021), arXiv 2103.10834, theorem 2 and section 5.

    Example:
        >>> noise, image = SplittingNoise(levels=3), torch.tensor([1.0]).view(1, 1, 1, 1)
        >>> (noise.views(image) * 255).flatten().sort().values.round(decimals=3).tolist()
        [253.75, 254.25, 254.75]
    """

    levels: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or self.levels < 2:
            raise InputError(f"expected a whole number of levels, 2 * lambda * 255 >= 2, got {self.levels}")

    def template(self, shape: Sequence[int]) -> Tensor:
        """Return the numbers v of the pixels of an image ``(C, H, W)``: int64, from 0 to L - 1."""
        return torch.randint(self.levels, tuple(shape), generator=seeded_generator(self.seed, *shape))

    def views(self, inputs: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the views of images, all of them or those of some offsets.

        Args:
            inputs: ``(N, C, H, W)``, see :func:`grey_levels`.
            offsets: ``(V,)`` int64, which views, the same of all images; or ``(N, V)``, views of each image. None for
                all L.

        Returns:
            ``(N, V, C, H, W)`` of the inputs' type, in [0, 1].

        Raises:
            InputError: inputs that are not 8-bit images, or offsets of another form or out of range.
        """
        pixels = grey_levels(inputs)[:, None]
        offsets = torch.arange(self.levels) if offsets is None else offsets
        if offsets.dtype != torch.int64 or offsets.ndim not in (1, 2) or (offsets // self.levels).any():
            found = f"{offsets.dtype} of shape {tuple(offsets.shape)}, {offsets.tolist()}"
            raise InputError(f"expected offsets (V,) or (N, V) of type int64 below {self.levels}, got {found[:80]}")
        template = self.template(inputs.shape[1:]).to(inputs.device)
        moved = offsets.to(inputs.device).view(*offsets.shape, 1, 1, 1)
        points = (template + (moved if offsets.ndim == 2 else moved[None])) % self.levels
        return split(pixels, points, self.levels).to(inputs.dtype)


def split(pixels: Tensor, points: Tensor, levels: int) -> Tensor:
    """Return the midpoints of the parts in which pixels lie.

    Args:
        pixels: grey levels, int64 from 0 to 255.
        points: one split point t of each, int64 from 0 to ``levels`` - 1; the parts are bounded by t + 1/2 and all
            that is a multiple of ``levels`` further.
        levels: L.

    Returns:
        Midpoints in [0, 1], float64: whole numbers of quarters of a level, divided by 1020 at the end.

    Example:
        >>> split(torch.tensor([10, 11, 255]), torch.tensor([10, 10, 10]), 300) * 255
        tensor([  5.2500, 132.7500, 132.7500], dtype=torch.float64)
    """
    below = points + levels * torch.div(pixels - points - 1, levels, rounding_mode="floor")  # the last one below
    low, high = 2 * below + 1, 2 * (below + levels) + 1
    return (low.clamp_min(0) + high.clamp_max(2 * WHITE)).double() / (4 * WHITE)


def grey_levels(inputs: Tensor) -> Tensor:
    """Return the grey levels of 8-bit images.

    Args:
        inputs: ``(N, C, H, W)`` float32 or float64 multiples of 1/255 in [0, 1], up to their rounding.

    Returns:
        The same shape, int64 from 0 to 255.

    Raises:
        InputError: inputs of another type, form or range, or a value between two grey levels.

    Example:
        >>> grey_levels(torch.tensor([0.0, 7 / 255, 1.0]).view(1, 1, 1, 3)).flatten()
        tensor([  0,   7, 255])
    """
    if inputs.dtype not in (torch.float32, torch.float64) or inputs.ndim != 4:
        found = f"{inputs.dtype} of shape {tuple(inputs.shape)}"
        raise InputError(f"expected images (N, C, H, W) of type float32 or float64, got {found}")
    exact = inputs.double() * WHITE
    levels = exact.round()
    # k / 255 and k times 1 / 255 are each off by at most two roundings; float64 inputs may have been float32 before
    off = ~((exact - levels).abs() <= WHITE * torch.finfo(torch.float32).eps) | (levels < 0) | (levels > WHITE)
    if off.any():
        raise InputError(f"expected 8-bit images, multiples of 1/255 in [0, 1], got {inputs[off][0].item():.9g}")
    return levels.long()


def l1_certificate(
    votes: Tensor, noise: SplittingNoise, *, num_classes: int | None = None, arithmetic: str = "float32"
) -> Certificate:
    r"""Return the elected classes and the L1 radii within which they stay.

    A perturbation of k grey levels changes at most k views, and each can take one vote from the elected class c and
    give one to a rival c'. With ties counted as in :func:`~lipcert.certificates.predict_votes`, c stays elected while
    :math:`n_c - k \geq n_{c'} + k + [c' < c]`:

    .. math:: r = \frac{1}{255} \min_{c' \neq c} \left\lfloor \frac{n_c - n_{c'} - [c' < c]}{2} \right\rfloor

    The minimum is over every rival: of two with equally many votes the first in order is nearer. Perturbations of
    exactly r are withstood. It is exact in terms of votes: k = 255 r + 1 changed views can elect another class.

    Args:
        votes: of all L views: ``(N, L)`` int64, one class a view; or ``(N, L, K)`` bool, any number of classes a view.
        noise: what made the views.
        num_classes: K, needed where votes are classes.
        arithmetic: type in which the votes were computed.

    Returns:
        A certificate of norm ``"l1"``, radii in sums of pixel values in [0, 1].

    Raises:
        InputError: votes of another form, or of some of the views only: a share of them certifies nothing.

    Source: Levine and Feizi (2021), arXiv 2103.10834, section 5.

    Example:
        >>> votes = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 2], [0, 0, 0, 0, 0, 1, 1, 2]])
        >>> found = l1_certificate(votes, SplittingNoise(levels=8), num_classes=3)
        >>> found.prediction.tolist(), (found.radius * 255).tolist()
        ([1, 0], [1.0, 1.0])
    """
    counts = vote_counts(votes, num_classes=num_classes)
    if votes.shape[1] != noise.levels:
        raise InputError(f"expected the votes of all {noise.levels} views of the noise, got {votes.shape[1]}")
    ranking, lead = ranked_classes(counts)
    changes = lead.amin(1) // 2
    return Certificate(
        ranking[:, 0], changes.double() / WHITE, "l1", "splitting", math.inf, (), arithmetic, ASSUMPTIONS, grid=WHITE
    )
