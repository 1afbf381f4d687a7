"""A plain sequential network, read as linear stretches between nonlinear layers of known constants."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn as nn
from deel import torchlip
from torch import Tensor

from lipcert.errors import InputError
from lipcert.layers import HalfAbs, MaxMin, SpatialShift
from lipcert.layers.activations import PairReflections
from lipcert.layers.blocked import BlockedConv2d, BlockedLinear
from lipcert.layers.centering import Translation

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
REARRANGING = (nn.Flatten, nn.Unflatten, nn.Identity, *DROPOUTS, SpatialShift)
CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    BlockedConv2d,
)
MATRICES = (nn.Linear, BlockedLinear)
MEASURED = (*MATRICES, *CONVOLUTIONS)
"""What these are applied to is measured, see :class:`~lipcert.verification.rounding.Step`."""
POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d)
SCALED_POOLS = (torchlip.ScaledAvgPool2d, torchlip.ScaledAdaptiveAvgPool2d)
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LINEAR = (*REARRANGING, Translation, *MATRICES, *CONVOLUTIONS, *POOLS, *SCALED_POOLS, *NORMALISATIONS)


def _coefficient(module: nn.Module) -> float:
    return abs(float(module._coefficient_lip))  # type: ignore[arg-type]


def _largest_weight(module: nn.Module) -> float:
    return max(1.0, float(module.weight.detach().abs().max()))  # type: ignore[operator]


def _disjoint_windows(module: nn.Module) -> float:
    kernel, stride = _pair(module.kernel_size), _pair(module.stride or module.kernel_size)
    euclidean = float(getattr(module, "norm_type", 2)) == 2
    apart = all(size <= step for size, step in zip(kernel, stride, strict=True))
    if not (euclidean and apart) or module.ceil_mode or _pair(getattr(module, "dilation", 1)) != (1, 1):
        raise InputError("expected windows that do not overlap or overhang, and norm 2")
    return 1.0


def _turned_back(module: nn.Module) -> float:
    """Pairs are turned by A, folded, and turned by the transpose of A, whose squared norm row sums bound."""
    turns = module.turns.detach().double().reshape(-1, 2, 2)  # type: ignore[operator]
    return float((turns @ turns.mT).abs().sum(2).max()) * (1 + 2.0**-40)


def _pair(value: object) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type, return-value]


CONSTANTS: dict[type[nn.Module], Callable[[nn.Module], float]] = {
    nn.ReLU: lambda module: 1.0,
    nn.ReLU6: lambda module: 1.0,
    nn.Hardtanh: lambda module: 1.0,
    nn.Tanh: lambda module: 1.0,
    nn.Sigmoid: lambda module: 0.25,
    nn.LeakyReLU: lambda module: max(1.0, abs(float(module.negative_slope))),  # type: ignore[arg-type]
    nn.PReLU: _largest_weight,
    torchlip.LPReLU: _largest_weight,
    torchlip.GroupSort: _coefficient,
    torchlip.GroupSort2: _coefficient,
    torchlip.FullSort: _coefficient,
    torchlip.MaxMin: _coefficient,
    MaxMin: lambda module: 1.0,
    HalfAbs: lambda module: 1.0,
    PairReflections: _turned_back,
    nn.LPPool2d: _disjoint_windows,
    nn.MaxPool2d: _disjoint_windows,
    torchlip.ScaledL2NormPool2d: lambda module: _disjoint_windows(module) * _coefficient(module),
    torchlip.ScaledAdaptativeL2NormPool2d: _coefficient,
}


@dataclass(frozen=True)
class Stretch:
    """Linear layers in a row, in float64, and the constant of the nonlinear layer after them.

    Attributes:
        name: the layers' names, for messages.
        layers: the linear layers; may be empty.
        after: the nonlinear layer that follows; None at the end of the network.
        constant: Lipschitz constant of ``after``, 1 without one.
    """

    name: str
    layers: tuple[nn.Module, ...]
    after: nn.Module | None
    constant: float

    @property
    def arithmetic(self) -> tuple[nn.Module, ...]:
        """Those of its layers that do more than move entries to other places, or lose them."""
        return tuple(layer for layer in self.layers if type(layer) not in REARRANGING)

    @property
    def multiplying(self) -> tuple[nn.Module, ...]:
        """Those of its layers that do more than that and than add constants."""
        return tuple(layer for layer in self.arithmetic if type(layer) is not Translation)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run the linear layers, biases included."""
        return _run(self.layers, inputs)

    def linear_part(self, *, absolute: bool = False) -> Callable[[Tensor], Tensor]:
        """Return the layers without their biases, with the absolute values of their weights if asked."""
        layers = tuple(_without_bias(layer, absolute=absolute) for layer in self.layers)
        return lambda inputs: _run(layers, inputs)


