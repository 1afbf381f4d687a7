"""Runs a network on stand-ins that carry how large its tensors are and how far rounding takes them off."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lipcert.certificates.call import Call
from lipcert.certificates.operations import operation_of
from lipcert.certificates.rounding import gamma, product_up, sqrt_up, sum_up, unit_roundoff
from lipcert.certificates.signal import BATCH, Signal, Value, signals_in
from lipcert.certificates.walk import Operation, Rule, Walk
from lipcert.errors import InputError

Lanes = tuple[float, float, float, float]
"""Of one tensor: magnitude and computation error, each the coefficient of the input's norm, then the constant."""


class RoundingWalk(Walk):
    r"""Interprets the operations of a network as they execute in floating point.

    For every tensor v of the network, and v-hat as it is computed from the same input x,

    .. math:: \|v(x)\|_2 \le M_1 \|x\|_2 + M_0, \qquad \|\hat v(x) - v(x)\|_2 \le D_1 \|x\|_2 + D_0.

    Each of the four numbers is the bound of a value (a lane). Operations without rounding act on each lane by their
    Lipschitz rule, because that compares any two evaluations: v(x) with the tensor at zero, v-hat with v. Operations
    that round return a new anchor with their own error added. Every operation counts in the type of its tensors: a
    network may go over from float32 to float64, which is exact.

    Attributes:
        rules: how the rounding of each operation is bounded, by name.
        reach: upper bound of the norm of any input, for the overflow check.
        dtype: the type of the inputs.
        finest: the type that the network may go over to.
        input_size: how large the input is taken to be, in units of its norm: 0 where only what follows is meant.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Mapping[str, RoundingRule],
        reach: float,
        *,
        dtype: torch.dtype,
        finest: torch.dtype,
    ) -> None:
        super().__init__(model, operation_of, {})
        self.rules, self.reach, self.dtype, self.finest = rules, reach, dtype, finest
        self.input_size = 1.0

    def record(self, name: str, gain: float, method: str) -> None:
        """Keep no rows: the proof has them."""

    def source(self, shape: Sequence[int], device: torch.device) -> Signal:
        """Return the stand-in for a batch of inputs, which are exact."""
        value = _with_lanes((self.input_size, 0.0, 0.0, 0.0), (BATCH, *shape))
        return Signal(value, self, self.dtype, device)

    def apply(self, call: Call, operation: Operation) -> Any:
        """Return the result of an operation, with its rounding counted."""
        rule = self.rules.get(call.name)
        if rule is None:
            _refuse(call, "expected an operation whose rounding error has a known bound")
        return rule(Rounding(self, call, operation.rule, _dtype_of(call)))


@dataclasses.dataclass(frozen=True)
class Rounding:
    """One operation that is to be bounded as it executes.

    Attributes:
        walk: the run that it belongs to.
        call: the operation and its arguments.
        rule: its Lipschitz rule.
        dtype: the arithmetic that it computes in.
    """

    walk: RoundingWalk
    call: Call
    rule: Rule
    dtype: torch.dtype

    @property
    def unit(self) -> float:
        """Unit roundoff of the arithmetic."""
        return unit_roundoff(self.dtype)

    @property
    def tiny(self) -> float:
        """Its smallest normal number."""
        return torch.finfo(self.dtype).tiny

    @property
    def largest(self) -> float:
        """Its largest number."""
        return torch.finfo(self.dtype).max

    def copy(self, replace: Callable[[Signal], Value]) -> Call:
        """Return the call with other values in place of its signals."""

        def stand_in(signal: Signal) -> Signal:
            return Signal(replace(signal), self.walk, signal.precision, signal.place)

        args, kwargs = (_mapped(tree, stand_in) for tree in (self.call.args, self.call.kwargs))
        return dataclasses.replace(self.call, args=args, kwargs=kwargs)

    def lanes(self) -> Iterator[Any]:
        """Yield what the Lipschitz rule answers in each of the lanes after the first."""
        for lane in range(3):
            yield self.rule(self.copy(lambda signal, lane=lane: signal.value.lanes[lane]))  # type: ignore[misc]

    def alone(self, bound: Callable[[Signal], float] = lambda _: 1.0) -> Signal:
        """Return what the Lipschitz rule answers when every argument is a new result with this bound."""
        copied = self.copy(lambda signal: Value.fresh(bound(signal), signal.value.shape))
        result: Signal = self.rule(copied)
        self.call.in_place = self.call.in_place or copied.in_place
        return result

    def at_zero(self) -> float:
        """Upper bound of the norm of one sample's result where all signals are zero."""
        return float(self.result_at_zero().double().flatten(1).norm(dim=1).max()) * (1 + 2.0**-20)

    def result_at_zero(self, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Return the result ``(BATCH, ...)`` where all signals are zero, in float64."""

        def constant(item: Any) -> Any:
            if isinstance(item, Signal):
                return torch.zeros(item.value.shape, dtype=torch.float64)
            moved = item.detach().cpu()
            return change(moved.double()) if moved.is_floating_point() else moved

        args, kwargs = (_mapped(tree, constant, kinds=Tensor) for tree in (self.call.args, self.call.kwargs))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network's own run has given them
            result = self.call.func(*args, **kwargs)
        return args[0] if result is None else result  # type: ignore[no-any-return]

    def finish(self, bounds: Lanes, shape: Sequence[int], *origin: Any) -> Signal:
        """Return a new result with these bounds."""
        if not all(map(math.isfinite, bounds)):
            _refuse(self.call, "expected numbers within the range of the arithmetic")
        return self.call.signal(_with_lanes(bounds, shape, *origin))

    def refuse(self, reason: str) -> NoReturn:
        """Say that the rounding of this operation cannot be bounded."""
        _refuse(self.call, reason)

    def rounded(self, exact: Lanes, size: Lanes | tuple[float, float], roundings: int, shape: Sequence[int]) -> Lanes:
        r"""Return the lanes of a result that was rounded.

        .. math:: \|\hat v - \mathrm{op}(\hat u)\|_2 \le \gamma_N A(\hat u) + 4 N \tau (\sqrt m + A(\hat u))

        with A the operation with absolute values in place of all numbers, and :math:`\tau` the smallest normal number:
        what underflows is off by no more than that.

        Args:
            exact: what the operation makes of its arguments' lanes, without rounding.
            size: the norm of A(u-hat), coefficient and constant.
            roundings: N, the number of roundings on the longest way to an element of the result.
            shape: shape of the result.

        Raises:
            InputError: something on the way could overflow.
        """
        slope, constant = size[:2]
        self.check_range(sum_up(product_up(slope, self.walk.reach), constant))
        relative = sum_up(gamma(roundings, self.unit), product_up(4.0 * roundings, self.tiny))
        floor = product_up(4.0 * roundings, self.tiny, sqrt_up(float(math.prod(shape[1:]))))
        local = (product_up(relative, slope), sum_up(product_up(relative, constant), floor))
        return (exact[0], exact[1], sum_up(exact[2], local[0]), sum_up(exact[3], local[1]))

    def check_range(self, largest: float) -> None:
        """Refuse numbers that could overflow on the way."""
        if not largest <= self.largest / 8:
            self.refuse(f"expected numbers that {dtype_name(self.dtype)} can hold, got some that may overflow")

    def check_constants(self) -> None:
        """Refuse numbers among the arguments that the arithmetic does not hold to within a rounding."""
        if not all(value == 0 or self.tiny <= abs(value) <= self.largest for value in self.constants()):
            self.refuse("expected constants within the range of the arithmetic")

    def constants(self, *, whole: bool = False) -> list[float]:
        """Return the numbers among the arguments that the arithmetic may have to round, whole ones if so wished."""
        leaves = _leaves((self.call.args, self.call.kwargs))
        found = [float(item) for item in leaves if isinstance(item, float) or (whole and isinstance(item, int))]
        fixed = [item for item in leaves if isinstance(item, Tensor) and not isinstance(item, Signal)]
        for tensor in fixed:
            if tensor.is_floating_point() and tensor.dtype.itemsize > self.dtype.itemsize:
                found += tensor.detach().flatten().tolist()
        return found


RoundingRule = Callable[[Rounding], Any]


def bounds_of(value: Value) -> Lanes:
    """Return the four bounds of a tensor."""
    first, second, third = (lane.bound for lane in value.lanes)
    return (value.bound, first, second, third)


def computed_size(value: Value) -> tuple[float, float]:
    """Return the bound of the computed tensor's norm: coefficient of the input's norm, and constant."""
    bounds = bounds_of(value)
    return (sum_up(bounds[0], bounds[2]), sum_up(bounds[1], bounds[3]))


def with_lanes(result: Signal, lanes: Sequence[Signal]) -> None:
    """Attach the other lanes to a result in place."""
    result.value = dataclasses.replace(result.value, lanes=tuple(lane.value for lane in lanes))


def _with_lanes(bounds: Lanes, shape: Sequence[int], *origin: Any) -> Value:
    lanes = tuple(Value.fresh(bound, shape) for bound in bounds[1:])
    return dataclasses.replace(Value.fresh(bounds[0], shape, *origin), lanes=lanes)


def _refuse(call: Call, reason: str) -> NoReturn:
    raise InputError(f'{reason} (arithmetic="real" does not need it), in {call.name} of {call.walk.place}')


def _dtype_of(call: Call) -> torch.dtype:
    """Return the type of an operation's signals, which torch computes in if no array of constants is finer."""
    found = {signal.precision for signal in arguments(call)}
    dtype = min(found, key=lambda dtype: dtype.itemsize)
    constants = [
        item for item in _leaves((call.args, call.kwargs)) if isinstance(item, Tensor) and not isinstance(item, Signal)
    ]
    arrays = {constant.dtype for constant in constants if constant.ndim > 0 and constant.is_floating_point()}
    if len(found) > 1 or any(array.itemsize > dtype.itemsize for array in arrays):
        _refuse(call, "expected tensors of one floating-point type")
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """Return for example ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def _mapped(tree: Any, change: Callable[[Any], Any], kinds: type = Signal) -> Any:
    if isinstance(tree, kinds):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(item, change, kinds) for key, item in tree.items()}
    return type(tree)(_mapped(item, change, kinds) for item in tree) if type(tree) in (list, tuple) else tree


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for item in tree for leaf in _leaves(item)] if isinstance(tree, list | tuple) else [tree]


def arguments(call: Call) -> list[Signal]:
    """Return the signals among a call's arguments."""
    return signals_in((call.args, call.kwargs))
