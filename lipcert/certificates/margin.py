"""Margin certificates: how far an input must move before two logits can change places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.certificates.certificate import Certificate, LipschitzBound
from lipcert.certificates.executed import execute
from lipcert.certificates.execution import float64_copy
from lipcert.certificates.float_walk import dtype_name
from lipcert.certificates.graph import body_and_head
from lipcert.certificates.norms import each_norm_once, matrix_norm_upper_bound, row_norms_upper_bound
from lipcert.certificates.rounding import UNIT_ROUNDOFF, product_up
from lipcert.errors import InputError
from lipcert.parametrized import frozen_copy

MARGIN_RULES = ("joint", "per-class", "pairwise", "best")

ARITHMETICS = ("float32", "float64", "real")

_BOUND_IS_RECOMPUTED = (
    "The Lipschitz bound is recomputed from the exported weights, with the rounding of the recomputation counted; that "
    "recomputation trusts float64 matrix products and factorisations to be sums of IEEE products in some order."
)
_AS_IT_EXECUTES = (
    "The radii hold for the network as it executes in {0}, for every {0} input of the [0, 1] box: the rounding of its "
    "operations, gradual underflow included, is counted at the input and within its ball, and none can overflow. The "
    "real-valued logits are enclosed from an evaluation whose own rounding is counted as well.",
    "Operations are IEEE, rounded to nearest; dot products are sums of the single products, in any order, fused or "
    "not. Winograd and Fourier convolutions, TF32, autocast, reduced-precision products and flushed subnormal operands "
    "are excluded: where the certificate is made they are refused as far as torch tells, elsewhere the user sees to "
    "it.",
)

ASSUMPTIONS: dict[str, tuple[str, ...]] = {
    "real": (
        "The radii hold for the real-valued network with exactly these weights; its logits were evaluated in float64, "
        "whose own rounding is not counted, and the deployed evaluation may differ at the boundary.",
        _BOUND_IS_RECOMPUTED,
        "Within the radius the class of the real-valued network cannot change, whatever the perturbation, inside or "
        "outside of the [0, 1] box.",
    ),
    **{
        name: (*(sentence.format(name) for sentence in _AS_IT_EXECUTES), _BOUND_IS_RECOMPUTED)
        for name in ("float32", "float64")
    },
}
"""What has to hold beside the mathematics, by arithmetic."""


def margin_radius(logits: Tensor, pair_upper_bounds: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return predictions and L2 radii from logits and the Lipschitz bounds of their differences.

    .. math:: r = \min_{j \neq y} \frac{f_y(x) - f_j(x)}{L_{yj}}, \qquad y = \arg\max_j f_j(x)

    If :math:`L_{yj}` bounds the Lipschitz constant of :math:`f_y - f_j`, no point closer than r to x has another
    class than y. Quotients are rounded down. A tie or a logit that is not finite certifies nothing.

    Args:
        logits: ``(N, K)``, K at least 2.
        pair_upper_bounds: ``(K, K)`` float64; the diagonal is not used.

    Returns:
        ``(N,)`` int64 predictions and ``(N,)`` float64 radii, at least 0, in the units of the inputs.

    Raises:
        InputError: shapes that do not fit.

    Source: Tsuzuku et al. (2018), arXiv 1802.04034, proposition 1; Leino et al. (2021), arXiv 2102.08452.

    Example:
        >>> bounds = torch.full((2, 2), 2.0, dtype=torch.float64)
        >>> prediction, radius = margin_radius(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), bounds)
        >>> prediction.tolist(), [round(value, 12) for value in radius.tolist()]
        ([0, 0], [1.0, 0.0])
    """
    classes = len(pair_upper_bounds)
    if logits.ndim != 2 or logits.shape[1] != classes or classes < 2:
        raise InputError(f"expected logits of shape (N, {classes}) with at least 2 classes, got {tuple(logits.shape)}")
    exact = logits.double()
    prediction = exact.argmax(1)
    margins = exact.gather(1, prediction[:, None]) - exact
    quotients = torch.where(margins > 0, margins / pair_upper_bounds[prediction], 0)
    quotients = quotients.scatter(1, prediction[:, None], math.inf)
    # The difference and the quotient are each off by at most one rounding.
    radius = quotients.min(1).values * (1 - 4 * UNIT_ROUNDOFF)
    return prediction, torch.where(exact.isfinite().all(1), radius, 0)


