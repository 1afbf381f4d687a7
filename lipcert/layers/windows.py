"""Windows of pixels as channels, moved along: each 1 x 1 convolution mixes other neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.errors import InputError


class MovedWindows(nn.Module):
    r"""Regroups an image whose channels are windows of pixels into the windows one pixel further on.

    The :math:`C = s^2 c` channels of a place are a window of s by s pixels with c channels each. Pixels are put back in
    their places, the image is rolled by ``move`` both ways, and windows are taken again. A permutation of the elements:
    an isometry. Between orthogonal 1 x 1 convolutions, which mix whole windows, few of them see far, and the matrices
    are large enough to be multiplied fast.

    Args:
        move: in pixels, both down and to the right; negative is up and to the left.
        side: s.

    Shapes: ``(N, C, H, W)`` to the same, C a multiple of :math:`s^2`; fastest in channels-last memory, which is what it
    returns.

    Source: Liu et al. (2021), arXiv 2103.14030 (shifted windows, for attention).

    Example:
        >>> windows = torch.arange(8.0).reshape(1, 2, 2, 2).permute(0, 3, 1, 2).repeat_interleave(2, dim=1)
        >>> back = MovedWindows(-1)(MovedWindows(1)(windows))
        >>> torch.equal(back, windows), torch.equal(MovedWindows(1)(windows), windows)
        (True, False)
    """

    def __init__(self, move: int = 1, side: int = 2) -> None:
        super().__init__()
        if side < 1:
            raise InputError(f"expected windows of side >= 1, got {side}")
        self.move, self.side = move, side

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the channels regrouped."""
        side = self.side
        if inputs.ndim != 4 or inputs.shape[1] % side**2:
            expected = f"(N, C, H, W) with C a multiple of {side**2}"
            raise InputError(f"expected images {expected}, got {tuple(inputs.shape)}")
        windows = inputs.permute(0, 2, 3, 1).unflatten(3, (side, side, -1))
        pixels = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        moved = torch.roll(pixels, (self.move, self.move), (1, 2))
        regrouped = moved.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        outputs: Tensor = regrouped.flatten(3, 5).permute(0, 3, 1, 2)
        return outputs

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"move={self.move}, side={self.side}"
