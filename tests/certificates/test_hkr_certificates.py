"""Certificates of the trained notebook network on the embedded images, and logits that turn float64 on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zoo import Forward

from lipcert import Certificate, certify, load_network
from lipcert.certificates import (
    class_pair_upper_bounds,
    float64_logits,
    float_walk,
    logit_errors,
    margin_radius,
    norms_upper_bound,
    rounded_margin_radius,
)
from lipcert.certificates.execution import float64_copy
from lipcert.certificates.float_error import LogitErrors, MeasuredErrors, centre_evaluation
from lipcert.certificates.measured import measured_errors, measuring
from lipcert.data import FashionMNISTMini

NETWORK = Path(__file__).parents[2] / "experiments" / "results" / "fashion_mnist" / "hkr.safetensors"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return load_network(NETWORK)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    split = FashionMNISTMini().split("test")
    return split.inputs(), split.labels


@pytest.fixture(scope="module")
def certificates(network, images) -> dict[str, Certificate]:
    return {
        arithmetic: certify(network, images[0], arithmetic=arithmetic) for arithmetic in ("real", "float32", "float64")
    }


def average_certified_radius(certificate: Certificate, labels: Tensor) -> float:
    return float((certificate.radius * (certificate.prediction == labels)).mean())


def test_pairwise_radii_are_on_average_at_least_1_6_times_half_the_margin(network, images, certificates):
    inputs, labels = images
    logits = float64_logits(network, inputs)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    half_margins = float(((first - second) / 2 * (logits.argmax(1) == labels)).mean())
    assert average_certified_radius(certificates["real"], labels) >= 1.6 * half_margins
    assert average_certified_radius(certificates["float32"], labels) >= 1.6 * half_margins


@pytest.mark.parametrize(("arithmetic", "share"), [("float32", 0.98), ("float64", 0.9999)])
def test_counting_the_rounding_costs_the_trained_network_little(images, certificates, arithmetic, share):
    executed, real = (average_certified_radius(certificates[name], images[1]) for name in (arithmetic, "real"))
    assert share * real <= executed <= real
    assert (certificates[arithmetic].radius <= certificates["real"].radius).all()


def test_the_trained_network_goes_over_to_float64_at_its_first_linear_layer(network, images):
    evaluation, errors = centre_evaluation(network, images[0], logit_errors(network, (1, 28, 28)))
    seen = []
    for layer in evaluation:
        layer.register_forward_hook(lambda layer, args, output: seen.append(output.dtype))
    evaluation(images[0][:2])
    assert errors.dtype == torch.float32
    assert seen == [torch.float32] * 7 + [torch.float64] * 3


def classifier(bias: float) -> nn.Module:
    """A small convolutional network whose biases, of this size, cancel out before the logits."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 8), nn.ReLU())
    network = nn.Sequential(*body, nn.Linear(8, 3)).requires_grad_(False).eval()
    network[0].weight *= 1e4
    network[0].bias[:] = bias
    network[3].weight -= network[3].weight.mean(1, keepdim=True)
    return network


def exact_centres(network: nn.Module, inputs: Tensor) -> tuple[Tensor, MeasuredErrors, Tensor]:
    """Radii for the float32 network from an evaluation that is as good as exact, without an error at the centre."""
    shape = inputs.shape[1:]
    bounds, _ = class_pair_upper_bounds(network, shape)
    errors, copy = logit_errors(network, shape), float64_copy(network)
    none = LogitErrors(0 * errors.constant, 0 * errors.coefficient, torch.float64, errors.reach)
    measured = measured_errors(network, copy, shape, errors, none)
    measured = replace(measured, error_coefficients=0 * measured.slopes, error_constants=0 * measured.slopes)
    evaluation, found = measuring(copy)
    logits = evaluation(inputs.double())
    options = {"centre": none, "measured": measured, "found": found()}
    return rounded_margin_radius(logits, bounds, errors, norms_upper_bound(inputs), **options)[1], measured, found()


@pytest.mark.parametrize("bias", [0.0, 1e4, 1e6])
def test_float32_convolutions_at_the_centre_never_give_larger_radii_than_exact_ones(bias):
    network = classifier(bias)
    inputs = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    radius, exact = certify(network, inputs).radius, exact_centres(network, inputs)[0]
    assert (radius > 0).float().mean() > 0.1
    assert (radius <= exact).all()


def test_the_trained_network_has_no_larger_radii_than_exact_logits_give(network, images, certificates):
    assert (certificates["float32"].radius <= exact_centres(network, images[0])[0]).all()


@pytest.mark.parametrize("bias", [0.0, 1e4, 1e6])
def test_trusting_float32_convolutions_as_if_they_were_float64_is_caught(monkeypatch, bias):
    network = classifier(bias)
    inputs = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (exact, measured, found), errors = exact_centres(network, inputs), logit_errors(network, (1, 8, 8))
    bounds, _ = class_pair_upper_bounds(network, (1, 8, 8))
    monkeypatch.setattr(float_walk, "unit_roundoff", lambda dtype: 2.0**-53)
    evaluation, mistaken = centre_evaluation(network, inputs, errors)
    logits = evaluation(inputs)
    assert logits.dtype == torch.float64
    options = {"centre": mistaken, "measured": measured, "found": found}
    _, radius = rounded_margin_radius(logits, bounds, errors, norms_upper_bound(inputs), **options)
    assert (radius > exact).any()


def thirds() -> nn.Module:
    """Weights that forward computes: 5 / 3 is rounded down in float32, so that its map is a little less steep."""
    network = Forward(lambda self, x: nn.functional.linear(x.flatten(1), self.head.weight / 3), head=nn.Linear(2, 2))
    network.head.weight.data = torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    return network.requires_grad_(False).eval()


def test_real_radii_are_of_the_very_weights_that_are_evaluated():
    network, inputs = thirds(), torch.tensor([[[[0.5, 0.25]]]])
    weight = network.head.weight.double() / 3
    distance = (inputs.flatten(1).double() @ weight.T)[:, 0] / weight[0].norm()
    certified = certify(network, inputs, arithmetic="real").radius
    assert (certified <= distance).all()
    assert (certified >= distance * (1 - 1e-6)).all()
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).requires_grad_(False).eval()
    frozen[1].weight.copy_(network.head.weight / 3)  # the mistake: to bound the weights as float32 rounds them
    bounds, _ = class_pair_upper_bounds(frozen, (1, 1, 2))
    assert (margin_radius(float64_logits(network, inputs), bounds)[1] > distance).all()
