"""Blurring."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.defenses.base import Gradient, Transformation
from lipcert.defenses.borders import mirrored
from lipcert.errors import InputError

CUT = 4.0  # standard deviations after which the kernel ends


class GaussianSmoothing(Transformation):
    """Convolves each channel with a Gaussian; beyond the border the image is mirrored, edge pixels included.

    It is linear: its exact gradient is all an attack needs. The kernel is cut off after four standard deviations.

    Args:
        sigma: standard deviation, in pixels.
        gradient: ``"exact"`` or ``"straight-through"``.
        seed: of no account.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> GaussianSmoothing(0.5)(torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 1, 3)).argmax().item()
        1
    """

    def __init__(self, sigma: float = 1.0, *, gradient: Gradient | None = None, seed: int = 0) -> None:
        super().__init__(gradient=gradient, seed=seed)
        if not 0 < sigma < math.inf:
            raise InputError(f"expected a finite sigma > 0, got {sigma:g}")
        self.sigma = sigma

    def transform(self, inputs: Tensor, draw: int) -> Tensor:
        """Return blurred images ``(N, C, H, W)``."""
        reach = int(CUT * self.sigma + 0.5)
        places = torch.arange(-reach, reach + 1, dtype=torch.float64)
        kernel = torch.softmax(-0.5 * (places / self.sigma) ** 2, 0).to(inputs)
        planes = inputs.flatten(0, 1)[:, None]
        planes = F.conv2d(mirrored(planes, reach, reach, dim=2), kernel[None, None, :, None])
        planes = F.conv2d(mirrored(planes, reach, reach, dim=3), kernel[None, None, None, :])
        return planes.view_as(inputs)
