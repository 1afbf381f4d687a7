"""Margin certificates: how far an input must move before two logits can change places."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.certificates.certificate import Certificate, LipschitzBound
from lipcert.certificates.graph import body_and_head
from lipcert.certificates.norms import matrix_norm_upper_bound
from lipcert.certificates.rounding import UNIT_ROUNDOFF, gamma, product_up
from lipcert.errors import InputError
from lipcert.parametrized import keep_effective_weights

MARGIN_RULES = ("joint", "per-class", "pairwise", "best")

ASSUMPTIONS = (
    "The radii hold for the real-valued network with exactly these weights; its logits were evaluated in float64, "
    "whose own rounding is not counted, and the deployed float32 evaluation may differ at the boundary.",
    "The Lipschitz bound is recomputed from the exported weights, with the rounding of the recomputation counted.",
    "Within the radius the class of the real-valued network cannot change, whatever the perturbation, inside or "
    "outside of the [0, 1] box.",
)


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
    body, head = body_and_head(model, input_shape)
    if head is None:
        if rule not in ("joint", "best"):
            raise InputError(f"expected a network that ends in a linear layer for the {rule} rule")
        classes = _number_of_classes(model, input_shape)
        return torch.full((classes, classes), product_up(_ROOT_TWO, body.value), dtype=torch.float64), body
    whole = LipschitzBound(product_up(body.value, matrix_norm_upper_bound(head)), body.layers)
    candidates = {
        "joint": _joint_bounds(head),
        "per-class": _per_class_bounds(head),
        "pairwise": _pairwise_bounds(head),
    }
    chosen = list(candidates.values()) if rule == "best" else [candidates[rule]]
    scaled = torch.stack(chosen).amin(0) * body.value
    return torch.nextafter(scaled, torch.tensor(math.inf, dtype=torch.float64)), whole


_ROOT_TWO = math.nextafter(math.sqrt(2), math.inf)


def _joint_bounds(head: Tensor) -> Tensor:
    bound = product_up(_ROOT_TWO, matrix_norm_upper_bound(head))
    return torch.full((len(head), len(head)), bound, dtype=torch.float64)


def _per_class_bounds(head: Tensor) -> Tensor:
    norms = _row_norms_upper_bound(head)
    return (norms[:, None] + norms) * (1 + 2 * UNIT_ROUNDOFF)


def _pairwise_bounds(head: Tensor) -> Tensor:
    exact = head.double()
    differences = exact[:, None] - exact
    return _row_norms_upper_bound(differences.flatten(0, 1)).view(len(head), len(head))


def _row_norms_upper_bound(rows: Tensor) -> Tensor:
    """Euclidean norms of ``(M, D)`` rows, each entry of which may carry one rounding, from above."""
    # Row by row a power of two brings the largest entry near 1, so that no square that matters under- or overflows.
    exponents = torch.frexp(rows.abs().amax(1)).exponent
    half = exponents // 2
    scaled = torch.ldexp(torch.ldexp(rows, -half[:, None]), (half - exponents)[:, None])
    norms = torch.linalg.vector_norm(scaled, dim=1) * (1 + gamma(rows.shape[1] + 8))
    restored = torch.ldexp(torch.ldexp(norms, half), exponents - half)
    return torch.where(norms > 0, torch.nextafter(restored, torch.tensor(math.inf, dtype=torch.float64)), 0)


def _number_of_classes(model: nn.Module, input_shape: Sequence[int]) -> int:
    like = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        return int(model(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)).shape[-1])


def certify(model: nn.Module, inputs: Tensor, *, rule: str = "best", batch_size: int = 500) -> Certificate:
    """Certify the predictions of a network: within the radius of an input its class cannot change.

    The Lipschitz constants are bounded from the model's own weights; the logits are evaluated in float64.

    Args:
        model: network in eval mode, without anything random. Export a network that was trained under constraints
            first, see :func:`lipcert.export`.
        inputs: ``(N, C, H, W)`` floating point, finite, in [0, 1].
        rule: margin rule, see :func:`class_pair_upper_bounds`.
        batch_size: inputs evaluated at a time.

    Returns:
        Predictions, radii in [0,1] pixel units, and the proof behind them.

    Raises:
        InputError: unusable inputs, or a layer that cannot be bounded soundly.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.eye(2, 4)), network.eval()
        >>> certificate = certify(network, torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2))
        >>> certificate.prediction.item(), round(certificate.radius.item(), 6)
        (0, 0.707107)
    """
    check_inputs(inputs)
    bounds, proof = class_pair_upper_bounds(model, inputs.shape[1:], rule=rule)
    prediction, radius = margin_radius(float64_logits(model, inputs, batch_size=batch_size), bounds)
    return Certificate(prediction, radius, "l2", rule, proof.value, proof.layers, "real", ASSUMPTIONS)


def check_inputs(inputs: Tensor) -> None:
    """Refuse what is not a non-empty batch of finite floating-point images in [0, 1].

    Raises:
        InputError: says what was expected and found.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InputError(f"expected floating-point inputs, got {getattr(inputs, 'dtype', type(inputs).__name__)}")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise InputError(f"expected a non-empty batch of inputs (N, C, H, W), got shape {tuple(inputs.shape)}")
    if not bool(torch.isfinite(inputs).all()):
        raise InputError("expected finite inputs, got nan or infinity")
    low, high = float(inputs.min()), float(inputs.max())
    if low < 0 or high > 1:
        raise InputError(f"expected inputs in [0, 1], got values from {low:g} to {high:g}")


def float64_logits(model: nn.Module, inputs: Tensor, *, batch_size: int = 500) -> Tensor:
    """Return the logits ``(N, K)`` of a float64 copy of ``model``, on the CPU."""
    exact = copy.deepcopy(model)
    keep_effective_weights(exact)  # before they are converted: the weights that are bounded are those that execute
    exact = exact.double()
    with torch.no_grad():
        return torch.cat([exact(chunk.to(dtype=torch.float64)).cpu() for chunk in inputs.split(batch_size)])
