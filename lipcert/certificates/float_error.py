"""Radii that hold for a network as it executes in floating point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.certificates.execution import arithmetic_of, check_same_function, float64_copy, float64_linear_copy
from lipcert.certificates.float_rules import ROUNDING_RULES
from lipcert.certificates.float_walk import RoundingWalk, bounds_of, computed_size
from lipcert.certificates.graph import bounding_walk, run_walk
from lipcert.certificates.norms import row_norms_upper_bound
from lipcert.certificates.rounding import UNIT_ROUNDOFF, gamma, product_up, sqrt_up, sum_up, unit_roundoff
from lipcert.certificates.signal import Signal
from lipcert.errors import InputError

_INFLATION = 1 + 2.0**-40  # the few float64 roundings on (K, K) tables
_GREY_LEVEL = 1 / 255


@dataclass(frozen=True)
class LogitErrors:
    r"""How far rounding takes the differences of two logits off, anywhere in the input box.

    .. math:: |(\hat f_i - \hat f_j)(x) - (f_i - f_j)(x)| \le E^0_{ij} + E^1_{ij} \|x\|_2

    Attributes:
        constant: ``(K, K)`` float64.
        coefficient: ``(K, K)`` float64.
        dtype: the type of the inputs, and of all operations before the network goes over to a finer one.
        reach: upper bound of the norm of any input.
    """

    constant: Tensor
    coefficient: Tensor
    dtype: torch.dtype
    reach: float

    def in_float64(self) -> LogitErrors:
        """Return the bounds for a float64 copy of a network of one type: no term is less than linear in its unit."""
        ratio = UNIT_ROUNDOFF / unit_roundoff(self.dtype)
        return LogitErrors(self.constant * ratio, self.coefficient * ratio, torch.float64, self.reach)


@dataclass(frozen=True)
class MeasuredErrors:
    r"""Bounds of what rounding does to the differences of two logits, given the norms of some activations.

    With :math:`\rho_g(x)` the norm of what the g-th linear or convolution layer is applied to, and :math:`\rho_0` that
    of the input,

    .. math:: |(\hat f_i - \hat f_j)(x) - (f_i - f_j)(x)| \le E^0_{ij} + \sum_g E^g_{ij}\, \rho_g(x), \qquad
        |\rho_g(x) - \rho_g(x')| \le \Lambda_g \|x - x'\|_2.

    Attributes:
        constant: ``(K, K)`` float64.
        coefficients: ``(G + 1, K, K)`` float64.
        slopes: ``(G + 1,)`` float64, :math:`\Lambda_g`.
        error_coefficients: ``(G + 1,)`` float64; the measured activation g is off by this much times :math:`\|x\|`,
        error_constants: ``(G + 1,)`` float64, and this much.
    """

    constant: Tensor
    coefficients: Tensor
    slopes: Tensor
    error_coefficients: Tensor
    error_constants: Tensor

    def sizes(self, found: Tensor, norms: Tensor) -> Tensor:
        """Return upper bounds ``(N, G + 1)`` of exact norms, from measured ones ``(N, G)`` and the inputs' ``(N,)``."""
        sizes = torch.cat([norms[:, None], found], dim=1)
        return (sizes + self.error_coefficients * norms[:, None] + self.error_constants) * _INFLATION


def logit_errors(model: nn.Module, input_shape: Sequence[int], *, mixed: bool = False) -> LogitErrors:
    r"""Return bounds of the rounding errors of a network's logits, as it executes in its own floating-point type.

    Layer by layer, with L the Lipschitz constant of an operation, A its norm with absolute values and n the number of
    roundings to an element,

    .. math:: D_l = L_l D_{l-1} + \gamma_{n_l} \big(A_l (M_{l-1} + D_{l-1}) + \|b_l\|\big) + \text{underflow},

    where M bounds the norm of what the operation is applied to. Products may be summed in any order and fused.

    Args:
        model: network in eval mode, of one floating-point type.
        input_shape: shape of one input in [0, 1], without the batch.
        mixed: whether this is a network that goes over from float32 to float64 instead.

    Returns:
        One bound for every pair of logits.

    Raises:
        InputError: an operation whose rounding has no known bound, or that could overflow; the message names it.

    Source: Murray (2026), arXiv 2603.13334; Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> errors = logit_errors(network, (1, 2, 2))
        >>> bool((errors.constant + 2 * errors.coefficient < 1e-5).all())
        True
    """
    dtype = torch.float32 if mixed else arithmetic_of(model)
    constant, coefficient = errors_of_walk(model, input_shape, dtype, finest=torch.float64 if mixed else dtype)
    return LogitErrors(constant, coefficient, dtype, sqrt_up(float(math.prod(input_shape))))


def errors_of_walk(
    model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype, *, finest: torch.dtype, input_size: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the constants and coefficients of :class:`LogitErrors`, for inputs of a size in units of their norm."""
    reach = sqrt_up(float(math.prod(input_shape)))

    def make(network: nn.Module) -> RoundingWalk:
        walk = RoundingWalk(network, ROUNDING_RULES, reach, dtype=dtype, finest=finest)
        walk.input_size = input_size
        return walk

    output, _ = run_walk(model, input_shape, make)
    origin = output.value.anchor.origin
    is_head = origin[:1] == ("linear",) and output.value.is_whole and len(output.value.shape) == 2
    coefficient, constant = _of_head(origin) if is_head else _of_whole(output)
    return constant * _INFLATION, coefficient * _INFLATION


def _of_whole(output: Signal) -> tuple[Tensor, Tensor]:
    """Any two coordinates of a vector differ by at most root 2 times its norm."""
    classes = output.value.shape[-1]
    bounds = bounds_of(output.value)[2:]
    first, second = (torch.full((classes, classes), math.sqrt(2) * bound, dtype=torch.float64) for bound in bounds)
    return first, second


def _of_head(origin: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Errors of two logits: what the body's error becomes, and the roundings in the two rows."""
    _, source, weight, bias, roundings = origin
    tiny = torch.finfo(weight.dtype).tiny
    relative = sum_up(gamma(roundings, unit_roundoff(weight.dtype)), product_up(4.0 * roundings, tiny))
    exact = weight.detach().cpu().double()
    rows = row_norms_upper_bound(exact)
    pairs = row_norms_upper_bound((exact[:, None] - exact).flatten(0, 1)).view(len(exact), len(exact))
    shifts = torch.zeros(len(rows)).double() if bias is None else bias.detach().cpu().double().abs()
    slope, constant = computed_size(source)
    inherited = bounds_of(source)[2:]
    tables = []
    for bound, size, shift in zip(inherited, (slope, constant), (0 * shifts, shifts), strict=True):
        own = relative * (rows * size + shift)
        tables.append(pairs * bound + own[:, None] + own)
    tables[1] += product_up(8.0 * roundings, tiny)
    return tables[0], tables[1]


def centre_evaluation(model: nn.Module, inputs: Tensor, errors: LogitErrors) -> tuple[nn.Module, LogitErrors]:
    """Return the copy of a network that evaluates the logits of inputs, and bounds of what its rounding does to them.

    A float32 network evaluates them in float32 up to its first linear layer, and in float64 from there on. Where that
    cannot be done or bounded, where it could cost more than a grey level of one pixel of a radius, and in networks
    without linear layers, all of it is float64.

    Args:
        model: network in eval mode, float32 or float64, that passed :func:`check_execution`.
        inputs: ``(N, C, H, W)`` in [0, 1]; the first is evaluated.
        errors: of the network.

    Returns:
        The copy, and its bounds: their ``dtype`` is the type that it takes its inputs in.
    """
    exact = float64_copy(model)
    mixed = float64_linear_copy(model) if errors.dtype == torch.float32 else None
    if mixed is not None:
        first = inputs[:1]
        try:
            check_same_function(mixed, first.float(), exact, first.double())
            rounded = logit_errors(mixed, inputs.shape[1:], mixed=True)
            output, _ = bounding_walk(model, inputs.shape[1:])
            largest = float((rounded.constant + rounded.coefficient * rounded.reach).max())
            if largest <= _GREY_LEVEL * output.value.bound:
                return mixed, rounded
        except InputError:
            pass  # a layer after the linear ones that has weights of its own, for example
    return exact, errors.in_float64()


def rounded_margin_radius(
    logits: Tensor,
    pair_upper_bounds: Tensor,
    errors: LogitErrors,
    norms: Tensor,
    *,
    centre: LogitErrors | None = None,
    measured: MeasuredErrors | None = None,
    found: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return predictions and L2 radii that hold for the computed network.

    With errors :math:`E_{ij}(\rho) = E^0_{ij} + E^1_{ij} \rho` for inputs of norm at most :math:`\rho`, and
    :math:`E^c` those of the logits :math:`\hat f` at hand, no input x' of the box with :math:`\|x' - x\|_2 < r` is
    computed to be of another class if for all :math:`j \neq y`

    .. math:: \hat f_y(x) - \hat f_j(x) - E^c_{yj}(\|x\|) - E_{yj}(\min(\sqrt d, \|x\| + r)) \ge L_{yj} r,

    or the same with errors in terms of measured norms, each of which changes by at most :math:`\Lambda_g r` within the
    ball.

    Args:
        logits: ``(N, K)`` float64, with the very same weights.
        pair_upper_bounds: ``(K, K)`` float64, Lipschitz bounds of the differences of two logits.
        errors: bounds of the rounding errors of the network that the radii are for.
        norms: ``(N,)`` float64, upper bounds of the norms of the inputs.
        centre: bounds of the rounding errors of these logits; those of a float64 evaluation by default.
        measured: bounds of the network's rounding errors in terms of measured norms, if there are any.
        found: ``(N, G)`` float64, these norms.

    Returns:
        ``(N,)`` int64 predictions and ``(N,)`` float64 radii, rounded down.
    """
    centre = centre or errors.in_float64()
    prediction = logits.argmax(1)
    steepness, constant, coefficient = (
        table[prediction] for table in (pair_upper_bounds, errors.constant, errors.coefficient)
    )
    margins = (logits.gather(1, prediction[:, None]) - logits) * (1 - 4 * UNIT_ROUNDOFF)
    at_centre = centre.constant[prediction] + centre.coefficient[prediction] * norms[:, None]
    certain = margins - at_centre * _INFLATION
    left = certain - constant * _INFLATION
    everywhere = left - coefficient * errors.reach * _INFLATION
    nearby = left - coefficient * norms[:, None] * _INFLATION
    quotients = torch.maximum(
        _quotient(everywhere, margins, steepness), _quotient(nearby, margins, steepness + coefficient * _INFLATION)
    )
    if measured is not None and found is not None:
        growth, spent = _measured(measured, measured.sizes(found, norms), prediction)
        quotients = torch.maximum(quotients, _quotient(certain - spent, margins, steepness + growth))
    radius = quotients.scatter(1, prediction[:, None], math.inf).min(1).values
    return prediction, torch.where(logits.isfinite().all(1), radius, 0)


def _measured(measured: MeasuredErrors, sizes: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Return how fast rounding errors grow with the radius, and what they are at the centre, both ``(N, K)``."""
    growth = torch.einsum("g,gij->ij", measured.slopes, measured.coefficients)[prediction]
    spent = measured.constant[prediction]
    for size, table in zip(sizes.unbind(1), measured.coefficients, strict=True):
        spent = spent + size[:, None] * table[prediction]
    return growth * _INFLATION, spent * _INFLATION


def _quotient(numerator: Tensor, margins: Tensor, divisor: Tensor) -> Tensor:
    """Divide, rounded down, where the numerator is certainly positive."""
    certain = numerator - 16 * UNIT_ROUNDOFF * margins.abs()
    return torch.where(certain > 0, certain / divisor * (1 - 16 * UNIT_ROUNDOFF), 0)


def norms_upper_bound(inputs: Tensor) -> Tensor:
    """Return upper bounds ``(N,)`` of the Euclidean norms of inputs in [0, 1], in float64."""
    flat = inputs.flatten(1)
    tiny = 2.0**-500 * math.sqrt(flat.shape[1])  # squares that underflow
    norms = torch.cat([chunk.double().norm(dim=1).cpu() for chunk in flat.split(100)])
    return norms * (1 + gamma(flat.shape[1] + 8)) + tiny
