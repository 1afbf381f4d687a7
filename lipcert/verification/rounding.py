"""How far rounding takes a chain's logits off, layer by layer in exact rationals, and the radii that are left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.errors import InputError

_UP = 1 + 2.0**-40  # the few float64 roundings on (K, K) tables
Affine = tuple[Fraction, Fraction]
"""A bound that is affine in the norm of the network's input: coefficient, constant."""


@dataclass(frozen=True)
class Step:
    r"""A layer f that is computed in rounded operations.

    With A the norm of what f does with the absolute values of all its numbers, an input u gives computed results with

    .. math:: \|\hat f(u) - f(u)\|_2 \le \gamma_N \big(A \|u\|_2 + b\big) + \text{underflow}.

    Attributes:
        gain: Lipschitz constant of f.
        spread: the constant A; 0 where nothing is rounded.
        offset: norm of f(0).
        shift: b, norm of the absolute values of all that f adds.
        roundings: N, how many lie on the way to an element at most; 0 where nothing is rounded.
        outputs: number of elements of the result.
        factor: largest number, at least 1, by which something rounded is multiplied later within f.
        squares: number of squares under each root, for layers of Euclidean norms.
    """

    gain: float
    spread: float = 0.0
    offset: float = 0.0
    shift: float = 0.0
    roundings: int = 0
    outputs: int = 0
    factor: float = 1.0
    squares: int = 0


@dataclass(frozen=True)
class Head:
    """The last layer, logit by logit, where it is linear.

    Attributes:
        step: the layer as a whole.
        pairs: ``(K, K)`` float64, Lipschitz constants of the differences of two of its outputs.
        rows: ``(K,)`` float64, norms of the weights of each output.
        shifts: ``(K,)`` float64, absolute values of what is added to each.
    """

    step: Step
    pairs: Tensor
    rows: Tensor
    shifts: Tensor


@dataclass(frozen=True)
class RoundedChain:
    """A network as it rounds.

    Attributes:
        steps: its layers in order, without the head.
        head: None where the last layer is not linear.
        classes: number of logits.
        reach: upper bound of the norm of an input in the box.
    """

    steps: tuple[Step, ...]
    head: Head | None
    classes: int
    reach: float


