"""Modules that are taken as a whole: piecewise isometries, whose pieces fit together."""

from __future__ import annotations

import math
import sys
from typing import Any

from deel import torchlip
from torch import nn

from lipcert.certificates.call import Call
from lipcert.certificates.rounding import up
from lipcert.certificates.rules_linear import other_dims
from lipcert.certificates.signal import Signal
from lipcert.certificates.walk import WholeLayer

_ORTHOGONIUM = "orthogonium.layers.custom_activations"
_ROOT_HALF = up(1 / math.sqrt(2))


def householder(call: Call) -> Signal:
    """A reflection on one side of a hyperplane, nothing on the other, equal on the hyperplane itself."""
    given = call.bind("module", "z", axis=1)
    return _reflections(call, given["z"], given["module"].theta, given["axis"], 1.0)


def _half_householder(call: Call) -> Signal:
    """The same, divided by the root of 2."""
    given = call.bind("module", "z")
    module = given["module"]
    return _reflections(call, given["z"], module.theta, module.axis, _ROOT_HALF)


def _half_householder_of_order_2(call: Call) -> Signal:
    """Rotations and reflections of four sectors of the plane, equal where they meet, divided by the root of 2."""
    given = call.bind("module", "z")
    module = given["module"]
    call.constants_only(module.theta1, module.theta2)
    theta = module.theta0.view(1, -1, 1, 1)
    return _reflections(call, given["z"], theta, module.axis, _ROOT_HALF)


def _reflections(call: Call, argument: Any, theta: Any, axis: int, gain: float) -> Signal:
    """An isometry, piece by piece, of each pair from the two halves of the channels."""
    value = call.value(argument)
    call.constants_only(theta)
    other_dims(call, axis, len(value.shape))
    halves = list(value.shape)
    halves[axis], odd = divmod(halves[axis], 2)
    angles = (1, -1, *[1] * (len(halves) - 2)) if theta.ndim == 1 else tuple(theta.shape)
    if odd or call.broadcast(theta.detach().reshape(angles), theta.new_zeros(halves)) != tuple(halves):
        call.refuse(f"expected an angle a pair of channels, got {theta.numel()} for {value.shape[axis]} channels")
    return call.fresh(value, gain, value.shape, "reflection")


def whole_layers() -> dict[type[nn.Module], WholeLayer]:
    """Return the modules that are taken as a whole, by exact type; every other one is run.

    orthogonium's are among them if the process has imported it, as it must have to build one.
    """
    layers = {torchlip.HouseHolder: WholeLayer(torchlip.HouseHolder.forward, householder)}
    activations = sys.modules.get(_ORTHOGONIUM)
    rules = {"HouseHolder": _half_householder, "HouseHolder_Order_2": _half_householder_of_order_2}
    for name, rule in rules.items() if activations else ():
        layer = getattr(activations, name)
        layers[layer] = WholeLayer(layer.forward, rule)
    return layers
