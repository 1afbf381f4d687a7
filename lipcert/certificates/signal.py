"""A stand-in for a tensor that a network can compute with: it carries a Lipschitz bound in place of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from lipcert.certificates.rounding import gamma, product_up, sqrt_up
from lipcert.errors import InputError

BATCH = 2
"""Samples in a walk: two, so that an operation that mixes samples shows."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """An intermediate result of the network, flattened.

    Attributes:
        bound: sound upper bound of its L2 Lipschitz constant as a function of the network's input.
        size: number of elements of one sample.
        origin: the operation and what it was given, where a later rule can use that.
        terms: linear operations whose sum this is, none if it is not linear in anything.
        source: the value that this is a function of, and the Lipschitz constant of that function, if there is one.
    """

    bound: float
    size: int
    origin: tuple[Any, ...] = ()
    terms: tuple[Term, ...] = ()
    source: tuple[Value, float] | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """A linear operation on a value, apart from constants that it adds.

    Attributes:
        source: what it is applied to.
        apply: the operation on float64 tensors of any batch size.
        absolute: the same with the absolute values of all weights.
        roundings: how many roundings one of its results takes.
    """

    source: Value
    apply: Callable[[Tensor], Tensor]
    absolute: Callable[[Tensor], Tensor]
    roundings: int


@dataclass(frozen=True, eq=False)
class Value:
    r"""A tensor each of whose elements depends on one element of an anchor.

    For all inputs x and x', :math:`|v_e(x) - v_e(x')| \le s_e |a_{i(e)}(x) - a_{i(e)}(x')|`, hence

    .. math:: \|v(x) - v(x')\|_2 \le \max_j \Big(\sum_{e : i(e) = j} s_e^2\Big)^{1/2} \|a(x) - a(x')\|_2.

    Attributes:
        anchor: the intermediate result a.
        index: float64, 1 + position of the element i(e) in the batch of anchors, 0 for a constant; shape of the tensor.
        scale: s, one for all elements or one each.
        exact: whether every element is the anchor's element plus a constant, not a function of it.
        origin: the operation and what it was given, where a later rule can use that.
        lanes: the same tensor under other bounds, for an analysis that carries several of them.
        squared: where it was squared, if the tensor is the square of what all of this says; empty otherwise.
    """

    anchor: Anchor
    index: Tensor
    scale: Tensor | float = 1.0
    exact: bool = True
    origin: tuple[Any, ...] = ()
    lanes: tuple[Value, ...] = ()
    squared: str = ""

    @classmethod
    def fresh(
        cls,
        bound: float,
        shape: Sequence[int],
        *origin: Any,
        terms: tuple[Term, ...] = (),
        source: tuple[Value, float] | None = None,
    ) -> Value:
        """Return the value that is its own anchor."""
        count = torch.Size(shape).numel()
        index = torch.arange(1, count + 1, dtype=torch.float64).reshape(tuple(shape))
        return cls(Anchor(bound, count // BATCH, origin, terms, source), index)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor, batch first."""
        return tuple(self.index.shape)

    @cached_property
    def gain(self) -> float:
        """Upper bound of the value's Lipschitz constant as a function of the anchor."""
        positions = self.index.flatten().long()
        if isinstance(self.scale, float):
            uses = int(torch.bincount(positions)[1:].max()) if bool((positions > 0).any()) else 0
            return product_up(self.scale, sqrt_up(float(uses)))
        scale = torch.where(self.index > 0, self.scale, 0.0).flatten()
        largest = float(scale.max())
        if largest in (0.0, math.inf):
            return largest
        ratios = (scale / largest).square()
        total = float(torch.bincount(positions, weights=ratios).max())
        return product_up(largest, sqrt_up(product_up(total, 1 + 2 * gamma(positions.numel() + 8))))

    @property
    def bound(self) -> float:
        """Upper bound of the value's Lipschitz constant as a function of the network's input."""
        return product_up(self.anchor.bound, self.gain)

    @cached_property
    def is_whole(self) -> bool:
        """Whether this is the anchor itself, at most reshaped and translated."""
        count = BATCH * self.anchor.size
        return bool(
            self.exact and self.index.numel() == count and (self.index.flatten() == torch.arange(1, count + 1)).all()
        )

    @cached_property
    def keeps_samples_apart(self) -> bool:
        """Whether element [n, ...] depends on nothing but sample n."""
        if not self.shape or self.shape[0] != BATCH:
            return False
        first, second = self.index
        return bool((first <= self.anchor.size).all() and ((second > self.anchor.size) | (second == 0)).all())

    @cached_property
    def treats_samples_alike(self) -> bool:
        """Whether both samples of the batch are rearranged in the same way."""
        if not self.keeps_samples_apart:
            return False
        first, second = self.index
        return bool((second == torch.where(first > 0, first + self.anchor.size, 0.0)).all())

    @property
    def size(self) -> int:
        """Number of elements of one sample."""
        return self.index[0].numel()

    def scaled(self, factor: Tensor | float) -> Value:
        """Return the value after an elementwise function with this slope: a number, or a tensor of the same shape."""
        if isinstance(factor, float) and isinstance(self.scale, float):
            return Value(self.anchor, self.index, product_up(self.scale, factor), exact=False)
        product = torch.as_tensor(self.scale, dtype=torch.float64) * factor
        exact = torch.as_tensor(factor == 0) | torch.as_tensor(self.scale == 0)
        rounded = torch.where(exact, 0.0, product.nextafter(torch.tensor(torch.inf, dtype=torch.float64)))
        return Value(self.anchor, self.index, rounded.expand(self.shape), exact=False)

    def rearranged(self, move: Callable[[Tensor], Any]) -> Any:
        """Return the value(s) after an operation that only moves, repeats or drops elements."""
        moved = move(self.index)
        scales = self.scale if isinstance(self.scale, float) else move(self.scale.contiguous())
        if isinstance(moved, Tensor):
            return Value(self.anchor, moved, scales, self.exact)
        if isinstance(scales, float):
            return type(moved)(Value(self.anchor, part, scales, self.exact) for part in moved)
        return type(moved)(
            Value(self.anchor, part, scale, self.exact) for part, scale in zip(moved, scales, strict=True)
        )

    def expanded(self, shape: tuple[int, ...]) -> Value:
        """Return the value as an operand of a result of this shape."""
        if self.shape == shape:
            return self
        result: Value = self.rearranged(lambda index: index.expand(shape))
        is_multiple = self.origin[:1] == ("times",) and len(shape) == len(self.shape)
        return replace(result, exact=False, origin=self.origin) if is_multiple else result


@dataclass
class Memory:
    """What tensors that may share memory have in common: how often it was written to."""

    version: int = 0


class Interpreter(Protocol):
    """What a signal asks for the meaning of an operation."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an operation on signals."""


class Signal(Tensor):
    """A tensor without data: every operation on it is answered by an interpreter, and none escapes."""

    value: Value
    interpreter: Interpreter
    precision: torch.dtype
    place: torch.device
    memory: Memory
    version: int

    @staticmethod
    def __new__(  # noqa: D102
        cls,
        value: Value,
        interpreter: Interpreter,
        precision: torch.dtype,
        place: torch.device,
        memory: Memory | None = None,
    ) -> Signal:
        signal: Signal = Tensor._make_wrapper_subclass(cls, value.shape, dtype=precision, device=place)
        signal.value, signal.interpreter, signal.precision, signal.place = value, interpreter, precision, place
        signal.memory = memory or Memory()
        signal.version = signal.memory.version
        return signal

    @property
    def is_current(self) -> bool:
        """Whether nothing was written to this memory through another view since."""
        return self.version == self.memory.version

    def write(self, value: Value) -> None:
        """Replace the value, as an operation in place does."""
        self.memory.version += 1
        self.version = self.memory.version
        self.value = value

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        interpreter = next(signal.interpreter for signal in signals_in((args, kwargs or {})))
        return interpreter.call(func, tuple(args), dict(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise InputError(f"expected an operation that can be bounded, got {func}")


def signals_in(tree: Any) -> list[Signal]:
    """Return the signals among nested lists, tuples, dicts and slices."""
    if isinstance(tree, Signal):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    elif isinstance(tree, slice):
        tree = [tree.start, tree.stop, tree.step]
    return [signal for item in tree for signal in signals_in(item)] if isinstance(tree, list | tuple) else []
