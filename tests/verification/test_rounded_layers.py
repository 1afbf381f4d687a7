"""Every kind of layer as it executes, and the second derivation of its rounding beside the first."""

from __future__ import annotations

import pytest
import torch
from deel import torchlip
from reference_sums import OneByOne
from torch import Tensor, nn

from lipcert import certify
from lipcert.deployment import export
from lipcert.layers import HalfAbs, HouseHolder, MaxMin, SpatialShift
from lipcert.layers.blocked import BlockedConv2d, BlockedLinear
from lipcert.layers.centering import Translation
from lipcert.networks import hkr_convnet
from lipcert.verification.certificates import TOLERANCE
from lipcert.verification.chain import MEASURED
from lipcert.verification.recompute import Bounds, dense_bounds, float64_logits, measured_logits, recomputed_radii
from lipcert.verification.rounded_layers import NONLINEAR, rounded_chain
from lipcert.verification.rounded_radii import rounded_radii
from lipcert.verification.rounding import (
    RoundedChain,
    difference_errors,
    measured_argument_errors,
    measured_difference_errors,
)

GRID = (2, 8, 8)


def normalisation() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(4)
    layer.running_mean.copy_(torch.tensor([3.0, -2.0, 0.1, 0.0]))
    layer.running_var.copy_(torch.tensor([0.2, 4.0, 1e-3, 1.0]))
    layer.weight.data = torch.tensor([-2.0, 0.5, 0.1, 1.0])
    layer.bias.data = torch.tensor([0.3, -0.5, 1.1, 0.0])
    return layer


def reflections() -> nn.Module:
    layer = HouseHolder(4)
    layer.angle.data = torch.tensor([0.3, -2.9])
    return nn.Sequential(nn.MaxPool2d(4), layer.vanilla_export())


def shifted(*, wrap: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 2, stride=2), SpatialShift(wrap=wrap), nn.Conv2d(6, 5, 1))


MIDDLES = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": lambda: nn.Hardtanh(0.25, 0.5),
    "leaky": lambda: nn.LeakyReLU(-1.7),
    "prelu": lambda: nn.PReLU(4),
    "lprelu": lambda: torchlip.LPReLU(4, k_coef_lip=0.1),
    "sort": torchlip.GroupSort2,
    "sort-groups": lambda: torchlip.GroupSort(4),
    "sort-scaled": lambda: torchlip.FullSort(k_coef_lip=0.3),
    "max-min": lambda: torchlip.MaxMin(k_coef_lip=3.1),
    "channel-halves": MaxMin,
    "half-abs": HalfAbs,
    "reflections": reflections,
    "max-pool": lambda: nn.MaxPool2d(2),
    "norm-pool": lambda: nn.LPPool2d(2, 2),
    "norm-pool-scaled": lambda: torchlip.ScaledL2NormPool2d((2, 4), k_coef_lip=1.3),
    "norm-pool-global": lambda: torchlip.ScaledAdaptativeL2NormPool2d(k_coef_lip=0.7),
    "mean-pool": lambda: nn.AvgPool2d(3, stride=2, padding=1),
    "mean-pool-scaled": lambda: torchlip.ScaledAvgPool2d((2, 2), k_coef_lip=1.1),
    "mean-pool-global": lambda: torchlip.ScaledAdaptiveAvgPool2d((1, 1), k_coef_lip=0.9),
    "adaptive": lambda: nn.AdaptiveAvgPool2d(3),
    "batch-norm": normalisation,
    "translation": lambda: Translation(torch.tensor([0.3, -20.0, 1e-3, 0.0])),
    "shift": lambda: shifted(wrap=True),
    "shift-zeros": lambda: shifted(wrap=False),
    "groups": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "circular": lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
    "transposed": lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, groups=2),
    "blocked": lambda: BlockedConv2d(4, 6, (9, 8), padding=4),
    "two-blocked": lambda: nn.Sequential(nn.Flatten(), BlockedLinear(256, 300), BlockedLinear(300, 30)),
    "two-linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 20), nn.Linear(20, 30)),
}
REFUSED_BY_THE_FIRST = ("lprelu",)


