"""How large a network's Lipschitz constant is at least, by search: how tight a proof is, never a proof."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError
from lipcert.parametrized import keep_effective_weights

_STEP = 1e-4
_REACH = 0.5


def lipschitz_lower_bound(
    model: nn.Module,
    inputs: Tensor,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    steps: int = 100,
    seed: int = 0,
) -> float:
    r"""Return an estimate from below of a network's L2 Lipschitz constant on images in [0, 1].

    .. math:: \max_{x, x' \in [0, 1]^D} \frac{\|f(x) - f(x')\|_2}{\|x - x'\|_2}

    Every quotient of two points is at most the constant. They are searched from the inputs: power iteration on
    :math:`J^\top J` for the steepest direction, gradient ascent on both points of the quotient, power iteration where
    that ends. The quotient is evaluated in float64 and its rounding is not counted: an estimate to hold beside
    :func:`lipcert.lipschitz_upper_bound`, of no use for a certificate.

    Args:
        model: network in eval mode; it is left as it is.
        inputs: ``(N, ...)`` starting points in [0, 1], a few of those that matter.
        pairs: pairs (i, j) of classes; if given, the constant is the largest of :math:`f_i - f_j` over them.
        steps: steps of each of the three searches, at least 1.
        seed: of the first directions; the same seed gives the same number.

    Returns:
        The largest quotient found.

    Raises:
        InputError: unusable inputs, pairs or steps, or a network in train mode.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
        >>> _ = network[0].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> round(lipschitz_lower_bound(network, torch.full((1, 2), 0.5)), 6)
        4.0
    """
    _check(model, inputs, steps)
    exact = copy.deepcopy(model)
    keep_effective_weights(exact)
    exact = exact.requires_grad_(False).double()
    points = inputs.detach().double().clamp(_STEP, 1 - _STEP)
    with torch.no_grad():
        shape = exact(points[:1]).shape
    differences: Sequence[tuple[int, int] | None] = (None,) if pairs is None else tuple(pairs)
    found = [
        _search(_outputs(exact, pair, shape), points, steps=steps, generator=torch.Generator().manual_seed(seed))
        for pair in differences
    ]
    if not found:
        raise InputError("expected at least one pair of classes, got none")
    return max(found)


def _check(model: nn.Module, inputs: Tensor, steps: int) -> None:
    if model.training:
        raise InputError("expected a network in eval mode, got train mode")
    if steps < 1:
        raise InputError(f"expected steps >= 1, got {steps}")
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2 or not inputs.numel():
        found = f"{inputs.dtype} of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs)
        raise InputError(f"expected a non-empty batch of floating-point inputs, got {found}")
    if not bool(((inputs >= 0) & (inputs <= 1)).all()):
        raise InputError("expected inputs in [0, 1], got values outside or nan")


def _outputs(model: nn.Module, pair: tuple[int, int] | None, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """What is bounded: ``(N, D)`` to ``(N, M)``."""
    if pair is None:
        return lambda inputs: model(inputs).flatten(1)
    if len(shape) != 2 or not all(0 <= label < shape[1] for label in pair):
        raise InputError(f"expected pairs of two of the network's {shape[-1]} classes, got {pair}")
    first, second = pair
    return lambda inputs: (lambda logits: (logits[:, first] - logits[:, second])[:, None])(model(inputs))


def _search(function: Callable[[Tensor], Tensor], points: Tensor, *, steps: int, generator: torch.Generator) -> float:
    direction = _unit(torch.randn(points.shape, dtype=points.dtype, generator=generator))
    direction, best = _steepest(function, points, direction, steps)
    reach = _REACH * direction
    ends, ascended = _ascend(function, (points + reach).clamp(0, 1), (points - reach).clamp(0, 1), steps)
    middle = ((ends[0] + ends[1]) / 2).clamp(_STEP, 1 - _STEP)
    _, last = _steepest(function, middle, direction, steps)
    return max(best, ascended, last)


def _steepest(
    function: Callable[[Tensor], Tensor], points: Tensor, direction: Tensor, steps: int
) -> tuple[Tensor, float]:
    """Power iteration on ``J^T J``, one direction a point; the directions and the largest quotient along one."""
    leaf = points.clone().requires_grad_()
    outputs = function(leaf)
    probe = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, leaf, probe, create_graph=True)
    best = _largest_quotient(function, points, direction)
    for _ in range(steps):
        (pushed,) = torch.autograd.grad(pulled, probe, direction, retain_graph=True, allow_unused=True)
        (back,) = torch.autograd.grad(outputs, leaf, pushed.detach(), retain_graph=True)
        back = back.nan_to_num(0.0, 0.0, 0.0)  # roots of zeros have no slope; what counts is the quotient below
        direction = torch.where(_lengths(back) > 0, _unit(back), direction)
    return direction, max(best, _largest_quotient(function, points, direction))


def _largest_quotient(function: Callable[[Tensor], Tensor], points: Tensor, direction: Tensor) -> float:
    # Two steps: across a kink either side may be the steeper one.
    found = []
    for first, second in ((_STEP, -_STEP), (_STEP, 0), (0, -_STEP)):
        ends = ((points + first * direction).clamp(0, 1), (points + second * direction).clamp(0, 1))
        with torch.no_grad():
            found.append(_quotients(function, *ends))
    return float(torch.cat(found).nan_to_num(0.0, 0.0).max())


def _ascend(
    function: Callable[[Tensor], Tensor], first: Tensor, second: Tensor, steps: int
) -> tuple[tuple[Tensor, Tensor], float]:
    """Gradient ascent on both ends of every quotient within [0, 1]; the last ends and the largest quotient."""
    best = 0.0
    for step in range(steps):
        leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        quotients = _quotients(function, *leaves)
        best = max(best, float(quotients.detach().nan_to_num(0.0, 0.0).max()))
        gradients = torch.autograd.grad(quotients.sum(), leaves)
        length = 0.1 * (1 - step / steps)
        first, second = (
            (end.detach() + length * _unit(gradient.nan_to_num(0.0, 0.0, 0.0))).clamp(0, 1)
            for end, gradient in zip(leaves, gradients, strict=True)
        )
    return (first, second), best


def _quotients(function: Callable[[Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    distance = torch.linalg.vector_norm((first - second).flatten(1), dim=1)
    change = torch.linalg.vector_norm(function(first) - function(second), dim=1)
    quotients: Tensor = change / distance.clamp_min(1e-9)
    return quotients


def _unit(vectors: Tensor) -> Tensor:
    lengths = _lengths(vectors)
    return vectors / torch.where(lengths > 0, lengths, 1)


def _lengths(vectors: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return lengths.view(-1, *(1,) * (vectors.ndim - 1))  # type: ignore[no-any-return]
