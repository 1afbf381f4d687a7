"""What each kind of layer rounds: one table for linear layers, one for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
from deel import torchlip
from torch import Tensor

from lipcert.errors import InputError
from lipcert.layers import HalfAbs, MaxMin
from lipcert.layers.activations import PairReflections
from lipcert.layers.blocked import BlockedConv2d, BlockedLinear
from lipcert.layers.centering import Translation
from lipcert.verification.chain import (
    CONVOLUTIONS,
    MATRICES,
    MEASURED,
    NORMALISATIONS,
    POOLS,
    SCALED_POOLS,
    Stretch,
    stretches,
)
from lipcert.verification.dense import dense
from lipcert.verification.patches import linear_map
from lipcert.verification.recompute import Bounds
from lipcert.verification.rounding import Head, RoundedChain, Step, box_reach

LONGEST_PLAIN_SUM = 256
BLOCKS_OF_A_SUM = 8
"""How layers that sum in blocks do it."""

_UP = 1 + 2.0**-40  # the few float64 roundings of norms and coefficients


def rounded_chain(network: nn.Module, input_shape: Sequence[int], bounds: Bounds) -> RoundedChain:
    """Read a network as steps that round.

    Args:
        network: plain sequential network in eval mode.
        input_shape: shape of one input, without the batch.
        bounds: of the network's stretches; norms of single layers that are not among them are bounded here, from
            their dense matrices.

    Returns:
        The steps, and the head if the last layer that computes is linear.

    Raises:
        InputError: a layer whose rounding has no bound here; the message names it.
    """
    value = torch.zeros(1, *input_shape, dtype=torch.float64)
    steps: list[Step] = []
    head: Head | None = None
    for stretch in stretches(network):
        last = stretch.arithmetic[-1] if stretch.arithmetic and stretch.after is None else None
        before = bounds.before[stretch.name]
        for layer in stretch.layers:
            result = _result(layer, value)
            argument = before if type(layer) in MEASURED else None
            if layer is last:
                head = _head(stretch, layer, value, argument)
            elif layer in stretch.arithmetic:
                known = bounds.norms.get(stretch.name) if stretch.multiplying == (layer,) else None
                steps.append(_linear_step(layer, value, known or _norms(stretch, layer, value), argument))
                before *= steps[-1].gain * _UP
            value = result
        if stretch.after is not None:
            result = _result(stretch.after, value)
            steps.append(_nonlinear_step(stretch, value, result))
            value = result
    return RoundedChain(tuple(steps), head, value.numel(), box_reach(input_shape))


def _result(layer: nn.Module, value: Tensor) -> Tensor:
    """The layer's result at zero, whose shape is that of any."""
    with torch.no_grad():
        return layer(torch.zeros_like(value))  # type: ignore[no-any-return]


def _single(stretch: Stretch, layer: nn.Module) -> Stretch:
    return Stretch(f"{stretch.name} ({type(layer).__name__})", (layer,), None, 1.0)


def _norms(stretch: Stretch, layer: nn.Module, value: Tensor) -> tuple[float, float]:
    """Norms of a layer and of its absolute values."""
    if type(layer) is Translation:
        return 1.0, 1.0
    if type(layer) in NORMALISATIONS:
        gain = float(_scales(layer).abs().max()) * _UP
        return gain, gain
    linear = linear_map(_single(stretch, layer), value.shape[1:])
    return linear.norm_upper_bound(), linear.absolute_norm_upper_bound()


def _linear_step(layer: nn.Module, value: Tensor, norms: tuple[float, float], argument: float | None) -> Step:
    added, at_zero = _added(layer, value), _result(layer, value)
    roundings, factor = _counted(layer, value)
    return Step(
        gain=norms[0],
        spread=norms[1],
        offset=float(at_zero.norm()) * _UP,
        shift=float(added.norm()) * _UP,
        roundings=roundings,
        outputs=at_zero.numel(),
        factor=factor,
        argument=argument,
    )


def _head(stretch: Stretch, layer: nn.Module, value: Tensor, argument: float | None) -> Head:
    linear = dense(_single(stretch, layer), value.shape[1:])
    norms = linear.norm_upper_bound(), linear.absolute_norm_upper_bound()
    shifts = _added(layer, value).flatten() * _UP
    step = _linear_step(layer, value, norms, argument)
    return Head(step, linear.pair_upper_bounds(), linear.column_upper_bounds(), shifts)


def _added(layer: Any, value: Tensor) -> Tensor:
    """The absolute values of all that a linear layer adds to an element."""
    if type(layer) not in NORMALISATIONS:
        return _result(layer, value).abs()
    mean = layer.running_mean.abs()
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().abs()
    spread: Tensor = _scales(layer).abs() * mean + bias
    return spread.view(-1, *(1 for _ in value.shape[2:])).expand(value.shape)


def _scales(layer: Any) -> Tensor:
    """What a normalisation multiplies each channel by."""
    deviation: Tensor = (layer.running_var + layer.eps).sqrt()
    return deviation.reciprocal() if layer.weight is None else layer.weight.detach().div(deviation)


