"""Rounding errors in terms of measured norms: against real executions, and what they buy."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_float_error import GRID, NETWORKS, inputs_of_all_sizes, measured, prepared
from torch import Tensor, nn
from zoo import Forward

from lipcert import certify, export
from lipcert.certificates import execute, lipschitz_upper_bound, logit_errors, norms_upper_bound
from lipcert.certificates.execution import float64_copy
from lipcert.certificates.float_error import MeasuredErrors, centre_evaluation, errors_of_walk
from lipcert.certificates.float_walk import bounds_of
from lipcert.certificates.measured import _keep, _observed, measured_errors, measuring
from lipcert.data import FashionMNISTMini
from lipcert.networks import dense_network, shift_network

NETWORKS["dense"] = lambda: moved(dense_network(GRID, (64, 64), 5))
NETWORKS["shift"] = lambda: moved(shift_network(GRID, 5, stages=[[6, 1], [10, 1]], widths=[16]))
NETWORKS["twice"] = lambda: Forward(
    lambda self, x: self.head(self.f(self.f(x.flatten(1)).abs() + 1)), f=nn.Linear(64, 64), head=nn.Linear(64, 5)
)
MEASURED = sorted(NETWORKS)


def moved(network: nn.Module) -> nn.Module:
    """Away from the point that it was initialised at: running means and biases that are not zero."""
    with torch.no_grad():
        network.train()(torch.rand(50, *GRID))
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return export(network)


def errors_of(network: nn.Module, inputs: Tensor) -> tuple[MeasuredErrors, Tensor]:
    errors = logit_errors(network, GRID)
    copy, centre = centre_evaluation(network, inputs, errors)
    result = measured_errors(network, copy, GRID, errors, centre)
    assert result is not None
    evaluation, found = measuring(copy)
    with torch.no_grad():
        evaluation(inputs.to(centre.dtype))
    return result, result.sizes(found(), norms_upper_bound(inputs))


def covers(errors: MeasuredErrors, sizes: Tensor, network: nn.Module, inputs: Tensor) -> bool:
    bounds = errors.constant + torch.einsum("ng,gij->nij", sizes, errors.coefficients)
    return all(
        bool(((error[:, :, None] - error[:, None]).abs() <= bounds * (1 + 1e-7)).all())
        for error in measured(network, inputs)
    )


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-3])
@pytest.mark.parametrize("name", MEASURED)
def test_no_execution_is_further_off_than_the_bound(name, scale):
    network, inputs = prepared(name, scale=scale), inputs_of_all_sizes()
    assert covers(*errors_of(network, inputs), network, inputs)


@pytest.mark.parametrize("name", ["dense", "hkr", "linear-chain", "shift", "twice", "transposed", "conv-paddings"])
def test_with_sizes_as_they_may_become_the_bound_is_the_one_from_the_norm_of_the_input(name):
    """No activation is left out, none counts twice: the parts add up to the analysis that measures nothing."""
    network, sizes = prepared(name), {}
    plain = logit_errors(network, GRID)
    seen = _observed(network, lambda index, signal: _keep(sizes, index, signal, bounds_of(signal.value)[:2]))
    errors_of_walk(seen, GRID, torch.float32, finest=torch.float32)
    errors, _ = errors_of(network, inputs_of_all_sizes())
    slopes, constants = torch.tensor([(1.0, 0.0), *sizes.values()], dtype=torch.float64).unbind(1)
    torch.testing.assert_close(torch.einsum("g,gij->ij", slopes, errors.coefficients), plain.coefficient)
    constant = errors.constant + torch.einsum("g,gij->ij", constants, errors.coefficients)
    torch.testing.assert_close(constant, plain.constant)


@pytest.mark.parametrize("name", MEASURED)
def test_sizes_are_those_of_the_exact_network_and_change_no_faster_than_said(name):
    network, inputs = prepared(name), inputs_of_all_sizes()
    errors, sizes = errors_of(network, inputs)
    exact, found = measuring(float64_copy(network))
    generator = torch.Generator().manual_seed(3)
    nearby = (inputs + 0.1 * torch.randn(inputs.shape, generator=generator)).clamp(0, 1)
    with torch.no_grad():
        exact(inputs.double())
        exact(nearby.double())
    at, near = (
        torch.cat([x.double().flatten(1).norm(dim=1)[:, None], norms], 1)
        for x, norms in zip((inputs, nearby), found().chunk(2), strict=True)
    )
    assert (at <= sizes * (1 + 1e-12)).all()
    distance = (inputs.double() - nearby.double()).flatten(1).norm(dim=1)[:, None]
    assert (near <= sizes + errors.slopes * distance * (1 + 1e-12)).all()


def test_each_call_of_a_shared_layer_is_measured():
    network, inputs = prepared("twice"), inputs_of_all_sizes()
    errors, sizes = errors_of(network, inputs)
    assert errors.coefficients.shape == (4, 5, 5)
    with torch.no_grad():
        second = network.f(inputs.flatten(1)).abs() + 1
    torch.testing.assert_close(sizes[:, 2], second.norm(dim=1).double(), rtol=1e-3, atol=0)


def test_a_network_without_layers_has_nothing_to_measure():
    network = nn.Sequential(nn.Flatten(), nn.ReLU()).eval()
    assert execute(network, torch.rand(2, 1, 1, 3)).measured is None


def test_a_dense_network_keeps_most_of_its_radii():
    """By the norm of the input, biases and the centre of the pixels count as if they all pointed the same way."""
    torch.manual_seed(0)
    network = dense_network(widths=(256, 256, 256))
    images = FashionMNISTMini().split("train").inputs(torch.arange(500))
    with torch.no_grad():
        for _ in range(40):
            network.train()(images)
    network, images = export(network), images[:100]
    executed, real = execute(network, images), certify(network, images, arithmetic="real")
    assert executed.measured is not None
    bounds = torch.full((10, 10), 2.0**0.5, dtype=torch.float64)
    tight = executed.radii(bounds)[1]
    loose = dataclasses.replace(executed, measured=None, found=None).radii(bounds)[1]
    assert (tight >= loose).all()
    assert (tight <= real.radius * (1 + 1e-5)).all()
    assert (real.radius - tight).mean() < 0.6 * (real.radius - loose).mean()


@pytest.mark.parametrize(("channels", "kernel", "dtype"), [(4, 1, torch.float32), (128, 7, torch.float64)])
def test_logits_are_evaluated_in_float32_only_where_that_costs_next_to_nothing(channels, kernel, dtype):
    """Wide kernels add up so many products that float32 logits would cost more than a grey level of a radius."""
    torch.manual_seed(0)
    wide = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
    with torch.no_grad():
        wide.weight.fill_(1 / (channels * kernel**2))
    network = nn.Sequential(nn.Conv2d(1, channels, 2, 2), wide, nn.Flatten(), nn.Linear(16 * channels, 3)).eval()
    inputs = torch.rand(3, 1, 8, 8)
    found = execute(network, inputs)
    assert found.centre.dtype == dtype
    cost = (found.centre.constant + found.centre.coefficient * found.centre.reach).max()
    assert cost <= lipschitz_upper_bound(network, (1, 8, 8)).value / 255
