"""Layers of other libraries, parametrised: bounded just above the truth, whatever they say of themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from deel import torchlip
from reference import dense_norm
from torch import nn
from torch.nn.utils import parametrize
from zoo_cases import Case, check_bound, check_rounding
from zoo_layers import CONV, IMAGE, ORTHOGONIUM, TORCHLIP, reparametrizers, trained

from lipcert.certificates import logit_errors, norms_upper_bound
from lipcert.certificates.execution import float64_copy
from lipcert.certificates.graph import lipschitz_upper_bound
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.parametrized import frozen_copy, keep_effective_weights

LAYERS = [*TORCHLIP, *ORTHOGONIUM]


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_a_layer_is_bounded_just_above_its_slope(case: Case) -> None:
    check_bound(case)


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_the_rounding_of_a_layer_is_covered_or_refused(case: Case) -> None:
    check_rounding(case)


CLAIMED_TO_BE_ONE = {  # and what they are
    "SOC": 1.01,
    "SOC, transposed": 1.01,
    "unit rows": 1.05,
    "Frobenius layer, neuron by neuron": 1.05,
}


@pytest.mark.parametrize("name", CLAIMED_TO_BE_ONE)
def test_a_wrong_claim_is_not_believed(name: str) -> None:
    case = next(case for case in LAYERS if case.name == name)
    network = case.network()
    bound = lipschitz_upper_bound(network, case.shape).value
    exact = dense_norm(frozen_copy(network).double(), case.shape)
    assert CLAIMED_TO_BE_ONE[name] < exact <= bound <= exact * (1 + 2e-6)


@pytest.mark.parametrize("name", ["Householder, halved", "Householder of order 2"])
def test_a_claim_that_is_too_modest_is_not_believed(name: str) -> None:
    case = next(case for case in LAYERS if case.name == name)
    assert lipschitz_upper_bound(case.network(), case.shape).value == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("name", ["Householder", "Householder, halved"])
def test_the_rounding_of_reflections_is_covered_next_to_their_hyperplanes(name: str) -> None:
    network = next(case for case in LAYERS if case.name == name).network()
    half_angle = (network.theta.detach().double() / 2).view(1, -1, 1, 1)
    along = torch.cat([half_angle.cos().expand(1, 2, 6, 6), half_angle.sin().expand(1, 2, 6, 6)], dim=1).abs()
    generator = torch.Generator().manual_seed(0)
    inputs = (along * torch.rand(500, 4, 6, 6, generator=generator).double()[:, :1]).float()
    errors = logit_errors(network, IMAGE)
    with torch.no_grad():
        error = (network(inputs).double() - float64_copy(network)(inputs.double())).flatten(1).norm(dim=1)
    bounds = errors.constant[0, 0] + errors.coefficient[0, 0] * norms_upper_bound(inputs)
    assert (error <= bounds / 2**0.5).all()
    assert error.max() > 0


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_bounding_leaves_a_layer_as_it_was(case: Case) -> None:
    network = case.network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lipschitz_upper_bound(network, case.shape)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_are_those_of_the_next_call() -> None:
    layer = trained(lambda: CONV(4, 4, 3))().eval()
    frozen = frozen_copy(layer)
    inputs = torch.rand(2, *IMAGE)
    assert torch.equal(layer(inputs), frozen(inputs))
    assert parametrize.is_parametrized(layer)
    assert not parametrize.is_parametrized(frozen)


def test_weights_that_are_still_on_their_way_are_refused() -> None:
    layer = CONV(4, 4, 3, ortho_params=reparametrizers.EXP_ORTHO_PARAMS).eval()
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(torch.randn(layer.parametrizations.weight.original.shape))
    with pytest.raises(InputError, match=r"settled.*export"):
        lipschitz_upper_bound(layer, IMAGE)
    assert lipschitz_upper_bound(export(layer), IMAGE).value > 0.5


@pytest.mark.parametrize("name", ["AOC with a stride", "AOC, transposed, with a stride", "SOC with a stride"])
def test_a_weight_that_is_a_property_is_kept(name: str) -> None:
    network = next(case for case in ORTHOGONIUM if case.name == name).network()
    plain, inputs = copy.deepcopy(network), torch.rand(2, *IMAGE)
    keep_effective_weights(plain)
    assert type(plain) in (nn.Conv2d, nn.ConvTranspose2d)
    assert {name for name, _ in plain.named_parameters()} == {"weight", "bias"}
    with torch.no_grad():
        assert torch.equal(network(inputs), plain(inputs))


class Growing(nn.Module):
    """A parametrisation that adds to itself in every call."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return weight * self.calls


def test_a_weight_that_grows_is_refused() -> None:
    layer = nn.Linear(6, 3)
    parametrize.register_parametrization(layer, "weight", Growing())
    with pytest.raises(InputError, match="settled"):
        lipschitz_upper_bound(layer.eval(), (6,))


def test_every_layer_of_torchlip_is_in_the_zoo() -> None:
    known = {type(module) for case in TORCHLIP for module in case.network().modules()}
    bases = {parent for kind in known for parent in kind.__mro__}
    offered = {item for item in vars(torchlip).values() if isinstance(item, type) and issubclass(item, nn.Module)}
    assert {item.__name__ for item in offered - bases if "Loss" not in item.__name__} == set()
