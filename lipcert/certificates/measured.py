"""Rounding errors from how large activations are, which is measured, rather than from how large they may become."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lipcert.certificates.float_error import LogitErrors, MeasuredErrors, errors_of_walk
from lipcert.certificates.float_walk import bounds_of
from lipcert.certificates.graph import bounding_walk
from lipcert.certificates.rounding import gamma
from lipcert.certificates.signal import Signal, Value

See = Callable[[int, Any], Any]


def measured_errors(
    model: nn.Module, centre: nn.Module, input_shape: Sequence[int], errors: LogitErrors, centre_errors: LogitErrors
) -> MeasuredErrors | None:
    """Return the rounding errors of a network's logits in terms of norms measured by :func:`measuring`.

    None for a network without linear and convolution layers.

    Every rule of the error analysis is monotone and subadditive in the sizes of its arguments. So the analysis runs
    once for each measured activation, with the sizes of all others taken to be zero, and the results add up.

    Args:
        model: network in eval mode, as for :func:`~lipcert.certificates.float_error.logit_errors`.
        centre: the copy of it that evaluates the logits.
        input_shape: shape of one input in [0, 1], without the batch.
        errors: of the network, which passed the checks of that analysis.
        centre_errors: of the copy.

    Raises:
        InputError: as for that analysis.
    """
    slopes: dict[int, float] = {}
    bounding_walk(_observed(model, lambda index, signal: _keep(slopes, index, signal, signal.value.bound)), input_shape)
    off: dict[int, tuple[float, float]] = {}
    seen = _observed(centre, lambda index, signal: _keep(off, index, signal, bounds_of(signal.value)[2:]))
    errors_of_walk(seen, input_shape, centre_errors.dtype, finest=torch.float64)
    count = len(slopes)
    assert list(slopes) == list(off) == list(range(count))
    if count == 0:
        return None
    tables = [_errors_in_units_of(gauge, model, input_shape, errors) for gauge in range(count + 1)]
    return MeasuredErrors(
        torch.stack([constant for constant, _ in tables]).amax(0),
        torch.stack([coefficient for _, coefficient in tables]),
        torch.tensor([1.0, *slopes.values()], dtype=torch.float64),
        torch.tensor([0.0, *(bounds[0] for bounds in off.values())], dtype=torch.float64),
        torch.tensor([0.0, *(bounds[1] for bounds in off.values())], dtype=torch.float64),
    )


def _errors_in_units_of(
    gauge: int, model: nn.Module, input_shape: Sequence[int], errors: LogitErrors
) -> tuple[Tensor, Tensor]:
    def resized(index: int, signal: Signal) -> Signal:
        old = signal.value
        size = 1.0 if index + 1 == gauge else 0.0
        lanes = (Value.fresh(0.0, old.shape), *old.lanes[1:])
        value = dataclasses.replace(Value.fresh(size, old.shape), lanes=lanes)
        return Signal(value, signal.interpreter, signal.precision, signal.place)

    input_size = 1.0 if gauge == 0 else 0.0
    return errors_of_walk(
        _observed(model, resized), input_shape, errors.dtype, finest=errors.dtype, input_size=input_size
    )


def measuring(network: nn.Module) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a copy of a network that measures as it runs, and what returns the norms since then.

    Returns:
        The copy, and a function that returns upper bounds ``(N, G)`` of the norms, in float64, of what its linear and
        convolution layers were applied to, for all samples that went through.
    """
    found: dict[int, list[Tensor]] = {}

    def see(index: int, tensor: Tensor) -> Tensor:
        flat = tensor.detach().flatten(1)
        norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64).cpu() * (1 + gamma(flat.shape[1] + 8))
        found.setdefault(index, []).append(norms + 2.0**-500 * math.sqrt(flat.shape[1]))  # squares that underflow
        return tensor

    def norms() -> Tensor:
        return torch.stack([torch.cat(chunks) for chunks in found.values()], dim=1)

    return _observed(network, see), norms


def _observed(model: nn.Module, see: See) -> nn.Module:
    """Return a copy that shows what each of its linear and convolution layers is given, by the number of the call."""
    copied = copy.deepcopy(model)
    calls = 0

    def restart(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls = 0

    def observe(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal calls
        if not args:
            return None
        calls += 1
        return (see(calls - 1, args[0]), *args[1:])

    copied.register_forward_pre_hook(restart)
    for module in copied.modules():
        if isinstance(module, nn.Linear | _ConvNd):
            module.register_forward_pre_hook(observe)
    return copied


def _keep(found: dict[int, Any], index: int, signal: Signal, value: Any) -> Signal:
    found[index] = value
    return signal
