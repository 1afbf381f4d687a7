"""Runs a network on stand-ins and keeps one row for every operation."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.nn.utils import parametrize

from lipcert.certificates.call import Call
from lipcert.certificates.certificate import LayerBound
from lipcert.certificates.rounding import up
from lipcert.certificates.signal import BATCH, Signal, Value, signals_in
from lipcert.errors import InputError

Rule = Callable[[Call], Any]

_TRIVIAL = ("rearrangement", "translation", "product with a constant")
_LIBRARIES = ("torch.nn.", "deel.torchlip.", "orthogonium.", "lipcert.layers.")


@dataclass(frozen=True)
class Operation:
    """What a torch function means.

    Attributes:
        name: the name that it is known by.
        rule: how it is bounded.
        in_place: whether it writes to its first argument.
        of_squares: the rule for arguments that are squares, where there is one.
    """

    name: str
    rule: Rule
    in_place: bool = False
    of_squares: Rule | None = None


@dataclass(frozen=True)
class WholeLayer:
    """A module that is not run but answered for: the forward that its rule knows, and the rule."""

    forward: Callable[..., Any]
    rule: Rule


@dataclass
class _Frame:
    """A module that is running."""

    module: nn.Module
    first_row: int
    inputs: list[float]


@dataclass
class Walk:
    """Interprets the operations of a network and keeps the proof.

    Attributes:
        model: the network.
        operations: the known functions.
        layers: modules that are taken as a whole, by exact type.
        rows: the proof so far.
        refused: the first operation that could not be bounded, even if the network went on without it.
    """

    model: nn.Module
    operations: Callable[[Any], Operation | None]
    layers: Mapping[type[nn.Module], WholeLayer]
    rows: list[LayerBound] = field(default_factory=list)
    refused: InputError | None = None
    _frames: list[_Frame] = field(default_factory=list)
    _thread: int = field(default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        """Remember the path of every module."""
        self._names = {id(module): name for name, module in reversed(list(self.model.named_modules()))}

    @property
    def place(self) -> str:
        """Where the network is, for messages."""
        name = self._name()
        return f"layer {name!r}" if name else "the network's own forward"

    def _name(self) -> str:
        known = (self._names[id(frame.module)] for frame in reversed(self._frames) if id(frame.module) in self._names)
        return next(known, "")

    def record(self, name: str, gain: float, method: str) -> None:
        """Add a row to the proof."""
        module = self._frames[-1].module if self._frames else None
        kind = _layer_type(module).__name__ if module is not None and _is_layer(module) else name
        self.rows.append(LayerBound(self._name(), kind, gain, method))

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an operation on signals, by its rule."""
        operation = self.operations(func)
        name = operation.name if operation else str(getattr(func, "__name__", None) or func)
        call = Call(self, name, func, args, kwargs)
        try:
            return self._answer(call, operation)
        except InputError as error:
            if self.place not in str(error):
                error = InputError(f"{error}, in {name} of {self.place}")
            self.refused = self.refused or error
            raise error from None

    def _answer(self, call: Call, operation: Operation | None) -> Any:
        if operation is None:
            raise InputError(
                f"expected an operation with a known finite Lipschitz constant, got {call.name} in {self.place}"
            )
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            call.refuse("expected no autocast")
        if call.kwargs.pop("out", None) is not None:
            call.refuse("expected no out=")
        call.in_place = operation.in_place or bool(call.kwargs.pop("inplace", False))
        for item in (*call.args, *call.kwargs.values()):
            if isinstance(item, torch.dtype) and item not in (torch.float32, torch.float64):
                call.refuse(f"expected float32 or float64, got {item}")
        values = [call.value(signal) for signal in signals_in((call.args, call.kwargs))]
        square = next((value.squared for value in values if value.squared), "")
        if square:
            if operation.of_squares is None:
                call.refuse(f"expected squares to be summed up under a root, got {square}")
            operation = dataclasses.replace(operation, rule=operation.of_squares)
        result = self.apply(call, operation)
        return _written(call, result) if call.in_place else result

    def apply(self, call: Call, operation: Operation) -> Any:
        """Return what an operation's rule answers."""
        return operation.rule(call)

    def answer_for(self, module: nn.Module, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the output of a module that is taken as a whole."""
        name = type(module).__name__
        call = Call(self, name, lambda *_: None, (module, *args), kwargs)
        if any(call.value(signal).squared for signal in signals_in((args, kwargs))):
            call.refuse("expected squares to be summed up under a root")
        return self.apply(call, Operation(name, rule))

    def source(self, shape: Sequence[int], device: torch.device) -> Signal:
        """Return the stand-in for a batch of inputs ``(BATCH, *shape)``."""
        return Signal(Value.fresh(1.0, (BATCH, *shape)), self, torch.float32, device)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow which module runs, and let whole layers answer for themselves."""
        entered = hooks.register_module_forward_pre_hook(self._enter)
        left = hooks.register_module_forward_hook(self._leave, always_call=True)
        whole = [module for module in self.model.modules() if self._is_whole(module)]
        for module in whole:
            module.__dict__["forward"] = _whole_layer(self, module, self.layers[type(module)].rule)
        try:
            yield
        finally:
            for module in whole:
                del module.__dict__["forward"]
            entered.remove()
            left.remove()

    def _is_whole(self, module: nn.Module) -> bool:
        layer = self.layers.get(type(module))
        return layer is not None and "forward" not in module.__dict__ and type(module).forward is layer.forward

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        inputs = [signal.value.bound for signal in signals_in(args)] if _is_layer(module) else []
        self._frames.append(_Frame(module, len(self.rows), inputs))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Merge the rows of a library layer with one input and one output into one."""
        if threading.get_ident() != self._thread:
            return
        frame = self._frames.pop()
        rows = self.rows[frame.first_row :]
        if len(rows) < 2 or len(frame.inputs) != 1 or not isinstance(output, Signal) or frame.inputs[0] == 0:
            return
        ratio = output.value.bound / frame.inputs[0]
        telling = [row.method for row in rows if row.upper_bound != 1.0 or row.method not in _TRIVIAL]
        methods = dict.fromkeys(telling or [rows[-1].method])
        merged = LayerBound(rows[0].name, rows[0].kind, ratio if ratio == 1 else up(ratio), ", ".join(methods))
        self.rows[frame.first_row :] = [merged]


def _is_layer(module: nn.Module | None) -> bool:
    """Whether this is a single layer of a library, whose operations make up one row of the proof."""
    if module is None or not _layer_type(module).__module__.startswith(_LIBRARIES):
        return False
    return all(name == "parametrizations" for name, _ in module.named_children())


def _layer_type(module: nn.Module) -> type:
    return type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)


def _whole_layer(walk: Walk, module: nn.Module, rule: Rule) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return walk.answer_for(module, rule, args, kwargs)

    return forward


def _written(call: Call, result: Signal) -> Signal:
    """Let an operation replace its first argument; other views of the same memory become unusable."""
    target = call.args[0] if call.args else None
    if not isinstance(target, Signal) or target.value.shape != result.value.shape:
        call.refuse("expected an operation in place that writes to a tensor of its result's shape")
    target.write(result.value)
    return target
