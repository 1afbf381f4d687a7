"""Do a network's gradients say where its decision boundary is? Attacks that follow them are blind if not."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS = 8
STEP = 0.5 / 255
UNEXPLAINED = 0.5
VANISHING = 0.5
BELOW_ROUNDING = 64


@dataclass(frozen=True, slots=True)
class Slopes:
    """Margins between the first and the second class of N inputs, and how they change.

    Attributes:
        inputs: ``(N, C, H, W)``.
        first: ``(N,)`` int64, the class with the largest logit.
        second: ``(N,)`` int64, the class with the second largest.
        margin: ``(N,)``, their difference.
        gradient: ``(N, C, H, W)``, the margin's; zero where nothing depends on the inputs.
        blind: ``(N,)`` bool: the cross-entropy's gradient is exactly zero and the margin's is not.
    """

    inputs: Tensor
    first: Tensor
    second: Tensor
    margin: Tensor
    gradient: Tensor
    blind: Tensor

    @property
    def length(self) -> Tensor:
        """L2 length ``(N,)`` of the gradients."""
        return self.gradient.double().flatten(1).square().sum(1).sqrt()


def margin_slopes(network: nn.Module, inputs: Tensor) -> Slopes:
    """Return margins and their gradients.

    Args:
        network: in eval mode, with at least two classes; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
        >>> _ = network[1].weight.data.copy_(torch.eye(2))
        >>> slopes = margin_slopes(network, torch.tensor([0.75, 0.5]).view(1, 1, 1, 2))
        >>> slopes.margin.tolist(), slopes.gradient.flatten().tolist()
        ([0.25], [1.0, -1.0])
    """
    network = copy.deepcopy(network).requires_grad_(False)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        leaf = inputs.detach().clone().requires_grad_()
        logits = network(leaf)
        first, second = logits.detach().topk(2, dim=1).indices.unbind(1)
        margin = (logits.gather(1, first[:, None]) - logits.gather(1, second[:, None])).squeeze(1)
        gradient = _gradient(margin.sum(), leaf, keep=True)
        of_loss = _gradient(F.cross_entropy(logits, first, reduction="sum"), leaf)
    blind = (of_loss == 0).flatten(1).all(1) & (gradient != 0).flatten(1).any(1)
    return Slopes(inputs, first, second, margin.detach(), gradient, blind)


def _gradient(value: Tensor, leaf: Tensor, *, keep: bool = False) -> Tensor:
    if not value.requires_grad:  # an argmax, a numpy detour or no_grad on the way
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, retain_graph=keep, allow_unused=True, materialize_grads=True)
    return gradient.detach()


def zero_gradients(slopes: Slopes) -> str | None:
    """Return a warning if the margin's gradient is exactly zero, or not a number, at some of the inputs.

    Source: after RobustBench's first rule of admission, Croce et al. (2021), arXiv 2010.09670.

    Example:
        >>> class Rounded(nn.Module):
        ...     def forward(self, inputs):
        ...         return inputs.flatten(1).mul(4).round()
        >>> zero_gradients(margin_slopes(Rounded().eval(), torch.rand(8, 1, 1, 3)))[:69]
        "Zero gradients: the margin's gradient is exactly zero at 8 of 8 input"
    """
    empty = int((slopes.length == 0).sum())
    broken = int((~slopes.length.isfinite()).sum())
    if not empty and not broken:
        return None
    said = [f"exactly zero at {empty:,} of {len(slopes.margin):,} inputs"] if empty else []
    said += [f"nan or infinite at {broken:,} of {len(slopes.margin):,} inputs"] if broken else []
    return (
        f"Zero gradients: the margin's gradient is {' and '.join(said)}. Attacks that follow gradients are blind "
        "there: look for rounding, saturation or detached tensors, and attack with black boxes too."
    )


def vanishing_gradients(slopes: Slopes) -> str | None:
    r"""Return a warning if the gradients are too small to point anywhere, or the cross-entropy's are zero.

    To first order the boundary is :math:`m / \|\nabla m\|` away. Where that is more than the diagonal of the box for
    half of the inputs, no boundary would lie in the box at all.

    Example:
        >>> class Saturated(nn.Module):
        ...     def forward(self, inputs):
        ...         return inputs.flatten(1).sub(0.5).mul(20).tanh()
        >>> inputs = torch.tensor([0.8, 0.2]).view(1, 1, 1, 2)
        >>> vanishing_gradients(margin_slopes(Saturated().eval(), inputs * 0.1 + 0.45)) is None
        True
        >>> vanishing_gradients(margin_slopes(Saturated().eval(), inputs))[:64]
        'Vanishing gradients: at 1 of 1 inputs the gradient puts the boun'
    """
    size = slopes.gradient[0].numel()
    length = slopes.length
    some = (length > 0) & length.isfinite()
    far = some & (slopes.margin.double() > length * math.sqrt(size))
    samples, said = len(slopes.margin), []
    if int(far.sum()) >= VANISHING * samples:
        said.append(
            f"at {int(far.sum()):,} of {samples:,} inputs the gradient puts the boundary outside of the [0, 1] box "
            f"(median length {float(length[far].median()):.2g}, margin {float(slopes.margin[far].median()):.2g})"
        )
    blind = int(slopes.blind.sum())
    if blind:
        said.append(
            f"at {blind:,} of {samples:,} inputs the cross-entropy's gradient is exactly zero though the margin's is "
            "not, so attacks on the cross-entropy are blind"
        )
    if not said:
        return None
    return (
        f"Vanishing gradients: {'; '.join(said)}. Look for saturated activations and huge logits; rescale the logits, "
        "and attack the margin, in float64 if need be."
    )


def masked_gradients(network: nn.Module, slopes: Slopes) -> str | None:
    r"""Return a warning if the gradient does not explain how the margin changes.

    The margin is measured half an 8-bit step to both sides of an input, in random directions :math:`u` of signs, and
    compared with the gradient's prediction:

    .. math:: R = \frac{\sum (\Delta m - \nabla m \cdot u)^2}{\sum (\Delta m)^2}, \qquad
        \Delta m = \frac{m(x + h u) - m(x - h u)}{2 h}

    R is near 0 for a function with true gradients and 1 for gradients that say nothing; the warning is given above
    one half. Inputs are moved h inwards first, so that no pixel leaves the box. Inputs whose gradient is zero are left
    to :func:`zero_gradients`.

    Args:
        network: in eval mode; it is left as it is.
        slopes: its margins at some inputs.

    Example:
        >>> class Misleading(nn.Module):
        ...     def forward(self, inputs):
        ...         shown = inputs.flip(3)
        ...         return (inputs.detach() + shown - shown.detach()).flatten(1)
        >>> network = Misleading().eval()
        >>> masked_gradients(network, margin_slopes(network, torch.rand(8, 1, 1, 3)))[:51]
        'Masked gradients: half an 8-bit step away from 8 in'
    """
    seen = slopes.length.isfinite() & (slopes.length > 0)
    if not bool(seen.any()):
        return None
    network = copy.deepcopy(network).requires_grad_(False)
    inner = slopes.inputs[seen] * (1 - 2 * STEP) + STEP
    pair = torch.stack([slopes.first[seen], slopes.second[seen]], dim=1)
    gradient = _pair_gradient(network, inner, pair)
    generator = torch.Generator().manual_seed(0)
    measured, predicted, size = [], [], torch.zeros(())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for _ in range(DIRECTIONS):
            signs = torch.randint(0, 2, inner.shape, generator=generator).to(inner) * 2 - 1
            ahead, behind = (network(inner + step * signs).double() for step in (STEP, -STEP))
            size = torch.maximum(size, ahead.abs().max().cpu())
            measured.append((_gap(ahead, pair) - _gap(behind, pair)) / (2 * STEP))
            predicted.append((gradient.double() * signs).flatten(1).sum(1))
    real, said = torch.stack(measured).nan_to_num(0.0, 0.0, 0.0), torch.stack(predicted).nan_to_num(0.0, 0.0, 0.0)
    rounding = BELOW_ROUNDING * torch.finfo(inner.dtype).eps * float(size) / STEP
    if float(real.square().mean()) <= rounding**2 or float(real.square().sum()) == 0:
        return None
    unexplained = float((real - said).square().sum() / real.square().sum())
    if unexplained <= UNEXPLAINED:
        return None
    return (
        f"Masked gradients: half an 8-bit step away from {len(inner):,} inputs, in {DIRECTIONS} random directions, the "
        f"gradient misses the measured change of the margin by {math.sqrt(unexplained):.0%}. It is not the slope of "
        "this function: look for rounding, replaced backward passes or thresholds, and attack with black boxes too."
    )


def _pair_gradient(network: nn.Module, inputs: Tensor, pair: Tensor) -> Tensor:
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        leaf = inputs.clone().requires_grad_()
        return _gradient(_gap(network(leaf), pair).sum(), leaf)


def _gap(logits: Tensor, pair: Tensor) -> Tensor:
    first, second = logits.gather(1, pair).unbind(1)
    return first - second
