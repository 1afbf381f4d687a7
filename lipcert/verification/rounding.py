"""How far rounding takes a chain's logits off, layer by layer in exact rationals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.errors import InputError

_UP = 1 + 2.0**-40  # the few float64 roundings on (K, K) tables
_CONSTANT = 1
Terms = tuple[Fraction, ...]
"""A bound that is affine in norms: coefficient of that of the network's input, constant, coefficients of others."""


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
        argument: Lipschitz constant of all that comes before it, if the norm of its argument is measured; else None.
    """

    gain: float
    spread: float = 0.0
    offset: float = 0.0
    shift: float = 0.0
    roundings: int = 0
    outputs: int = 0
    factor: float = 1.0
    squares: int = 0
    argument: float | None = None


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

    @property
    def layers(self) -> tuple[Step, ...]:
        """All steps, with that of the head."""
        return self.steps if self.head is None else (*self.steps, self.head.step)

    @property
    def measured(self) -> tuple[float, ...]:
        """Lipschitz constants of all arguments whose norms are measured, in order."""
        return tuple(step.argument for step in self.layers if step.argument is not None)


@dataclass(frozen=True)
class _State:
    """How large something within the network is, and how far off as it is computed."""

    magnitude: Terms
    error: Terms

    @property
    def size(self) -> Terms:
        """Norm of what is computed."""
        return _sum(self.magnitude, self.error)


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
    coefficient, constant = _tables(chain, dtype, measured=False)
    return coefficient, constant


def measured_difference_errors(chain: RoundedChain, dtype: torch.dtype) -> Tensor:
    r"""Return how far rounding can take the differences of two logits off, given the norms that are measured.

    The recursion of :func:`difference_errors`, with the norm of a measured layer's argument in place of what bounds it:
    M starts again there, as one times that norm. Errors are not measured, and go on.

    Args:
        chain: the network; nothing in it overflows, which :func:`difference_errors` makes sure of.
        dtype: the arithmetic that it is computed in.

    Returns:
        ``(2 + G, K, K)`` float64: coefficients of the input's norm, constants, and coefficients of the norms of the
        exact arguments of the G measured layers, in order.

    Example:
        >>> linear = Step(3.0, spread=3.0, roundings=4, outputs=2)
        >>> chain = RoundedChain((linear, Step(1.0, 1.0, roundings=1, argument=3.0)), None, 2, 1.0)
        >>> tables = measured_difference_errors(chain, torch.float32)
        >>> [round(float(table[0, 1]) / (2**0.5 * 2.0**-24), 4) for table in tables]
        [12.0, 0.0, 1.0]
    """
    return torch.stack(_tables(chain, dtype, measured=True))


def measured_argument_errors(chain: RoundedChain, dtype: torch.dtype) -> Tensor:
    """Return how far off the arguments of the measured layers are as they are computed.

    Args:
        chain: the network.
        dtype: the arithmetic that it is computed in.

    Returns:
        ``(G, 2)`` float64: coefficients of the input's norm, and constants.

    Raises:
        InputError: something could overflow on the way.
    """
    states = _states(chain, dtype, measured=False)
    found = [state.error for step, state in zip(chain.layers, states, strict=False) if step.argument is not None]
    return torch.tensor([list(map(_float, error)) for error in found], dtype=torch.float64).view(-1, 2)


def _tables(chain: RoundedChain, dtype: torch.dtype, *, measured: bool) -> list[Tensor]:
    states = _states(chain, dtype, measured=measured)
    if chain.head is not None:
        return _head_tables(chain.head, states[-2], torch.finfo(dtype))
    whole = [_float(part) * math.sqrt(2) * _UP for part in states[-1].error]
    return [torch.full((chain.classes, chain.classes), part, dtype=torch.float64) for part in whole]


def _states(chain: RoundedChain, dtype: torch.dtype, *, measured: bool) -> list[_State]:
    """Bounds of the argument of each layer, head included, and of the last result."""
    arithmetic = torch.finfo(dtype)
    layers = chain.layers
    length = 2 + measured * len(chain.measured)
    magnitude, error, gauges = _unit(0, length), (Fraction(0),) * length, 0
    states = []
    for step in layers:
        if measured and step.argument is not None:
            magnitude, gauges = _unit(2 + gauges, length), gauges + 1
        state = _State(magnitude, error)
        states.append(state)
        if not measured:
            _check_range(step, state.size, chain.reach, arithmetic)
        gain = Fraction(step.gain)
        magnitude = _plus_constant([gain * part for part in magnitude], Fraction(step.offset))
        error = _sum([gain * part for part in error], _own_error(step, state.size, arithmetic))
    return [*states, _State(magnitude, error)]


def _own_error(step: Step, size: Terms, arithmetic: torch.finfo) -> Terms:
    """What the roundings of one layer add, for an argument of this norm."""
    if step.roundings == 0:
        return (Fraction(0),) * len(size)
    relative, floor = _unit_errors(step, arithmetic)
    slope = relative * Fraction(step.spread) + floor
    elements = math.isqrt(step.outputs) + 1
    constant = relative * Fraction(step.shift) + floor * elements
    if step.squares:
        # A window's sum is off by at most 4 quanta a square, and its root by at most the root of that.
        root = Fraction(math.nextafter(math.sqrt(_quantum(arithmetic)), math.inf))
        constant += 2 * root * (math.isqrt(step.squares) + 1) * elements * Fraction(step.factor)
    return _plus_constant([slope * part for part in size], constant)


def _check_range(step: Step, size: Terms, reach: float, arithmetic: torch.finfo) -> None:
    """Refuse what may overflow, for a norm that is affine in that of the input."""
    if step.roundings == 0:
        return
    coefficient, constant = size
    peak = Fraction(1 + step.spread) * (coefficient * Fraction(reach) + constant)
    peak += Fraction(step.shift) + Fraction(step.factor)
    peak *= (peak if step.squares else 1) * Fraction(step.factor) * step.roundings
    if peak > Fraction(arithmetic.max) / 8:
        raise InputError(f"expected numbers that {arithmetic.dtype} can hold, got some that may overflow")


def _head_tables(head: Head, state: _State, arithmetic: torch.finfo) -> list[Tensor]:
    relative, floor = map(_float, _unit_errors(head.step, arithmetic))
    tables = []
    for place, (inherited, length) in enumerate(zip(state.error, state.size, strict=True)):
        own = (relative * head.rows + floor) * _float(length)
        if place == _CONSTANT:
            own = own + (relative * head.shifts + floor)
        tables.append((head.pairs * _float(inherited) + own[:, None] + own) * _UP)
    return tables


def _unit_errors(step: Step, arithmetic: torch.finfo) -> tuple[Fraction, Fraction]:
    """Relative error of N roundings, and absolute error of as many that underflow."""
    accumulated = step.roundings * Fraction(arithmetic.eps) / 2
    if accumulated >= Fraction(1, 2):
        raise InputError(f"expected sums of fewer terms for {arithmetic.dtype}, got {step.roundings:,}")
    return accumulated / (1 - accumulated), 4 * step.roundings * _quantum(arithmetic) * Fraction(step.factor)


def _quantum(arithmetic: torch.finfo) -> Fraction:
    """Half of the smallest positive number, the error of what underflows."""
    return Fraction(arithmetic.tiny) * Fraction(arithmetic.eps) / 2


def _sum(first: Sequence[Fraction], second: Sequence[Fraction]) -> Terms:
    return tuple(one + other for one, other in zip(first, second, strict=True))


def _unit(place: int, length: int) -> Terms:
    return tuple(Fraction(place == other) for other in range(length))


def _plus_constant(terms: Sequence[Fraction], constant: Fraction) -> Terms:
    return tuple(part + constant if place == _CONSTANT else part for place, part in enumerate(terms))


def _float(value: Fraction) -> float:
    return math.nextafter(float(value), math.inf) if value else 0.0


def box_reach(input_shape: Sequence[int]) -> float:
    """Return an upper bound of the norm of an input in [0, 1].

    Example:
        >>> box_reach((1, 2, 2)) >= 2
        True
    """
    return math.nextafter(math.sqrt(math.prod(input_shape)), math.inf)
