"""How networks execute: in which types and settings, and copies that compute the same function in another type."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipcert.certificates.float_walk import dtype_name
from lipcert.certificates.rules_layers import whole_layers
from lipcert.errors import InputError
from lipcert.parametrized import frozen_copy


def arithmetic_of(model: nn.Module) -> torch.dtype:
    """Return the floating-point type that a network computes in: float32 or float64.

    Raises:
        InputError: another type, or several.
    """
    tensors = (*model.parameters(), *model.buffers())
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {torch.float32}
    names = ", ".join(sorted(map(dtype_name, found)))
    if len(found) > 1 or not found <= {torch.float32, torch.float64}:
        raise InputError(f"expected a network of one floating-point type, float32 or float64, got {names}")
    return found.pop()


def float64_copy(model: nn.Module) -> nn.Module:
    """Return a copy that computes in float64 with the very weights that execute."""
    return frozen_copy(model).double()


def float64_linear_copy(model: nn.Module) -> nn.Module | None:
    """Return a copy whose linear layers, and what follows them, compute in float64; None without linear layers.

    A linear layer on all features adds up the most products, so its rounding takes the logits the furthest off; against
    the convolutions before it, it costs nothing. A copy that does not run is told from one that does by
    :func:`check_same_function`.
    """
    copied = frozen_copy(model)
    layers = [module for module in copied.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        layer.double().register_forward_pre_hook(_in_float64)
    return copied if layers else None


def _in_float64(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(argument.double() for argument in args)


def check_execution(model: nn.Module, inputs: Tensor) -> None:
    """Refuse settings and networks whose arithmetic is not what the error bounds are for.

    Raises:
        InputError: reduced-precision products, Winograd convolutions, flushed subnormals, inputs that the network's
            type does not hold, results in a coarser type than their arguments, or weights that forward computes.
    """
    dtype = arithmetic_of(model)
    _check_settings(model, dtype)
    if inputs.dtype.itemsize > dtype.itemsize and not torch.equal(inputs.to(dtype).to(inputs.dtype), inputs):
        raise InputError(f"expected inputs that {dtype_name(dtype)} holds exactly")
    first = inputs[:1]
    check_same_function(frozen_copy(model), first.to(dtype), float64_copy(model), first.double())


def _check_settings(model: nn.Module, dtype: torch.dtype) -> None:
    tensors = (*model.parameters(), *model.buffers())
    for name, found in _float32_products(on_cuda=any(tensor.is_cuda for tensor in tensors)).items():
        if found not in ("highest", "ieee", "none"):
            raise InputError(f'expected float32 products in full precision, got "{found}" ({name})')
    if float(torch.full((1,), 2.0**-140, dtype=torch.float32) * 0.5) == 0:
        raise InputError("expected gradual underflow, got subnormal numbers flushed to zero (torch.set_flush_denormal)")
    convolves = dtype == torch.float32 and any(tensor.ndim == 4 for tensor in tensors)
    if convolves and torch._C._get_nnpack_enabled() and not torch._C._get_mkldnn_enabled():
        raise InputError(
            "expected no Winograd convolutions, got NNPACK in place of oneDNN (torch.backends.nnpack.set_flags(False))"
        )


def _float32_products(*, on_cuda: bool) -> dict[str, str]:
    """Return what float32 products are computed in, by the name of the setting."""
    if not hasattr(torch.backends, "fp32_precision"):  # before torch 2.9
        cudnn = {"torch.backends.cudnn.allow_tf32": "tf32"} if on_cuda and torch.backends.cudnn.allow_tf32 else {}
        return {"torch.set_float32_matmul_precision": torch.get_float32_matmul_precision(), **cudnn}
    products = ("mkldnn.conv", "mkldnn.matmul", "cuda.matmul", *(("cudnn.conv",) if on_cuda else ()))
    names = [f"{product}.fp32_precision" for product in products]
    return {f"torch.backends.{name}": operator.attrgetter(name)(torch.backends) for name in names}


def check_same_function(network: nn.Module, first: Tensor, other: nn.Module, same: Tensor) -> None:
    """Refuse copies of a network that compute with different constants, by running each of them once.

    Args:
        network: the one.
        first: ``(1, C, H, W)``, an input of the type that it takes.
        other: the other.
        same: the same input in the type that the other takes.

    Raises:
        InputError: one that does not run, or goes back to a coarser type; constants that differ.
    """
    constants, others = _constants(network, first), _constants(other, same)
    if len(constants) != len(others) or not all(map(torch.equal, constants, others)):
        raise InputError(
            f"expected weights that are the same in {dtype_name(first.dtype)} and float64, got some that forward "
            "computes; export the network first"
        )


def _constants(network: nn.Module, first: Tensor) -> list[Tensor]:
    """Run a network on one input and return what it computes from its weights alone."""
    watch = _Watch(first)
    try:
        with torch.no_grad(), _reflections_apart(network, watch), watch:
            network(first)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"expected a network that runs in {dtype_name(first.dtype)}, got an error: {reason}"
        ) from error
    return watch.constants


@contextmanager
def _reflections_apart(network: nn.Module, watch: _Watch) -> Iterator[None]:
    """Let layers whose rounding is bounded as a whole compute what they like from their weights."""
    layers = whole_layers()
    apart = [module for module in network.modules() if type(module) in layers and "forward" not in vars(module)]
    for module in apart:
        module.__dict__["forward"] = functools.partial(watch.run_apart, functools.partial(type(module).forward, module))
    try:
        yield
    finally:
        for module in apart:
            del module.__dict__["forward"]


class _Watch(TorchDispatchMode):
    """Refuses results of a coarser floating-point type than what they are made of, and keeps what is constant.

    Attributes:
        constants: float64 copies of the results that do not depend on the input, in order.
    """

    def __init__(self, first: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.constants = first.dtype, []
        self._dependent = {id(first): first}  # kept alive, so that no other tensor gets the same id

    constants: list[Tensor]
    _apart = False

    def run_apart(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a layer whose own constants are none of this check's business."""
        self._apart = True
        try:
            return forward(*args, **kwargs)
        finally:
            self._apart = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken, given = _floating((args, kwargs)), _floating(result)
        if self._apart:
            self._dependent |= {id(tensor): tensor for tensor in given}
        elif any(id(tensor) in self._dependent for tensor in taken):
            arrays = [tensor.dtype.itemsize for tensor in taken if tensor.ndim > 0]  # a single number has no say
            finest = max(arrays, default=0)
            coarser = {tensor.dtype for tensor in given if tensor.dtype.itemsize < finest}
            if coarser:
                expected, found = dtype_name(self.dtype), ", ".join(map(dtype_name, coarser))
                raise InputError(f"expected a network that computes in {expected} throughout, got {found} in {func}")
            self._dependent |= {id(tensor): tensor for tensor in given}
        elif "empty" not in str(func):
            self.constants += [tensor.detach().double().clone() for tensor in given]
        return result


def _floating(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
