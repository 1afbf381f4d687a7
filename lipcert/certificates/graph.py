"""Lipschitz bounds of whole networks: the network runs once, on a stand-in that carries a bound in place of numbers."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lipcert.certificates.certificate import LipschitzBound
from lipcert.certificates.norms import each_norm_once
from lipcert.certificates.operations import operation_of
from lipcert.certificates.rules_layers import whole_layers
from lipcert.certificates.signal import Signal
from lipcert.certificates.walk import Walk
from lipcert.errors import InputError
from lipcert.parametrized import frozen_copy

WalkType = TypeVar("WalkType", bound=Walk)

_ERRORS_OF_A_FORWARD = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, AssertionError)


def lipschitz_upper_bound(model: nn.Module, input_shape: Sequence[int]) -> LipschitzBound:
    r"""Return a sound upper bound of a network's L2 Lipschitz constant, with its proof.

    .. math:: \|f(x) - f(x')\|_2 \le L \, \|x - x'\|_2 \quad \text{for all } x, x'

    The network's own ``forward`` runs once on a stand-in that carries a bound in place of numbers, so functions,
    methods, operators, hooks, shared layers and parametrisations count as they execute. The bound holds for the
    real-valued network with these very weights: parametrised ones as the next call executes them, constants that
    ``forward`` makes of them as float64 gives them. All arithmetic on bounds rounds upwards. What it assumes:
    ``forward`` is a function of its input and the weights alone, matrix products and factorisations are sums of IEEE
    float64 products in some order, and the cosine of the platform is good to a few units in the last place.

    Args:
        model: any network in eval mode that takes one batch of inputs and returns one tensor, ``(N, ...)``.
        input_shape: shape of one input, without the batch, for example ``(1, 28, 28)``.

    Returns:
        The bound, and one row an operation in execution order.

    Raises:
        InputError: train mode, weights that are not finite, or an operation without a finite known constant; the
            message names it and its layer.

    Example:
        >>> bound = lipschitz_upper_bound(nn.Sequential(nn.Flatten(), nn.ReLU()).eval(), (1, 2, 2))
        >>> bound.value, [row.kind for row in bound.layers]
        (1.0, ['Flatten', 'ReLU'])
    """
    output, walk = bounding_walk(model, input_shape)
    return LipschitzBound(output.value.bound, tuple(walk.rows))


def body_and_head(model: nn.Module, input_shape: Sequence[int]) -> tuple[LipschitzBound, Tensor | None]:
    r"""Return a bound of all but the last linear layer, and that layer's weight.

    With body g, :math:`f = W g + b`, every difference of two outputs obeys

    .. math:: |(f_i - f_j)(x) - (f_i - f_j)(x')| \le L_g \, \|w_i - w_j\|_2 \, \|x - x'\|_2.

    Args:
        model: as for :func:`lipschitz_upper_bound`.
        input_shape: shape of one input, without the batch.

    Returns:
        The body's bound, with the rows of the whole network, and the weight ``(K, D)`` in float64; the whole network's
        bound and None if its last operation is not a linear layer on ``(N, D)``.

    Raises:
        InputError: as for :func:`lipschitz_upper_bound`.

    Example:
        >>> body, weight = body_and_head(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)).eval(), (3,))
        >>> body.value, tuple(weight.shape)
        (1.0, (2, 3))
    """
    output, walk = bounding_walk(model, input_shape)
    value = output.value
    origin = value.anchor.origin
    if origin and origin[0] == "linear" and value.is_whole and len(value.shape) == 2 and len(origin[1].shape) == 2:
        return LipschitzBound(origin[1].bound, tuple(walk.rows)), origin[2]
    return LipschitzBound(value.bound, tuple(walk.rows)), None


def bounding_walk(model: nn.Module, input_shape: Sequence[int]) -> tuple[Signal, Walk]:
    """Run a network in float64, which is how its logits are evaluated; in its own type where it cannot run in that."""

    def make(network: nn.Module) -> Walk:
        return Walk(network, operation_of, {})

    try:
        return run_walk(model, input_shape, make, dtype=torch.float64)
    except InputError as error:
        if error.__cause__ is None:  # no error of the forward's own
            raise
    return run_walk(model, input_shape, make)


def run_walk(
    model: nn.Module,
    input_shape: Sequence[int],
    make: Callable[[nn.Module], WalkType],
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Signal, WalkType]:
    """Run a copy of a network, with plain weights, on a stand-in for its input.

    Args:
        model: as for :func:`lipschitz_upper_bound`.
        input_shape: shape of one input, without the batch.
        make: returns what interprets its operations.
        dtype: type that the copy is converted to, if any.

    Returns:
        The stand-in for its output, and the interpreter.

    Raises:
        InputError: as for :func:`lipschitz_upper_bound`.
    """
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise InputError(f"expected a network in eval mode, got train mode in {training[0]}")
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()):
        raise InputError("expected the network that torch.compile was given, got a compiled one")
    shape = tuple(int(size) for size in input_shape)
    if any(size < 1 for size in shape) or not shape:
        raise InputError(f"expected an input shape of positive sizes without the batch, got {shape}")
    model = frozen_copy(model)
    model = model if dtype is None else model.to(dtype)
    for settled in (False, True):  # some layers tidy up their statistics in the first call of eval mode
        before = _state(model)
        walk = make(model)
        walk.layers = {**whole_layers(), **walk.layers}
        output = _forward(model, walk, shape)
        if before == _state(model):
            return output, walk
        if settled:
            raise InputError("expected a network that does not change its own parameters or buffers in eval mode")
    raise AssertionError


def _state(model: nn.Module) -> list[tuple[int, int]]:
    tensors = (*model.parameters(), *model.buffers())
    return [(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


def _nothing_compiled() -> AbstractContextManager[object]:
    """Run compiled functions as they are written: a compiler would otherwise compile the rules as well."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _randomness() -> tuple[object, ...]:
    numbers = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(numbers)


def _forward(model: nn.Module, walk: Walk, shape: tuple[int, ...]) -> Signal:
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    source = walk.source(shape, device)
    drawn = _randomness()
    try:
        with walk.watching(), torch.no_grad(), _nothing_compiled(), each_norm_once():
            output = model(source)
    except InputError as error:
        raise walk.refused or error from None
    except _ERRORS_OF_A_FORWARD as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected a network that runs on inputs {shape}, got an error: {reason}") from error
    if walk.refused:  # the network caught the refusal and went on in another way
        raise walk.refused
    if drawn != _randomness():
        raise InputError("expected a network that draws no random numbers in eval mode")
    if not isinstance(output, Signal):
        raise InputError(f"expected a network that returns one tensor made of its input, got {type(output).__name__}")
    if not output.is_current:
        raise InputError("expected an output that was not written to through another view of its memory")
    if output.value.squared:
        raise InputError(f"expected the root of a sum of squares, got a square without a root: {output.value.squared}")
    if not output.value.keeps_samples_apart:
        raise InputError("expected a network that returns one row for each sample of a batch")
    if not math.isfinite(output.value.bound):
        raise InputError("expected a bound within float64, got a larger one")
    return output
