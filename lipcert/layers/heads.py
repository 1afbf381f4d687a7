"""The last layer of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from lipcert.layers.blocked import BlockedLinear, plain_linear


class NormalizedLinear(BlockedLinear):
    r"""Linear layer whose rows have norm 1: a head that keeps certificates by pairs of classes tight.

    .. math:: w_i \leftarrow w_i / \|w_i\|_2

    Each output is 1-Lipschitz, and :math:`f_i - f_j` is :math:`\|w_i - w_j\|_2 \le 2`-Lipschitz; the layer as a whole
    may reach the root of the number of outputs. :func:`lipcert.certify` uses the norms of the differences.

    Args:
        in_features: n.
        out_features: m.
        bias: whether to learn a bias, which starts at zero.

    Source: Singla, Singla & Feizi (2022), arXiv 2108.04062 (last-layer normalisation).

    Example:
        >>> NormalizedLinear(5, 2).weight.norm(dim=1).round(decimals=4).tolist()
        [1.0, 1.0]
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        parametrize.register_parametrization(self, "weight", _UnitRows())

    def vanilla_export(self) -> nn.Linear:
        """Return a plain layer with the weight that this one executes with."""
        return plain_linear(self)


class _UnitRows(nn.Module):
    def forward(self, raw: Tensor) -> Tensor:
        return F.normalize(raw, dim=1, eps=torch.finfo(raw.dtype).tiny)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight
