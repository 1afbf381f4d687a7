"""Radii against the class that is computed: ties, huge biases, neighbouring floats, overflow."""

from __future__ import annotations

import math

import pytest
import torch
from reference_sums import OneByOne
from torch import Tensor, nn
from zoo import Forward

from lipcert import Certificate, InputError, certify
from lipcert.attacks.verify import distance_upper_bound
from lipcert.certificates import class_pair_upper_bounds, float64_logits, float_error, margin_radius
from lipcert.certificates import executed as execution_of_inputs
from lipcert.certificates.float_error import LogitErrors
from lipcert.certificates.margin import ASSUMPTIONS
from lipcert.data import FashionMNISTMini
from lipcert.deployment import export
from lipcert.networks import hkr_convnet

PIXELS = 100


def linear_classifier(bias: float = 0.0, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2)).requires_grad_(False).eval()
    network[1].bias.data.fill_(bias)
    return network


def near_the_boundary(network: nn.Module, count: int, gap: float) -> Tensor:
    """Inputs in the box at about this distance from the hyperplane on which both classes draw level."""
    weight = network[1].weight.double()
    normal = (weight[0] - weight[1]) / (weight[0] - weight[1]).norm()
    inputs = 0.3 + 0.4 * torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(1)).double()
    shift = float(network[1].bias[0].double() - network[1].bias[1].double()) / (weight[0] - weight[1]).norm()
    inputs -= (inputs @ normal + shift - gap)[:, None] * normal
    assert ((inputs > 0) & (inputs < 1)).all()
    return inputs.float().view(count, 1, 10, 10)


def neighbours(network: nn.Module, inputs: Tensor, certificate: Certificate, trials: int = 300) -> int:
    """Count inputs for which a float32 point strictly within the radius is computed to be of another class."""
    weight = network[1].weight.double()
    normal = ((weight[1] - weight[0]) / (weight[0] - weight[1]).norm()).view(1, 10, 10)
    generator = torch.Generator().manual_seed(2)
    found = 0
    claims = zip(inputs, certificate.radius.tolist(), certificate.prediction.tolist(), strict=True)
    for one, size, label in claims:
        sign = 1 if label == 0 else -1
        tried = one.double() + sign * size * (1 - 1e-9) * normal
        noise = torch.randint(-2, 3, (trials, *one.shape), generator=generator) * 2.0**-25
        candidates = (tried + noise).float()
        inside = distance_upper_bound(one.expand_as(candidates), candidates) < size
        for point in candidates[inside]:
            if int(network(point[None]).argmax()) != label:
                found += 1
                break
    return found


ATTACKED = {"no-bias": (0.0, 0.01), "bias-1e6": (1e6, -0.05), "bias-5e6": (5e6, -0.2)}


@pytest.mark.parametrize("name", ATTACKED)
def test_neighbouring_floats_refute_real_radii_and_none_of_float32(name):
    bias, gap = ATTACKED[name]
    network = linear_classifier(bias)
    inputs = near_the_boundary(network, 20, gap)
    real, executed = (certify(network, inputs, arithmetic=kind) for kind in ("real", "float32"))
    assert (real.radius > 0).all()
    assert neighbours(network, inputs, real) > 0
    assert neighbours(network, inputs, executed) == 0
    if bias == 0:
        assert (executed.radius > 0).all()


def test_without_the_error_terms_the_attack_succeeds(monkeypatch):
    """The search above is not vacuous: it finds the planted mistake."""
    network = linear_classifier()
    inputs = near_the_boundary(network, 20, 0.01)
    forgotten = LogitErrors(torch.zeros(2, 2).double(), torch.zeros(2, 2).double(), torch.float32, 10.0)
    for module in (execution_of_inputs, float_error):
        monkeypatch.setattr(module, "logit_errors", lambda *_, **__: forgotten)
    assert neighbours(network, inputs, certify(network, inputs)) > 0


def test_weights_that_forward_computes_in_the_lower_precision_are_refused():
    network = Forward(lambda self, x: nn.functional.linear(x, self.f.weight / 3), f=nn.Linear(4, 2)).eval()
    with pytest.raises(InputError, match="same in float32 and float64"):
        certify(network, torch.rand(1, 4))
    parametrised = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 2))).eval()
    assert certify(parametrised, torch.rand(1, 4)).arithmetic == "float32"