def _counted(layer: Any, value: Tensor) -> tuple[int, float]:
    """How many roundings lie on the way to an element, and the largest factor after one of them."""
    kind = type(layer)
    if kind is Translation:
        return 1, 1.0
    if kind in MATRICES:
        return _summed(kind, layer.in_features, 1) + (layer.bias is not None), 1.0
    if kind in CONVOLUTIONS:
        channels, taps = layer.in_channels // layer.groups, math.prod(layer.kernel_size)
        in_blocks = layer.groups == 1 and layer.padding_mode == "zeros"
        return _summed(kind if in_blocks else nn.Conv2d, channels, taps) + (layer.bias is not None), 1.0
    if kind in NORMALISATIONS:
        # However it is arranged: epsilon, its sum, a root, a reciprocal, two products, two sums are eight.
        numbers = [(layer.running_var + layer.eps).rsqrt(), *layer.parameters(), layer.running_mean]
        return 12, max(1.0, *(float(number.abs().max()) for number in numbers)) * _UP
    if kind not in (*POOLS, *SCALED_POOLS):
        raise InputError(f"expected a layer whose rounding has a bound here, got {kind.__name__}")
    # Sum and mean of a window; the coefficient of a scaled one is rounded before it multiplies.
    kernel = getattr(layer, "kernel_size", tuple(value.shape[2:]))
    terms = math.prod(kernel) if isinstance(kernel, tuple) else int(kernel) ** (value.ndim - 2)
    scaled = kind in SCALED_POOLS
    return terms + 2 + 2 * scaled, max(1.0, abs(float(layer._coefficient_lip)) * terms) if scaled else 1.0


def _summed(kind: type[nn.Module], channels: int, taps: int) -> int:
    """How often a product is rounded until it is part of the sum: its own block's products, then the other blocks."""
    if kind not in (BlockedLinear, BlockedConv2d) or channels * taps <= LONGEST_PLAIN_SUM:
        return channels * taps
    longest = math.ceil(channels / BLOCKS_OF_A_SUM)
    return longest * taps + math.ceil(channels / longest) - 1


def _nonlinear_step(stretch: Stretch, value: Tensor, result: Tensor) -> Step:
    layer = stretch.after
    rule = NONLINEAR.get(type(layer))
    if rule is None:
        raise InputError(f"expected layers whose rounding has a bound here, got {type(layer).__name__}")
    return rule(layer, stretch.constant, value, result)


def _exact(layer: Any, constant: float, value: Tensor, result: Tensor) -> Step:
    """Elements of the argument, their absolute values, or zeros."""
    return Step(constant)


def _clamped(layer: Any, constant: float, value: Tensor, result: Tensor) -> Step:
    limits = torch.tensor([layer.min_val, layer.max_val], dtype=torch.float64)
    if not torch.equal(limits.float().double(), limits):
        raise InputError(f"expected limits that float32 holds exactly, got {limits.tolist()}")
    return Step(constant, offset=float(result.norm()) * _UP)


def _sloped(layer: Any, constant: float, value: Tensor, result: Tensor) -> Step:
    """A slope that is rounded, or clamped to a number that is, and one product."""
    slopes = layer.weight if hasattr(layer, "weight") else torch.tensor(layer.negative_slope, dtype=torch.float64)
    slope = float(slopes.detach().abs().max())
    return Step(constant, slope, roundings=3, outputs=value.numel(), factor=max(1.0, slope))


def _scaled(layer: Any, constant: float, value: Tensor, result: Tensor) -> Step:
    """Elements of the argument times a coefficient."""
    if constant == 1:
        return Step(constant)
    return Step(constant, constant, roundings=2, outputs=result.numel(), factor=max(1.0, constant))


def _reflected(layer: Any, constant: float, value: Tensor, result: Tensor) -> Step:
    """Two products and their sum on the way there, and as many on the way back."""
    turns = layer.turns.detach().abs().reshape(-1, 2, 2)
    spread = float((turns @ turns.mT).sum(2).max()) * _UP
    return Step(constant, spread, roundings=4, outputs=result.numel(), factor=max(1.0, float(turns.max())))


def _norm_pool(layer: Any, constant: float, value: Tensor, result: Tensor) -> Step:
    """Squares, their mean, a product, a root, and a coefficient."""
    window = getattr(layer, "kernel_size", tuple(value.shape[2:]))
    squares = math.prod(window) if isinstance(window, tuple) else int(window) ** 2
    return Step(
        constant,
        constant,
        roundings=squares + 5 + 2 * (constant != 1),
        outputs=result.numel(),
        factor=max(1.0, constant),
        squares=squares,
    )


NONLINEAR: dict[type, Callable[[Any, float, Tensor, Tensor], Step]] = {
    nn.ReLU: _exact,
    nn.MaxPool2d: _exact,
    nn.ReLU6: _clamped,
    nn.Hardtanh: _clamped,
    nn.LeakyReLU: _sloped,
    nn.PReLU: _sloped,
    torchlip.LPReLU: _sloped,
    torchlip.GroupSort: _scaled,
    torchlip.GroupSort2: _scaled,
    torchlip.FullSort: _scaled,
    torchlip.MaxMin: _scaled,
    MaxMin: _exact,
    HalfAbs: _exact,
    PairReflections: _reflected,
    nn.LPPool2d: _norm_pool,
    torchlip.ScaledL2NormPool2d: _norm_pool,
    torchlip.ScaledAdaptativeL2NormPool2d: _norm_pool,
}
"""What is not in the table has no bound here: its evaluation is no short sequence of rounded operations."""
