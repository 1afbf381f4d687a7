"""Bounds, logits and radii of a network once more, from nothing but its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from lipcert.errors import InputError
from lipcert.verification.chain import MEASURED, Stretch, stretches
from lipcert.verification.dense import dense
from lipcert.verification.patches import linear_map

BATCH = 500
_UP = 1 + 2.0**-50


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of Lipschitz constants.

    Attributes:
        whole: of the network.
        pairs: ``(K, K)`` float64, of the differences of two logits.
        disagreement: largest difference between the dense matrices' results and the network's own, relative to the
            largest of these, on a few inputs.
        norms: by the name of a stretch with a single layer that multiplies: of it, and of its absolute values.
        before: by the name of a stretch: of all that comes before it.
    """

    whole: float
    pairs: Tensor
    disagreement: float
    norms: Mapping[str, tuple[float, float]]
    before: Mapping[str, float]


def dense_bounds(network: nn.Module, probe: Tensor) -> Bounds:
    """Bound a network by the dense matrices of its linear stretches.

    Args:
        network: plain sequential network in eval mode.
        probe: ``(N, C, H, W)``, a few inputs on which matrices and network are compared.

    Returns:
        The bounds, rounded up.

    Raises:
        InputError: a layer that is not known here, or a matrix that is too large.
    """
    bound, value = 1.0, probe.double()
    worst = 0.0
    pairs: Tensor | None = None
    norms: dict[str, tuple[float, float]] = {}
    before: dict[str, float] = {}
    for stretch in stretches(network):
        shape, last = value.shape[1:], stretch.after is None
        before[stretch.name] = bound
        following = stretch(value)
        if last and stretch.layers:
            head = dense(stretch, shape)
            pairs = head.pair_upper_bounds() * bound * _UP
        if stretch.arithmetic:
            linear = head if last else linear_map(stretch, shape)
            by_matrix = linear(value) + stretch(torch.zeros_like(value[:1])).flatten(1)
            worst = max(worst, _disagreement(by_matrix, following.flatten(1)))
            norm = linear.norm_upper_bound()
            bound *= norm * _UP
            if len(stretch.multiplying) == 1:
                norms[stretch.name] = (norm, linear.absolute_norm_upper_bound())
        bound *= stretch.constant * _UP
        value = following if last else _apply(stretch, following)
    own = float64_logits(network, probe)
    worst = max(worst, _disagreement(value, own))
    if pairs is None:
        pairs = torch.full((own.shape[1], own.shape[1]), math.sqrt(2) * bound * _UP * _UP, dtype=torch.float64)
    return Bounds(bound, pairs, worst, norms, before)


def float64_logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits ``(N, K)`` of the network with its weights in float64."""
    return logits_of(copy.deepcopy(network).double(), inputs, torch.float64)


def measured_logits(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits in float64, and how large was what the layers were applied to on the way there.

    Args:
        network: plain sequential network in eval mode.
        inputs: ``(N, C, H, W)``.

    Returns:
        ``(N, K)`` logits, and ``(N, 1 + G)`` norms of the inputs and of the arguments of the G linear and convolution
        layers, in order: upper bounds of the norms of these tensors, which are themselves rounded in float64.
    """
    copied = copy.deepcopy(network).double()
    found: list[list[Tensor]] = []

    def start(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append([_norms_upper_bound(args[0])])

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[-1].append(_norms_upper_bound(args[0]))

    copied.register_forward_pre_hook(start)
    for module in copied.modules():
        if type(module) in MEASURED:
            module.register_forward_pre_hook(see)
    logits = logits_of(copied, inputs, torch.float64)
    return logits, torch.cat([torch.stack(chunk, dim=1) for chunk in found])


def _norms_upper_bound(values: Tensor) -> Tensor:
    """Norms ``(N,)``: the sum of d squares is off by at most d roundings and their underflow, the root by half that."""
    flat = values.flatten(1)
    size = flat.shape[1]
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norms * (1 + (size + 8) * 2.0**-52) + 2.0**-500 * math.sqrt(size)


def logits_of(network: nn.Module, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the logits ``(N, K)`` of a network that computes in ``dtype``."""
    chunks = tqdm(inputs.split(BATCH), desc=f"logits in {dtype}", unit="batch", disable=None, leave=False)
    with torch.no_grad():
        return torch.cat([network(chunk.to(dtype)) for chunk in chunks])


def recomputed_radii(logits: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return predicted classes and the radii :math:`\min_j (f_y - f_j) / L_{yj}`, 0 where nothing is certified.

    Args:
        logits: ``(N, K)`` float64.
        pairs: ``(K, K)`` bounds of the logits' differences.

    Example:
        >>> recomputed_radii(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.full((2, 2), 4.0))
        (tensor([0, 0]), tensor([0.5000, 0.0000]))
    """
    top, prediction = logits.max(1)
    radii = torch.full_like(top, math.inf)
    for other in range(logits.shape[1]):
        reach = (top - logits[:, other]) / pairs[prediction, other]
        reach = torch.where(top > logits[:, other], reach, 0)
        radii = torch.where(prediction == other, radii, torch.minimum(radii, reach))
    return prediction, torch.where(logits.isfinite().all(1), radii, 0)


def _disagreement(values: Tensor, due: Tensor) -> float:
    relative = float((values - due).abs().max() / due.abs().max().clamp_min(1e-300))
    return relative if math.isfinite(relative) else math.inf


def _apply(stretch: Stretch, inputs: Tensor) -> Tensor:
    if stretch.after is None:
        raise InputError("expected a layer after the stretch")
    with torch.no_grad():
        return stretch.after(inputs)  # type: ignore[no-any-return]
