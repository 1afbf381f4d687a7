"""Largest slopes of elementwise functions: one table, a row a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lipcert.errors import InputError


@dataclass(frozen=True)
class Elementwise:
    """An elementwise function.

    Attributes:
        slope: upper bound of the absolute slope, or what computes it from the function's parameters.
        parameters: the function's parameters after its input, in order, with their defaults.
    """

    slope: float | Callable[..., float]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def upper_bound(self, arguments: Mapping[str, Any]) -> float:
        """Return the bound of the slope for these parameters."""
        return self.slope if isinstance(self.slope, float) else self.slope(**arguments)


def _elu(alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> float:
    if (scale, input_scale) != (1.0, 1.0):
        raise InputError(f"expected an ELU with scale 1, got {scale} and {input_scale}")
    return max(1.0, abs(float(alpha)))


def _celu(alpha: float) -> float:
    if not alpha > 0:
        raise InputError(f"expected a CELU with alpha > 0, got {alpha}")
    return 1.0


def _softplus(beta: float, threshold: float) -> float:
    # Beyond the threshold torch returns x itself: a jump of log(1 + exp(-threshold)) / beta, below 2.1e-9 / beta at 20.
    if not (beta > 0 and threshold >= 20):
        raise InputError(f"expected a softplus with beta > 0 and threshold >= 20, got {beta} and {threshold}")
    return 1.0


def _threshold(threshold: float, value: float) -> float:
    if threshold != value:
        raise InputError(f"expected a threshold without a jump, got threshold {threshold} and value {value}")
    return 1.0


def _shrink(lambd: float) -> float:
    if lambd < 0:
        raise InputError(f"expected lambd >= 0, got {lambd}")
    return 1.0


def _gelu(approximate: str) -> float:
    # x Phi(x) is steepest at sqrt(2), 1.128904...; its tanh form at 1.4185, 1.128993...
    return {"none": 1.12891, "tanh": 1.12900}[approximate]


def _rrelu(lower: float, upper: float, training: bool) -> float:
    if training:
        raise InputError("expected a randomised ReLU in eval mode, got train mode")
    return max(1.0, abs(lower + upper) / 2 * (1 + 1e-12))


_BOUNDS = {"min": None, "max": None}

ELEMENTWISE: dict[str, Elementwise] = {
    "relu": Elementwise(1.0),
    "relu6": Elementwise(1.0),
    "abs": Elementwise(1.0),
    "absolute": Elementwise(1.0),
    "neg": Elementwise(1.0),
    "negative": Elementwise(1.0),
    "positive": Elementwise(1.0),
    "tanh": Elementwise(1.0),
    "atan": Elementwise(1.0),
    "arctan": Elementwise(1.0),
    "asinh": Elementwise(1.0),
    "sin": Elementwise(1.0),
    "cos": Elementwise(1.0),
    "sigmoid": Elementwise(0.25),
    "logsigmoid": Elementwise(1.0),
    "softsign": Elementwise(1.0),
    "tanhshrink": Elementwise(1.0),
    "erf": Elementwise(1.12838),  # 2 / sqrt(pi) = 1.128379...
    "softshrink": Elementwise(_shrink, {"lambd": 0.5}),
    "hardsigmoid": Elementwise(0.1666667),
    "hardswish": Elementwise(1.5),  # (2 x + 3) / 6 on [-3, 3]
    "hardtanh": Elementwise(1.0, {"min_val": -1.0, "max_val": 1.0}),
    "clamp": Elementwise(1.0, _BOUNDS),
    "clip": Elementwise(1.0, _BOUNDS),
    "clamp_min": Elementwise(1.0, {"min": None}),
    "clamp_max": Elementwise(1.0, {"max": None}),
    "leaky_relu": Elementwise(lambda negative_slope: max(1.0, abs(float(negative_slope))), {"negative_slope": 0.01}),
    "rrelu": Elementwise(_rrelu, {"lower": 1.0 / 8, "upper": 1.0 / 3, "training": False}),
    "elu": Elementwise(_elu, {"alpha": 1.0}),
    "celu": Elementwise(_celu, {"alpha": 1.0}),
    "selu": Elementwise(1.7581),  # scale times alpha = 1.758099...
    "gelu": Elementwise(_gelu, {"approximate": "none"}),
    "silu": Elementwise(1.09984),  # at 2.3994: 1.099839...
    "mish": Elementwise(1.08850),
    "softplus": Elementwise(_softplus, {"beta": 1.0, "threshold": 20.0}),
    "threshold": Elementwise(_threshold, {"threshold": None, "value": None}),
}