def test_the_prediction_is_the_computed_class():
    """In float64 class 1 leads by 2^-30; in float32 both biases are equal and class 0 is the first of two."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval().requires_grad_(False)
    network[1].weight.data, network[1].bias.data = torch.tensor([[0.0], [2.0**-30]]), torch.tensor([1.0, 1.0])
    inputs = torch.ones(1, 1)
    assert certify(network, inputs, arithmetic="real").prediction.item() == 1
    executed = certify(network, inputs)
    assert (executed.prediction.item(), executed.radius.item()) == (0, 0.0)
    assert network(inputs).argmax().item() == 0


@pytest.mark.parametrize("bias", [1e30, -1e30])
def test_margins_below_the_rounding_of_huge_biases_certify_nothing(bias):
    network = linear_classifier(bias)
    inputs = torch.rand(5, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    assert certify(network, inputs).radius.tolist() == [0.0] * 5


def test_weights_that_may_overflow_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 4), nn.Linear(4, 3)).requires_grad_(False).eval()
    for parameter in network.parameters():
        parameter.fill_(1e25)
    with pytest.raises(InputError, match=r"may overflow.*layer '2'"):
        certify(network, torch.rand(2, 1, 10, 10))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(InputError, match="float32 or float64, got"):
        certify(linear_classifier().to(dtype), torch.rand(2, 1, 10, 10))


def test_a_float64_network_is_certified_as_float64():
    network, inputs = linear_classifier().double(), torch.rand(4, 1, 10, 10)
    default, named = certify(network, inputs), certify(network, inputs, arithmetic="float64")
    assert default.arithmetic == named.arithmetic == "float64"
    assert torch.equal(default.radius, named.radius)
    assert default.assumptions == ASSUMPTIONS["float64"]


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (linear_classifier(), torch.full((1, 1, 10, 10), 0.1, dtype=torch.float64), "float32 holds exactly"),
        (Forward(lambda self, x: x.flatten(1).float()).eval(), torch.rand(1, 4), "float64 throughout, got float32"),
        (nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()).eval(), torch.rand(1, 4), "sigmoid of layer '1'"),
    ],
    ids=["inputs", "conversion", "sigmoid"],
)
def test_what_float32_cannot_say_is_refused(network, inputs, message):
    with pytest.raises(InputError, match=message):
        certify(network, inputs)


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(InputError, match="expected an arithmetic among float32, float64, real, got 'exact'"):
        certify(linear_classifier(), torch.rand(1, 1, 10, 10), arithmetic="exact")


def test_reduced_precision_products_are_refused():
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(InputError, match="full precision"):
            certify(linear_classifier(), torch.rand(1, 1, 10, 10))
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """The notebook network after 60 steps on the embedded images, with its margins near those of full training."""
    images = FashionMNISTMini().split("train")
    inputs, labels = images.inputs(), images.labels
    torch.manual_seed(0)
    network = hkr_convnet(tuple(inputs.shape[1:]), 10, channels=(4, 8), hidden=16)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        chosen = torch.randint(len(inputs), (64,))
        logits = network(inputs[chosen])
        true = logits.gather(1, labels[chosen][:, None])
        excess = (2.0 + logits - true).relu()
        optimizer.zero_grad()
        excess.mean().backward()
        optimizer.step()
    return export(network).requires_grad_(False), inputs[:300], labels[:300]


@pytest.mark.parametrize(("arithmetic", "share"), [("float32", 0.98), ("float64", 0.9999)])
def test_counting_the_rounding_costs_little(trained, arithmetic, share):
    network, inputs, labels = trained
    real, executed = (certify(network, inputs, arithmetic=kind) for kind in ("real", arithmetic))
    right = real.prediction == labels
    assert right.float().mean() > 0.5
    assert (executed.radius <= real.radius).all()
    assert (executed.radius * right).sum() >= share * (real.radius * right).sum()
    assert (executed.rounding_slack > 0).all()
    # up to the rounding of the logits at hand, which the slack is taken from
    torch.testing.assert_close(executed.radius + executed.rounding_slack, real.radius, rtol=1e-4, atol=0)


def test_computed_classes_within_the_radius_in_any_order_of_sums(trained):
    network, inputs, _ = trained
    certificate = certify(network, inputs[:40])
    generator = torch.Generator().manual_seed(4)
    direction = torch.randn(inputs[:40].shape, generator=generator)
    length = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    moved = (inputs[:40] + direction / length * certificate.radius.view(-1, 1, 1, 1) * 0.999).clamp(0, 1).float()
    certified = certificate.radius > 0
    for points in (inputs[:40], moved):
        for mode in (OneByOne(), OneByOne(3)):
            with mode:
                computed = network(points).argmax(1)
            assert torch.equal(computed[certified], certificate.prediction[certified])


def test_a_constant_network_is_certified_everywhere_only_above_its_rounding():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval().requires_grad_(False)
    network[1].weight.zero_()
    for gap, expected in ((1.0, math.inf), (2.0**-24, 0.0)):
        network[1].bias.data = torch.tensor([1.0 + gap, 1.0]).float()
        network[1].bias.data[0] = 1.0 + 2.0**-23 if gap < 1 else 2.0
        assert certify(network, torch.rand(1, 4)).radius.item() == expected


def test_real_radii_are_the_plain_rule():
    network, inputs = linear_classifier(), torch.rand(5, 1, 10, 10)
    bounds, _ = class_pair_upper_bounds(network, (1, 10, 10))
    _, radius = margin_radius(float64_logits(network, inputs), bounds)
    certificate = certify(network, inputs, arithmetic="real")
    assert torch.equal(certificate.radius, radius)
    assert certificate.rounding_slack.tolist() == [0.0] * 5