def class_pair_upper_bounds(
    model: nn.Module, input_shape: Sequence[int], *, rule: str = "best"
) -> tuple[Tensor, LipschitzBound]:
    r"""Return a Lipschitz bound for every difference of two logits, by one of the margin rules.

    With the network split into a body of constant L and a last linear layer with rows w:

    - ``"joint"``: :math:`\sqrt{2}\, L \|W\|_2`, for a map that is Lipschitz as a whole (margin over root 2);
    - ``"per-class"``: :math:`L (\|w_i\| + \|w_j\|)`, for heads that are Lipschitz one by one (margin over 2);
    - ``"pairwise"``: :math:`L \|w_i - w_j\|`, never above the other two;
    - ``"best"``: the smallest of those that apply.

    A network that does not end in a linear layer has the joint rule only.

    Args:
        model: plain network in eval mode.
        input_shape: ``(C, H, W)``.
        rule: one of the four.

    Returns:
        ``(K, K)`` float64 bounds, rounded up, and the proof of the whole network's bound.

    Raises:
        InputError: an unknown rule, a rule that does not apply, or a layer that cannot be bounded.
    """
    if rule not in MARGIN_RULES:
        raise InputError(f"expected a rule among {', '.join(MARGIN_RULES)}, got {rule!r}")
    bounds, whole = pair_upper_bounds_by_rule(model, input_shape)
    if rule not in bounds:
        raise InputError(f"expected a network that ends in a linear layer for the {rule} rule")
    return bounds[rule], whole


def pair_upper_bounds_by_rule(model: nn.Module, input_shape: Sequence[int]) -> tuple[dict[str, Tensor], LipschitzBound]:
    """Return the bounds of every margin rule that applies, from one proof; see :func:`class_pair_upper_bounds`."""
    body, head = body_and_head(model, input_shape)
    if head is None:
        classes = _number_of_classes(model, input_shape)
        joint = torch.full((classes, classes), product_up(_ROOT_TWO, body.value), dtype=torch.float64)
        return {"joint": joint, "best": joint}, body
    whole = LipschitzBound(product_up(body.value, matrix_norm_upper_bound(head)), body.layers)
    of_head = {
        "joint": _joint_bounds(head),
        "per-class": _per_class_bounds(head),
        "pairwise": _pairwise_bounds(head),
    }
    of_head["best"] = torch.stack(list(of_head.values())).amin(0)
    infinity = torch.tensor(math.inf, dtype=torch.float64)
    return {rule: torch.nextafter(bounds * body.value, infinity) for rule, bounds in of_head.items()}, whole


_ROOT_TWO = math.nextafter(math.sqrt(2), math.inf)


def _joint_bounds(head: Tensor) -> Tensor:
    bound = product_up(_ROOT_TWO, matrix_norm_upper_bound(head))
    return torch.full((len(head), len(head)), bound, dtype=torch.float64)


def _per_class_bounds(head: Tensor) -> Tensor:
    norms = row_norms_upper_bound(head)
    return (norms[:, None] + norms) * (1 + 2 * UNIT_ROUNDOFF)


def _pairwise_bounds(head: Tensor) -> Tensor:
    exact = head.double()
    differences = exact[:, None] - exact
    return row_norms_upper_bound(differences.flatten(0, 1)).view(len(head), len(head))


def _number_of_classes(model: nn.Module, input_shape: Sequence[int]) -> int:
    like = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        return int(model(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)).shape[-1])


