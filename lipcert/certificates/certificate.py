"""The records that certification returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerBound:
    """One row of a Lipschitz proof.

    Attributes:
        name: path of the layer in the network, for example ``"7"`` or ``"body.conv1"``.
        kind: what it is, for example ``"Conv2d"``.
        upper_bound: sound upper bound of its L2 Lipschitz constant.
        method: how the bound was obtained, in a few words.
    """

    name: str
    kind: str
    upper_bound: float
    method: str


@dataclass(frozen=True, slots=True)
class LipschitzBound:
    """Sound upper bound of a network's L2 Lipschitz constant, with its proof: one row a layer, in execution order."""

    value: float
    layers: tuple[LayerBound, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proved about a batch of N inputs.

    Within ``radius[i]`` (in ``norm``, strictly inside the ball) of input ``i`` the network's class stays
    ``prediction[i]``, under the stated ``assumptions``. A radius of 0 certifies nothing. Certificates of votes hold on
    the boundary as well: see ``grid``.

    Attributes:
        prediction: ``(N,)`` int64, predicted classes.
        radius: ``(N,)`` float64, certified radii in the units of the inputs handed in ([0,1] pixels); against patches,
            the side of the largest square in which the input may change, in pixels.
        norm: ``"l2"``, ``"l1"`` or ``"patch"``.
        rule: which margin rule gave the radii: ``"joint"``, ``"per-class"``, ``"pairwise"`` or ``"best"``; of votes,
            ``"enumeration"`` over the places of a patch, or ``"splitting"`` noise.
        lipschitz_upper_bound: sound bound of the whole network's L2 constant; infinite where a vote needs none.
        layers: the proof of that bound, one row a layer.
        arithmetic: ``"float32"`` or ``"float64"``: the radii hold for the classes that the network computes in that
            type; ``"real"``: for the real-valued network with these very weights.
        assumptions: what has to hold beside the mathematics, one sentence each.
        rounding_slack: ``(N,)`` float64, what counting the rounding takes off each radius; None if that is not known.
        grid: distances and radii are whole multiples of 1 / grid, and the radius itself is withstood: 1 for sides of
            patches, 255 for sums of grey levels. None: distances are of any size; less than the radius is withstood.
    """

    prediction: Tensor
    radius: Tensor
    norm: str
    rule: str
    lipschitz_upper_bound: float
    layers: tuple[LayerBound, ...]
    arithmetic: str
    assumptions: tuple[str, ...]
    rounding_slack: Tensor | None = None
    grid: int | None = None
