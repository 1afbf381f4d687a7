"""Audits of the architectures of this package are re-checked from end to end."""

import dataclasses
from pathlib import Path

import pytest
import torch
from audited_run import edit_rows, make_run, wrong
from torch import nn

from lipcert import certify, export, load_network, verify_report
from lipcert.data import FashionMNISTMini
from lipcert.layers import HalfAbs, SpatialShift
from lipcert.networks import dense_network, shift_network
from lipcert.verification.certificates import TOLERANCE
from lipcert.verification.recompute import dense_bounds, measured_logits, recomputed_radii
from lipcert.verification.rounded_layers import rounded_chain
from lipcert.verification.rounded_radii import rounded_radii
from lipcert.verification.rounding import difference_errors

NOTEBOOK = Path(__file__).parents[2] / "experiments/results/fashion_mnist/hkr.safetensors"
SHIFT = {"stages": ((6, 1), (8, 1)), "widths": (12,)}


def moved(network: nn.Module) -> nn.Module:
    """Offsets and running means that are not zero."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 1:
            nn.init.uniform_(tensor, -0.1, 0.1)
    return network


def small_dense() -> nn.Module:
    return moved(dense_network(widths=(16, 12)))


def deep_dense() -> nn.Module:
    return moved(dense_network(widths=(24,) * 6))


def small_shift() -> nn.Module:
    return moved(shift_network(**SHIFT))


def pooled_shift() -> nn.Module:
    return moved(shift_network(**SHIFT, downsampling="pool", neck="norm", head="normalized", activation="half-abs"))


def zero_filled() -> nn.Module:
    layers = [nn.Conv2d(1, 6, 4, stride=4), HalfAbs(), SpatialShift(wrap=False), nn.Conv2d(6, 6, 1), HalfAbs()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(294, 10))


@pytest.mark.parametrize("build", [small_dense, deep_dense, small_shift, pooled_shift, zero_filled])
def test_every_finding_stands_and_a_larger_radius_is_noticed(tmp_path, build):
    run = tmp_path / "run"
    make_run(run, build)
    findings = {finding.name: finding for finding in verify_report(run / "audit")}
    assert all(finding.stands for finding in findings.values()), findings
    assert "float32 takes" in findings["rounding"].text
    assert float(findings["radii"].text.split("at most ")[1].split()[0]) > 0.9
    edit_rows(run, lambda rows: [row.update(radius=repr(1.001 * float(row["radius"]))) for row in rows])
    assert "radii" in wrong(run)


@pytest.mark.parametrize("build", [small_dense, deep_dense])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_radii_without_their_allowance_for_rounding_are_found(tmp_path, build, share):
    def forgetful(model, inputs):
        found = certify(model, inputs)
        return dataclasses.replace(found, radius=found.radius + share * found.rounding_slack)

    make_run(tmp_path / "run", build, forgetful)
    found = wrong(tmp_path / "run")
    assert list(found) == ["radii"]
    assert "and 997 more" in found["radii"]


@pytest.mark.slow  # its dense matrices take half a minute
def test_the_notebook_network_and_its_radii_without_their_allowance():
    network, inputs = load_network(NOTEBOOK), FashionMNISTMini().split("test").inputs()[:100]
    bounds = dense_bounds(network, inputs[:8])
    chain = rounded_chain(network, inputs.shape[1:], bounds)
    logits, norms = measured_logits(network, inputs)
    _, real = recomputed_radii(logits, bounds.pairs)
    _, radii = rounded_radii(logits, bounds.pairs, chain, norms, dtype=torch.float32)
    reported = certify(network, inputs)
    limits = radii + TOLERANCE * real
    assert bool((reported.radius <= limits).all())
    assert bool((reported.radius + reported.rounding_slack > limits).all())


def test_a_far_translation_costs_the_digits_that_it_takes():
    constants = []
    for offset in (0.0, 1000.0):
        network = dense_network((1, 2, 2), (4,), 3)
        network[1].running_mean.fill_(offset)
        plain = export(network)
        chain = rounded_chain(plain, (1, 2, 2), dense_bounds(plain, torch.rand(2, 1, 2, 2)))
        constants.append(float(difference_errors(chain, torch.float32)[1].max()))
    assert constants[1] > 1000 * 2.0**-24 > constants[0]