def stretches(network: nn.Module) -> tuple[Stretch, ...]:
    """Read a network as linear stretches and nonlinear layers.

    Args:
        network: nested ``nn.Sequential`` of known layers in eval mode, as an export leaves it.

    Returns:
        The stretches in order; only the last one has nothing after it.

    Raises:
        InputError: a layer or a structure that is not known here; the message names it.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
        >>> [(part.name, part.constant) for part in stretches(network)]
        [('0-1', 1.0), ('3', 1.0)]
    """
    if network.training:
        raise InputError("expected a network in eval mode, got train mode")
    found: list[Stretch] = []
    names: list[str] = []
    layers: list[nn.Module] = []
    for name, module in _leaves(network, ""):
        if type(module) in LINEAR:
            _check_linear(name, module)
            names.append(name)
            layers.append(copy.deepcopy(module).double())
            continue
        label = "-".join(dict.fromkeys((*names[:1], *names[-1:]))) or f"before {name}"
        found.append(Stretch(label, tuple(layers), copy.deepcopy(module).double(), _constant(name, module)))
        names, layers = [], []
    found.append(Stretch("-".join(dict.fromkeys((*names[:1], *names[-1:]))) or "end", tuple(layers), None, 1.0))
    return tuple(found)


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    hooked = any((module._forward_hooks, module._forward_pre_hooks, "forward" in vars(module)))
    if hooked:
        raise InputError(f"expected a chain of plain layers, layer {name or 'network'!r} has a hook or its own forward")
    if type(module) is nn.Sequential:
        for child_name, child in module.named_children():
            yield from _leaves(child, f"{name}.{child_name}".lstrip("."))
    else:
        yield name, module


def _constant(name: str, module: nn.Module) -> float:
    rule = CONSTANTS.get(type(module))
    if rule is None:
        raise InputError(
            f"expected a chain of layers that the re-check knows, got {type(module).__name__} at {name or 'the top'!r}"
        )
    try:
        return rule(module)
    except InputError as error:
        raise InputError(f"{error}, at {type(module).__name__} {name!r}") from error


def _check_linear(name: str, module: nn.Module) -> None:
    if type(module) in NORMALISATIONS and module.running_mean is None:
        raise InputError(f"expected running statistics in {type(module).__name__} {name!r}, found none")
    if isinstance(module, nn.Flatten) and module.start_dim != 1:
        raise InputError(f"expected Flatten {name!r} to start at dimension 1, got {module.start_dim}")


def _without_bias(layer: nn.Module, *, absolute: bool) -> nn.Module:
    copied = copy.deepcopy(layer).requires_grad_(False)
    for name, tensor in (*copied.named_parameters(recurse=False), *copied.named_buffers(recurse=False)):
        if name in ("bias", "offset", "running_mean"):
            tensor.zero_()
        elif name == "weight" and absolute:
            tensor.abs_()
    return copied


def _run(layers: tuple[nn.Module, ...], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        for layer in layers:
            inputs = layer(inputs)
    return inputs
