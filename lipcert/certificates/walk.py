"""Runs a network on signals and keeps one row for every operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lipcert.certificates.certificate import LayerBound
from lipcert.certificates.rounding import product_up
from lipcert.certificates.signal import Signal, Value, signals_in
from lipcert.errors import InputError


@dataclass
class Call:
    """One operation on at least one signal, while a network runs.

    Attributes:
        walk: the run that it belongs to.
        name: the operation's name, for example ``"conv2d"``.
        args: its positional arguments.
        kwargs: its keyword arguments.
        func: the function itself.
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
        if len(self.args) > len(names) or not set(self.kwargs) <= set(names):
            self.refuse(f"expected no arguments but {', '.join(names)}")
        bound = {**optional, **dict(zip(names, self.args, strict=False)), **self.kwargs}
        if not set(required) <= set(bound):
            self.refuse(f"expected the arguments {', '.join(required)}")
        return bound

    def value(self, argument: Any) -> Value:
        """Return the value of an argument that has to be a signal."""
        if not isinstance(argument, Signal):
            self.refuse("expected its input to come from the network's input")
        if argument.version != argument.memory.version:
            self.refuse("expected a tensor that was not written to through another view of its memory")
        return argument.value

    def constant(self, argument: Any) -> Tensor:
        """Return an argument that has to be a constant, in float64."""
        if signals_in(argument):
            self.refuse("expected at most one factor that depends on the network's input")
        return torch.as_tensor(argument).detach().to("cpu", torch.float64)

    def constants_only(self, *arguments: Any) -> None:
        """Refuse arguments that depend on the network's input."""
        for argument in arguments:
            if signals_in(argument):
                self.refuse("expected parameters that do not depend on the network's input")

    def emit(self, value: Value, gain: float, method: str, *, alias: Signal | None = None) -> Signal:
        """Record a row and return the operation's result.

        Args:
            value: the result.
            gain: Lipschitz constant of the operation, for the row.
            method: how it was bounded, for the row.
            alias: the argument whose memory the result may share.
        """
        self.walk.record(self, gain, method)
        return self.signal(value, alias=alias)

    def signal(self, value: Value, *, alias: Signal | None = None) -> Signal:
        """Return a value as the operation's result."""
        source = signals_in((self.args, self.kwargs))[0]
        return Signal(value, self.walk, source.dtype, alias.memory if alias is not None else None)

    def fresh(self, source: Value, gain: float, shape: Sequence[int], method: str, *origin: Any) -> Signal:
        """Record an operation from one value to a new anchor, and return its result."""
        if not source.keeps_samples_apart or shape[0] != source.shape[0]:
            self.refuse("expected an operation that keeps the samples of a batch apart, along the first dimension")
        return self.emit(Value.fresh(product_up(source.bound, gain), shape, *origin), gain, method)

    def meta_shape(self) -> tuple[int, ...]:
        """Return the shape that the operation gives."""
        with torch.no_grad():
            result = self.func(*_meta(self.args), **_meta(self.kwargs))
        return tuple(result.shape)

    def refuse(self, reason: str) -> NoReturn:
        """Say that this operation cannot be bounded."""
        raise InputError(f"{reason}, got {self.name} in {self.walk.place}")


Rule = Callable[[Call], Any]


@dataclass(frozen=True)
class Operation:
    """What a torch function means: the name it is known by, its rule, and whether it writes to its first argument."""

    name: str
    rule: Rule
    in_place: bool = False


@dataclass
class Walk:
    """Interprets the operations of a network and keeps the proof.

    Attributes:
        model: the network.
        operations: the known functions.
        layers: modules that are taken as a whole, by exact type.
        rows: the proof so far.
    """

    model: nn.Module
    operations: Callable[[Any], Operation | None]
    layers: Mapping[type[nn.Module], Rule]
    rows: list[LayerBound] = field(default_factory=list)
    _stack: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Remember the path of every module."""
        self._names = {id(module): name for name, module in reversed(list(self.model.named_modules()))}

    @property
    def place(self) -> str:
        """Where the network is, for messages."""
        name = self._name()
        return f"layer {name!r}" if name else "the network's own forward"

    def _name(self) -> str:
        return next((self._names[id(module)] for module in reversed(self._stack) if id(module) in self._names), "")

    def record(self, call: Call, gain: float, method: str) -> None:
        """Add a row to the proof."""
        module = self._stack[-1] if self._stack else None
        is_layer = module is not None and module is not self.model and not _has_layers(module)
        kind = type(module).__name__.removeprefix("Parametrized") if is_layer else call.name
        self.rows.append(LayerBound(self._name(), kind, gain, method))

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an operation on signals, by its rule."""
        operation = self.operations(func)
        name = operation.name if operation else getattr(func, "__name__", None) or str(func)
        call = Call(self, name, func, args, kwargs)
        if operation is None:
            call.refuse("expected an operation with a known Lipschitz constant")
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            call.refuse("expected an operation outside of autocast")
        if kwargs.pop("out", None) is not None:
            call.refuse("expected an operation without out=")
        call.in_place = operation.in_place or bool(kwargs.pop("inplace", False))
        for signal in signals_in((args, kwargs)):
            call.value(signal)
        try:
            result = operation.rule(call)
        except InputError as error:
            if self.place in str(error):
                raise
            raise InputError(f"{error}, in {name} of {self.place}") from error
        return _written(call, result) if call.in_place else result

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow which module runs, and let whole layers answer for themselves."""
        entered = nn.modules.module.register_module_forward_pre_hook(lambda module, _: self._stack.append(module))
        left = nn.modules.module.register_module_forward_hook(lambda *_: self._leave(), always_call=True)
        whole = [
            module
            for module in self.model.modules()
            if type(module) in self.layers and "forward" not in module.__dict__
        ]
        for module in whole:
            module.__dict__["forward"] = _whole_layer(self, module, self.layers[type(module)])
        try:
            yield
        finally:
            for module in whole:
                del module.__dict__["forward"]
            entered.remove()
            left.remove()

    def _leave(self) -> None:
        self._stack.pop()


def _has_layers(module: nn.Module) -> bool:
    return any(name != "parametrizations" for name, _ in module.named_children())


def _whole_layer(walk: Walk, module: nn.Module, rule: Rule) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return rule(Call(walk, type(module).__name__, lambda *_: None, (module, *args), kwargs))

    return forward


def _written(call: Call, result: Signal) -> Signal:
    """Let an operation replace its first argument; other views of the same memory become unusable."""
    target = call.args[0]
    if not isinstance(target, Signal) or target.value.shape != result.value.shape:
        call.refuse("expected an operation in place that writes to a tensor of its result's shape")
    target.memory.version += 1
    target.version = target.memory.version
    target.value = result.value
    return target


def _meta(tree: Any) -> Any:
    if isinstance(tree, Signal):
        return torch.empty(tree.value.shape, device="meta", dtype=torch.float64)
    if isinstance(tree, Tensor):
        return tree.detach().to("meta", torch.float64 if tree.is_floating_point() else tree.dtype)
    if isinstance(tree, dict):
        return {key: _meta(item) for key, item in tree.items()}
    return type(tree)(_meta(item) for item in tree) if type(tree) in (list, tuple) else tree
