"""One operation on stand-ins: its arguments, and the ways in which a rule answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from lipcert.certificates.rounding import product_up, up
from lipcert.certificates.segment import segment_upper_bound
from lipcert.certificates.signal import Signal, Term, Value, signals_in
from lipcert.errors import InputError


class Walk(Protocol):
    """What a call needs from the run that it belongs to."""

    @property
    def place(self) -> str:
        """Where the network is, for messages."""

    def record(self, name: str, gain: float, method: str) -> None:
        """Add a row to the proof."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an operation on signals."""


@dataclass
class Call:
    """One operation on at least one signal, while a network runs.

    Attributes:
        walk: the run that it belongs to.
        name: the operation's name, for example ``"conv2d"``.
        func: the function itself.
        args: its positional arguments.
        kwargs: its keyword arguments.
        in_place: whether the result is to replace the first argument.
    """

    walk: Walk
    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_place: bool = False

    def bind(self, *required: str, **optional: Any) -> dict[str, Any]:
        """Return the arguments by name: the required ones, then the optional ones with their defaults, in order."""
        names = (*required, *optional)
        kwargs = {"input" if key == "self" else key: item for key, item in self.kwargs.items()}
        if len(self.args) > len(names) or not set(kwargs) <= set(names):
            self.refuse(f"expected no arguments but {', '.join(names)}")
        bound = {**optional, **dict(zip(names, self.args, strict=False)), **kwargs}
        if not set(required) <= set(bound):
            self.refuse(f"expected the arguments {', '.join(required)}")
        return bound

    def value(self, argument: Any) -> Value:
        """Return the value of an argument that has to be a signal."""
        if not isinstance(argument, Signal):
            self.refuse("expected its input to come from the network's input")
        if not argument.is_current:
            self.refuse("expected a tensor that was not written to through another view of its memory")
        return argument.value

    def constant(self, argument: Any) -> Tensor:
        """Return an argument that has to be a finite real constant, in float64."""
        if signals_in(argument):
            self.refuse("expected at most one factor that depends on the network's input")
        # A Python number is a float64 here, whatever the default type.
        tensor = torch.as_tensor(argument, dtype=torch.float64 if isinstance(argument, float) else None).detach()
        if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
            self.refuse(f"expected real dense constants, got {tensor.dtype} {tensor.layout}")
        exact = tensor.to("cpu", torch.float64)
        if not bool(torch.isfinite(exact).all()):
            self.refuse("expected finite numbers, got nan or infinity")
        return exact

    def constants_only(self, *arguments: Any) -> None:
        """Refuse arguments that depend on the network's input, and numbers that are not finite."""
        for argument in arguments:
            if signals_in(argument):
                self.refuse("expected parameters that do not depend on the network's input")
            if isinstance(argument, Tensor | int | float):
                self.constant(argument)

    def emit(self, value: Value, gain: float, method: str, *, alias: Signal | None = None) -> Signal:
        """Record a row and return the operation's result.

        Args:
            value: the result.
            gain: Lipschitz constant of the operation, for the row.
            method: how it was bounded, for the row.
            alias: the argument whose memory the result may share.
        """
        self.walk.record(self.name, gain, method)
        return self.signal(value, alias=alias)

    def signal(self, value: Value, *, alias: Signal | None = None) -> Signal:
        """Return a value as the operation's result."""
        source = signals_in((self.args, self.kwargs))[0]
        memory = alias.memory if alias is not None else None
        return Signal(value, self.walk, source.precision, source.place, memory)

    def fresh(
        self, source: Value, gain: float, shape: Sequence[int], method: str, *origin: Any, terms: tuple[Term, ...] = ()
    ) -> Signal:
        """Record an operation from one value to a new anchor, and return its result.

        Args:
            source: what the operation is applied to.
            gain: its Lipschitz constant.
            shape: shape of the result.
            method: how the constant was bounded, for the row.
            *origin: what later rules can use.
            terms: the operation as a sum of linear ones, if it is linear; a tighter bound of the whole linear segment
                may follow from them.
        """
        self.apart(source)
        if tuple(shape[:1]) != source.shape[:1]:
            self.refuse("expected an operation that keeps the batch as its first dimension")
        bound, alone = product_up(source.bound, gain), (source, gain)
        together = segment_upper_bound(terms, shape, bound) if terms else bound
        if together < bound:
            gain = up(together / source.bound)
            bound, method = together, "dense matrix together with the linear operations before it"
        return self.emit(Value.fresh(bound, shape, *origin, terms=terms, source=alone), gain, method)

    def apart(self, *values: Value) -> None:
        """Refuse values that mix the samples of a batch or whose first dimension is not the batch."""
        if not all(value.keeps_samples_apart for value in values):
            self.refuse("expected an operation that keeps the samples of a batch apart, along the first dimension")

    def fits(self, found: int, expected: int) -> None:
        """Refuse an input whose features or channels are not those of the weight."""
        if found != expected:
            self.refuse(f"expected {expected} features or channels, got {found}")

    def broadcast(self, *operands: Any) -> tuple[int, ...]:
        """Return the shape of an elementwise operation's result."""
        shapes = [item.value.shape if isinstance(item, Signal) else torch.as_tensor(item).shape for item in operands]
        return tuple(np.broadcast_shapes(*map(tuple, shapes)))

    def pooled(self, value: Value) -> tuple[int, ...]:
        """Return the shape that a pooling operation gives, by pooling one channel of zeros."""
        channel = torch.zeros(*value.shape[:1], 1, *value.shape[2:])
        return (*value.shape[:2], *self.replayed(channel).shape[2:])

    def replayed(self, inputs: Tensor) -> Tensor:
        """Return what the operation makes of other inputs; only for operations with a single tensor among them."""
        args = [inputs if isinstance(item, Signal) else item for item in self.args]
        kwargs = {key: inputs if isinstance(item, Signal) else item for key, item in self.kwargs.items()}
        result: Tensor = self.func(*args, **kwargs)
        return result

    def refuse(self, reason: str) -> NoReturn:
        """Say that this operation cannot be bounded."""
        raise InputError(f"{reason}, in {self.name} of {self.walk.place}")
