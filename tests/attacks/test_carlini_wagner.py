import os
import subprocess
import sys

import pytest
import torch
from linear_problem import linear_network, linear_problem

from lipcert.attacks import CarliniWagner
from lipcert.errors import InputError

QUICK = CarliniWagner(binary_search_steps=3, steps=200, stepsize=0.02)


def test_linear_distances_are_reached_and_never_undercut():
    network, images, labels, distance = linear_problem()
    outcome = QUICK(network, images.float() / 255, labels)
    assert outcome.verified.success.all()
    assert outcome.verified.confirmed.all()
    ratio = outcome.verified.distance / distance
    # the exact distances are float64 results of about 20 roundings
    assert ratio.min() >= 1 - 1e-14
    assert ratio.max() <= 1.05


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_scale_of_the_logits_does_not_matter(factor):
    network, images, labels, distance = linear_problem(samples=8)
    scaled = linear_network(network[1].weight * factor, network[1].bias * factor)
    outcome = QUICK(scaled, images.float() / 255, labels)
    assert outcome.verified.success.all()
    assert (outcome.verified.distance / distance).max() <= 1.05


def test_a_sample_is_attacked_alike_alone_and_in_company():
    network, images, labels, _ = linear_problem(samples=6)
    inputs = images.float() / 255
    attack = CarliniWagner(2, 60, 0.05)
    together = attack(network, inputs, labels).verified.distance
    alone = torch.cat([attack(network, inputs[i : i + 1], labels[i : i + 1]).verified.distance for i in range(6)])
    # sums of another length round differently, and Adam divides by their tiny spread
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=0)


def test_every_pass_is_counted():
    network, images, labels, _ = linear_problem(samples=5)
    attack = CarliniWagner(2, 7)
    outcome = attack(network, images.float() / 255, labels)
    assert outcome.forward_passes == attack.forward_budget(5) == 5 * (2 * 7 + 1)
    assert outcome.backward_passes == 5 * (2 * 7 + 3)  # one slope for each of the three other classes
    assert network[1].weight.grad is None


def test_failure_returns_the_input_and_not_a_black_image():
    # black is class 1, but within so few steps nothing leaves class 0
    network = linear_network(torch.ones(2, 4) * torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 0.1]))
    inputs, labels = torch.full((2, 1, 2, 2), 0.9), torch.tensor([0, 0])
    assert network(torch.zeros_like(inputs)).argmax(1).tolist() == [1, 1]
    outcome = CarliniWagner(1, 2)(network, inputs, labels)
    assert torch.equal(outcome.candidates, inputs)
    assert not outcome.verified.success.any()


def test_a_constant_network_cannot_be_fooled():
    network = linear_network(torch.zeros(3, 4), torch.tensor([0.0, 1.0, 0.5]))
    outcome = CarliniWagner(3, 5)(network, torch.full((2, 1, 2, 2), 0.5), torch.tensor([1, 1]))
    assert not outcome.verified.success.any()
    assert outcome.candidates.isfinite().all()


def test_settings_are_reported():
    assert CarliniWagner(6, 8000).parameters() == {
        "binary_search_steps": 6,
        "steps": 8000,
        "stepsize": 0.01,
        "initial_const": 3.0,
    }


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("binary_search_steps", 0),
        ("steps", -1),
        ("stepsize", 0.0),
        ("stepsize", float("nan")),
        ("initial_const", float("inf")),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(InputError, match=f"expected .*{setting}"):
        CarliniWagner(**{setting: value})


def test_foolbox_is_imported_silently_and_without_a_git_program():
    code = "from lipcert.attacks.carlini_wagner import import_foolbox as f; f().attacks.L2CarliniWagnerAttack"
    environment = {**os.environ, "PATH": "", "PYTHONWARNINGS": "default"}
    environment.pop("GIT_PYTHON_REFRESH", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert "Warning" not in done.stderr


def test_a_class_that_cannot_be_reached_does_not_spoil_the_search():
    # classes 0 and 2 differ by a constant: the slope of their gap is 0
    weight = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [1.0, 0, 0, 0]])
    network = linear_network(weight, torch.tensor([0.0, 0.4, -3.0]))
    outcome = QUICK(network, torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 0]))
    assert outcome.verified.success.all()
    assert outcome.verified.distance.max() <= 1.05 * 0.1


def test_a_target_is_reached_at_its_own_distance():
    network, images, labels, _ = linear_problem(samples=8)
    inputs, targets = images.float() / 255, (labels + 2) % 4
    outcome = CarliniWagner(3, 300, 0.02)(network, inputs, labels, targets=targets)
    # with three other classes to get below, the nearest point is that of a quadratic program; any one of its halfspaces
    # is a lower bound
    weight, bias = network[1].weight.double(), network[1].bias.double()
    logits = inputs.flatten(1).double() @ weight.T + bias
    gaps = logits - logits.gather(1, targets[:, None])
    normals = (weight - weight[targets][:, None]).norm(dim=2)
    least = (gaps / normals).nan_to_num(0).amax(1)
    assert outcome.verified.success.all()
    assert torch.equal(outcome.verified.prediction, targets)
    assert (outcome.verified.distance >= least * (1 - 1e-14)).all()
    assert (outcome.verified.distance / least).median() <= 1.05


def test_other_bounds_scale_the_distances():
    network, images, labels, distance = linear_problem(samples=6)
    scaled = linear_network(network[1].weight / 255, network[1].bias)
    found = QUICK(scaled, images.float(), labels, bounds=(0.0, 255.0)).verified.distance / 255
    torch.testing.assert_close(found, QUICK(network, images.float() / 255, labels).verified.distance, rtol=0.02, atol=0)
    assert (found >= distance * (1 - 1e-6)).all()