def difference_errors(chain: RoundedChain, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    r"""Return how far rounding can take the differences of two logits off, for inputs of the box.

    The errors D and the norms M of the layers' results follow from those of the layer before,

    .. math:: D_l = L_l D_{l-1} + \gamma_{N_l} \big(A_l (M_{l-1} + D_{l-1}) + b_l\big) + \text{underflow},

    as affine functions of the input's norm, in exact rational arithmetic.

    Args:
        chain: the network.
        dtype: the arithmetic that it is computed in, rounded to nearest with gradual underflow; products may be summed
            in any order and fused.

    Returns:
        ``(K, K)`` float64 coefficients of the input's norm, and constants.

    Raises:
        InputError: something could overflow on the way.

    Source: Murray (2026), arXiv 2603.13334; Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.

    Example:
        >>> chain = RoundedChain((Step(1.0, spread=3.0, roundings=4, outputs=2),), None, 2, 1.0)
        >>> coefficient, _ = difference_errors(chain, torch.float32)
        >>> round(float(coefficient[0, 1]) / (2**0.5 * 3 * 4 * 2.0**-24), 6)
        1.0
    """
    arithmetic = torch.finfo(dtype)
    magnitude, error = (Fraction(1), Fraction(0)), (Fraction(0), Fraction(0))
    for step in chain.steps:
        own = _own_error(step, _sum(magnitude, error), chain.reach, arithmetic)
        gain = Fraction(step.gain)
        magnitude = (gain * magnitude[0], gain * magnitude[1] + Fraction(step.offset))
        error = _sum((gain * error[0], gain * error[1]), own)
    if chain.head is None:
        whole = [_float(part) * math.sqrt(2) * _UP for part in error]
        first, second = (torch.full((chain.classes, chain.classes), part, dtype=torch.float64) for part in whole)
        return first, second
    return _head_errors(chain.head, _sum(magnitude, error), error, chain.reach, arithmetic)


def _own_error(step: Step, size: Affine, reach: float, arithmetic: torch.finfo) -> Affine:
    """What the roundings of one layer add, for an argument of this norm."""
    if step.roundings == 0:
        return Fraction(0), Fraction(0)
    relative, floor = _unit_errors(step, arithmetic)
    largest = size[0] * Fraction(reach) + size[1]
    peak = Fraction(1 + step.spread) * largest + Fraction(step.shift) + Fraction(step.factor)
    peak *= (peak if step.squares else 1) * Fraction(step.factor) * step.roundings
    if peak > Fraction(arithmetic.max) / 8:
        raise InputError(f"expected numbers that {arithmetic.dtype} can hold, got some that may overflow")
    slope = relative * Fraction(step.spread) + floor
    elements = math.isqrt(step.outputs) + 1
    constant = relative * Fraction(step.shift) + floor * elements
    if step.squares:
        # A window's sum is off by at most 4 quanta a square, and its root by at most the root of that.
        root = Fraction(math.nextafter(math.sqrt(_quantum(arithmetic)), math.inf))
        constant += 2 * root * (math.isqrt(step.squares) + 1) * elements * Fraction(step.factor)
    return slope * size[0], slope * size[1] + constant


def _head_errors(
    head: Head, size: Affine, error: Affine, reach: float, arithmetic: torch.finfo
) -> tuple[Tensor, Tensor]:
    _own_error(head.step, size, reach, arithmetic)  # refuses what may overflow
    relative, floor = map(_float, _unit_errors(head.step, arithmetic))
    tables = []
    for inherited, length, added in zip(error, size, (0.0, 1.0), strict=True):
        own = (relative * head.rows + floor) * _float(length) + added * (relative * head.shifts + floor)
        tables.append((head.pairs * _float(inherited) + own[:, None] + own) * _UP)
    return tables[0], tables[1]


def _unit_errors(step: Step, arithmetic: torch.finfo) -> tuple[Fraction, Fraction]:
    """Relative error of N roundings, and absolute error of as many that underflow."""
    accumulated = step.roundings * Fraction(arithmetic.eps) / 2
    if accumulated >= Fraction(1, 2):
        raise InputError(f"expected sums of fewer terms for {arithmetic.dtype}, got {step.roundings:,}")
    return accumulated / (1 - accumulated), 4 * step.roundings * _quantum(arithmetic) * Fraction(step.factor)


def _quantum(arithmetic: torch.finfo) -> Fraction:
    """Half of the smallest positive number, the error of what underflows."""
    return Fraction(arithmetic.tiny) * Fraction(arithmetic.eps) / 2


def _sum(first: Affine, second: Affine) -> Affine:
    return first[0] + second[0], first[1] + second[1]


def _float(value: Fraction) -> float:
    return math.nextafter(float(value), math.inf) if value else 0.0


def rounded_radii(
    logits: Tensor, pairs: Tensor, chain: RoundedChain, norms: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    r"""Return predicted classes and the radii that hold for the network as it is computed.

    With E the errors of the differences of logits in ``dtype``, and E' those of their evaluation in float64, a radius r
    holds if

    .. math:: f_y(x) - f_j(x) - E'_{yj}(\|x\|) - E_{yj}\big(\min(\sqrt d, \|x\| + r)\big) \ge L_{yj} r.

    Args:
        logits: ``(N, K)``, evaluated in float64.
        pairs: ``(K, K)`` Lipschitz bounds of the logits' differences.
        chain: the network as it rounds.
        norms: ``(N,)`` float64, norms of the inputs.
        dtype: the arithmetic of the network.

    Returns:
        ``(N,)`` int64 and float64, to within a few roundings; 0 where nothing is certified.
    """
    prediction = logits.argmax(1)
    slope, constant, there_slope, there_constant = (
        table[prediction] for kind in (torch.float64, dtype) for table in difference_errors(chain, kind)
    )
    norm = norms[:, None]
    steepness = pairs[prediction]
    margin = logits.gather(1, prediction[:, None]) - logits - slope * norm - constant - there_constant
    everywhere = _quotient(margin - there_slope * chain.reach, steepness)
    nearby = _quotient(margin - there_slope * norm, steepness + there_slope)
    reached = torch.maximum(everywhere, nearby).scatter(1, prediction[:, None], math.inf).min(1).values
    return prediction, torch.where(logits.isfinite().all(1), reached, 0)


def _quotient(numerator: Tensor, divisor: Tensor) -> Tensor:
    return torch.where(numerator > 0, numerator / divisor, 0)


def box_reach(input_shape: Sequence[int]) -> float:
    """Return an upper bound of the norm of an input in [0, 1].

    Example:
        >>> box_reach((1, 2, 2)) >= 2
        True
    """
    return math.nextafter(math.sqrt(math.prod(input_shape)), math.inf)