def certify(
    model: nn.Module, inputs: Tensor, *, rule: str = "best", arithmetic: str = "float32", batch_size: int = 100
) -> Certificate:
    """Certify the predictions of a network: within the radius of an input its class cannot change.

    The Lipschitz constants are bounded from the model's own weights. With ``arithmetic="float32"`` the guarantee is
    about the class that is *computed*: every float32 input of the box strictly within the radius gets the predicted
    class from the network as it executes, in any order of summation. Its logits are evaluated in float32 up to the
    first linear layer and in float64 from there on, see :func:`execute`; otherwise all in float64.

    Args:
        model: network in eval mode, without anything random. Export a network that was trained under constraints
            first, see :func:`lipcert.export`.
        inputs: ``(N, C, H, W)`` floating point, finite, in [0, 1].
        rule: margin rule, see :func:`class_pair_upper_bounds`.
        arithmetic: ``"float32"``: as the network executes in its own type; a float64 network executes in float64, and
            the certificate says so. ``"float64"``: as the network executes after ``model.double()``. ``"real"``: the
            real-valued network with these weights; what ``forward`` computes of them is rounded to float64.
        batch_size: inputs evaluated at a time; activations that fit in the caches are the fastest.

    Returns:
        Predictions, radii in [0,1] pixel units, and the proof behind them.

    Raises:
        InputError: unusable inputs, a layer that cannot be bounded soundly, or, unless the arithmetic is ``"real"``, a
            layer whose rounding has no known bound, numbers that may overflow, or another type than float32 or float64.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.eye(2, 4)), network.eval()
        >>> inputs = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
        >>> real, executed = (certify(network, inputs, arithmetic=name) for name in ("real", "float32"))
        >>> real.prediction.item(), round(real.radius.item(), 6), real.radius > executed.radius > 0.7071
        (0, 0.707107, tensor([True]))
    """
    check_inputs(inputs)
    if arithmetic not in ARITHMETICS:
        raise InputError(f"expected an arithmetic among {', '.join(ARITHMETICS)}, got {arithmetic!r}")
    # What is bounded is what is evaluated: weights that forward computes included, and none that a call moves.
    model = frozen_copy(model) if arithmetic == "float32" else float64_copy(model)
    with each_norm_once():
        bounds, proof = class_pair_upper_bounds(model, inputs.shape[1:], rule=rule)
        if arithmetic == "real":
            prediction, radius = margin_radius(_logits(model, inputs, torch.float64, batch_size), bounds)
            slack = torch.zeros_like(radius)
        else:
            prediction, radius, slack, arithmetic = _executed(model, inputs, bounds, batch_size)
    return Certificate(
        prediction, radius, "l2", rule, proof.value, proof.layers, arithmetic, ASSUMPTIONS[arithmetic], slack
    )


def _executed(model: nn.Module, inputs: Tensor, bounds: Tensor, batch_size: int) -> tuple[Tensor, Tensor, Tensor, str]:
    """Return predictions, radii and slacks of the network as it executes, and the name of its arithmetic."""
    executed = execute(model, inputs, batch_size=batch_size)
    prediction, radius = executed.radii(bounds)
    uncounted = margin_radius(executed.logits, bounds)[1]
    dtype = executed.errors.dtype
    open_ones = radius <= 0  # elsewhere the computed class is proved
    if open_ones.any():
        own = _logits(model, inputs[open_ones.to(inputs.device)], dtype, batch_size)
        prediction[open_ones] = own.argmax(1)
    slack = torch.where(radius < uncounted, uncounted - radius, 0)
    return prediction, radius, slack, dtype_name(dtype)


def check_inputs(inputs: Tensor) -> None:
    """Refuse what is not a non-empty batch of finite floating-point images in [0, 1].

    Raises:
        InputError: says what was expected and found.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InputError(f"expected floating-point inputs, got {getattr(inputs, 'dtype', type(inputs).__name__)}")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise InputError(f"expected a non-empty batch of inputs (N, C, H, W), got shape {tuple(inputs.shape)}")
    low, high = map(float, inputs.aminmax())  # nan if any is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("expected finite inputs, got nan or infinity")
    if low < 0 or high > 1:
        raise InputError(f"expected inputs in [0, 1], got values from {low:g} to {high:g}")


def float64_logits(model: nn.Module, inputs: Tensor, *, batch_size: int = 100) -> Tensor:
    """Return the logits ``(N, K)`` of a float64 copy of ``model``, on the CPU."""
    return _logits(float64_copy(model), inputs, torch.float64, batch_size)


def _logits(network: nn.Module, inputs: Tensor, dtype: torch.dtype, batch_size: int) -> Tensor:
    """Return the logits ``(N, K)`` that a network computes from inputs of this type, in float64 on the CPU."""
    with torch.no_grad():
        return torch.cat([network(chunk.to(dtype)).cpu().double() for chunk in inputs.split(batch_size)])