def build(name: str, *, head: bool = True) -> nn.Module:
    torch.manual_seed(0)
    if name == "notebook":
        return export(hkr_convnet(GRID, 5, channels=(4, 8), hidden=16)).requires_grad_(False)
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), MIDDLES[name](), nn.Flatten()).eval()
    with torch.no_grad():
        width = body(torch.zeros(1, *GRID)).shape[1]
    last = nn.Linear(width, 5) if head else nn.Sequential(nn.Linear(width, 5), nn.ReLU())
    return nn.Sequential(*body, last).requires_grad_(False).eval()


def inputs_of_all_sizes() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    bright = torch.rand(20, *GRID, generator=generator)
    return torch.cat([bright, bright * 1e-4, bright.round(), torch.zeros(1, *GRID), torch.ones(1, *GRID)])


def read(network: nn.Module) -> tuple[Bounds, RoundedChain]:
    bounds = dense_bounds(network, torch.rand(2, *GRID))
    return bounds, rounded_chain(network, GRID, bounds)


def test_every_kind_of_layer_is_tried():
    tried = {type(layer) for make in MIDDLES.values() for layer in make().modules()}
    assert set(NONLINEAR) <= tried


@pytest.mark.parametrize("name", ["notebook", *MIDDLES])
def test_executed_differences_of_logits_are_within_their_bound(name):
    network = build(name)
    _, chain = read(network)
    coefficient, constant = difference_errors(chain, torch.float32)
    inputs = inputs_of_all_sizes()
    due = float64_logits(network, inputs)
    _, norms = measured_logits(network, inputs)
    bound = coefficient * norms[:, :1, None] + constant
    sizes = torch.cat([norms[:, :1], torch.ones(len(inputs), 1).double(), norms[:, 1:]], dim=1)
    from_sizes = torch.einsum("nt,tij->nij", sizes, measured_difference_errors(chain, torch.float32))
    assert bool((from_sizes <= bound * (1 + 1e-9)).all())
    results = [network(inputs)]
    for seed in (None, 3):
        with OneByOne(seed):
            results.append(network(inputs))
    for result in results:
        error = result.double() - due
        assert bool(((error[:, :, None] - error[:, None]).abs() <= from_sizes).all())
        assert float(error.abs().max()) > 0


@pytest.mark.parametrize("name", ["notebook", *MIDDLES])
def test_measured_norms_move_and_are_off_by_no_more_than_their_bounds(name):
    network, inputs = build(name), inputs_of_all_sizes()
    _, chain = read(network)
    _, norms = measured_logits(network, inputs)
    executed: list[Tensor] = []
    for module in network.modules():
        if type(module) in MEASURED:
            module.register_forward_pre_hook(lambda _, args: executed.append(args[0].flatten(1).double().norm(dim=1)))
    network(inputs)
    off = measured_argument_errors(chain, torch.float32)
    errors = (torch.stack(executed, dim=1) - norms[:, 1:]).abs()
    assert bool((errors <= norms[:, :1] * off[:, 0] + off[:, 1] + 1e-12).all())
    assert float(errors[:, -1].max()) > 1e-12
    flat = inputs.flatten(1).double()
    apart = (flat[:, None] - flat).norm(dim=2)
    for steepness, found in zip(chain.measured, norms[:, 1:].unbind(1), strict=True):
        moved = (found[:, None] - found).abs()
        assert bool((moved <= steepness * apart + 1e-12).all())
        assert float((moved / apart.clamp_min(1e-9)).max()) > 0.05 * steepness


@pytest.mark.parametrize("head", [True, False], ids=["head", "no head"])
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize("name", ["notebook", *(name for name in MIDDLES if name not in REFUSED_BY_THE_FIRST)])
def test_reported_radii_stand_and_close_to_the_bound(name, arithmetic, head):
    network, inputs = build(name, head=head), inputs_of_all_sizes()
    bounds, chain = read(network)
    logits, norms = measured_logits(network, inputs)
    prediction, radii = rounded_radii(logits, bounds.pairs, chain, norms, dtype=getattr(torch, arithmetic))
    _, real = recomputed_radii(logits, bounds.pairs)
    reported = certify(network, inputs, arithmetic=arithmetic)
    certified = reported.radius > 0
    assert torch.equal(reported.prediction[certified], prediction[certified])
    assert bool((reported.radius <= radii + TOLERANCE * real).all())
    assert bool((radii <= real).all())
    if arithmetic == "float32" and head:
        assert bool((real > radii + 10 * TOLERANCE * real)[real > 0].all()), "the slack would not be missed"
