"""torchlip's Björck orthonormalisation, iterated on the smaller Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from deel.torchlip.normalizers import DEFAULT_BJORK_DETACH, DEFAULT_MAXITER_BJORCK
from deel.torchlip.utils.bjorck_norm import _BjorckNorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

_OBLONG = 4  # from this ratio of sides the Gram matrix in double precision is cheaper than the matrix in single
_SMALL = 64  # up to this side a GPU is done with any product before it could be asked whether to go on


def speed_up(layer: nn.Module) -> nn.Module:
    """Let a torchlip layer orthonormalise its weight by :class:`GramBjorck`, in place; its state keeps its names.

    Args:
        layer: one of torchlip's spectral layers; others are left as they are.

    Returns:
        The layer itself.

    Example:
        >>> from deel import torchlip
        >>> type(speed_up(torchlip.SpectralLinear(4, 2)).parametrizations.weight[1]).__name__
        'GramBjorck'
    """
    if parametrize.is_parametrized(layer, "weight"):
        steps = layer.parametrizations["weight"]  # type: ignore[index]
        for index, step in enumerate(steps):
            if type(step) is _BjorckNorm:
                steps[index] = GramBjorck(step._w_bjorck, step.eps).train(step.training)
    return layer


class GramBjorck(_BjorckNorm):  # type: ignore[misc]
    r"""Björck's iteration as torchlip runs it: same steps, same end, same gradient, without the large products.

    .. math:: P_k = \tfrac32 I - \tfrac12 G_k, \quad G_{k+1} = P_k G_k P_k, \quad
              W_n = P_{n-1} \cdots P_0 W, \quad G_0 = W W^\top

    on the smaller side. The Gram matrices are in double precision: single loses singular values below a thirtieth of
    the largest. torchlip's gradient is that of the first four steps; the others multiply it by 3/2, the cubic term
    being a constant to it. Matrices with sides less unlike than 1 to 4 take torchlip's own way, on a GPU the large
    ones of them.

    Args:
        weight: what eval mode returns until the first call in training mode.
        eps: the last step is the first that changes the matrix by less, in Frobenius norm.

    Source: Björck & Bowie (1971), SIAM J. Numer. Anal. 8; Anil, Lucas & Grosse (2019), arXiv 1811.05381.

    Example:
        >>> weight = torch.tensor([[0.3, 0.0, 0.0, 0.4]])
        >>> GramBjorck(weight, eps=1e-3)(weight).round(decimals=4)
        tensor([[0.6000, 0.0000, 0.0000, 0.8000]])
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Return the orthonormalised weight, in the shape of the raw one; in eval mode that of the last training."""
        if not (self.training and _pays(weight)):
            return super().forward(weight)  # type: ignore[no-any-return]
        matrix = weight.flatten(1)
        waits = weight.device.type == "cpu"
        result: Tensor = _Orthonormalised.apply(matrix, self.eps, waits).view(weight.shape)  # type: ignore[no-untyped-call]
        self._w_bjorck = result.data
        return result


def _pays(weight: Tensor) -> bool:
    small, large = sorted((weight.shape[0], weight.numel() // weight.shape[0]))
    device = weight.device.type
    return device in ("cpu", "cuda") and (_OBLONG * small <= large or (device == "cuda" and small <= _SMALL))


@dataclass
class _Step:
    """``W_k = before @ W``, ``W_{k+1} = factor @ W_k = after @ W``, and 1, or 0 if the iteration has ended."""

    before: Tensor
    factor: Tensor
    after: Tensor
    taken: float | Tensor


class _Orthonormalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, eps: float, waits: bool) -> Tensor:
        with torch.autocast(matrix.device.type, enabled=False):
            wide = _wide(matrix)
            double = wide.double()
            gram = double @ double.mT
            ctx.steps, ctx.growth, product = _iterate(gram, eps, matrix.dtype, waits=waits)
            ctx.save_for_backward(matrix, gram.to(matrix.dtype))
            return _wide(product.to(matrix.dtype) @ wide, like=matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        matrix, gram = ctx.saved_tensors
        with torch.autocast(matrix.device.type, enabled=False):
            wide, towards = _wide(matrix), _wide(gradient, like=matrix)
            # The gradient by W_k is of_gradient @ towards + of_matrix @ W at every step k: only small matrices change.
            inner = ctx.growth * (towards @ wide.mT)  # of_gradient @ towards @ W.mT
            of_gradient = ctx.growth * ctx.steps[-1].after
            of_matrix = torch.zeros_like(inner)
            for step in reversed(ctx.steps):
                half = (inner + of_matrix @ gram) @ step.before
                inner, of_matrix = step.factor @ inner, step.factor @ of_matrix
                of_matrix -= (0.5 * step.taken) * ((half + half.mT) @ step.before)
            return _wide((of_gradient @ towards).addmm_(of_matrix, wide), like=matrix), None, None


def _wide(matrix: Tensor, *, like: Tensor | None = None) -> Tensor:
    """Lay a matrix on its longer side, or back as ``like``."""
    tall = (matrix if like is None else like).shape[0] > (matrix if like is None else like).shape[1]
    return matrix.mT.contiguous() if tall else matrix


def _iterate(
    gram: Tensor, eps: float, dtype: torch.dtype, *, waits: bool
) -> tuple[list[_Step], float | Tensor, Tensor]:
    """Return the steps that have a gradient, what the others multiply the gradient by, and the product of all.

    What does not wait for the device to say whether to go on takes the identity for each step after the last.
    """
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product, steps = identity, []
    growth: float | Tensor = 1.0
    going: float | Tensor = 1.0 if waits else torch.ones((), dtype=dtype, device=gram.device)
    for number in range(DEFAULT_MAXITER_BJORCK):
        rest = identity - gram
        factor = torch.add(identity, rest, alpha=0.5)
        half = gram @ factor
        moved = 0.5 * torch.dot(rest.flatten(), half.sub(gram).flatten())  # squared Frobenius norm of the step
        before, product = product, factor @ product
        if number < DEFAULT_BJORK_DETACH:
            steps.append(_Step(before.to(dtype), factor.to(dtype), product.to(dtype), going))
        else:
            growth = growth * (1 + 0.5 * going)
        goes_on = moved >= eps * eps
        if waits and not goes_on:
            break
        gram = half @ factor
        if not waits:
            going = going * goes_on
            gram = torch.where(going > 0, gram, identity)
    return steps, growth, product
