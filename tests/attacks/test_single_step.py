import math

import pytest
import torch
from linear_problem import linear_network

from lipcert.attacks import DecoupledDirection, FastGradient, FastMinimumNorm, ProjectedGradient
from lipcert.attacks.single_step import STEPS
from lipcert.errors import InputError

# the margin of class 0 over class 1 has the gradient (3, -4, 0, 0); class 2 is far off
NETWORK = linear_network(torch.tensor([[3.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 0, 0]]), torch.tensor([0.0, 0, -9.0]))
INPUTS, LABELS = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
EPSILON = 0.1


@pytest.mark.parametrize(
    ("step", "norm", "change"),
    [
        ("sign", "linf", [-0.1, 0.1, 0, 0]),
        ("l2", "l2", [-0.06, 0.08, 0, 0]),
        ("max", "linf", [-0.075, 0.1, 0, 0]),
        ("plain", "l2", [-0.06, 0.08, 0, 0]),  # the gradient is longer than 1: brought back to the budget
        ("sign", "l2", [-0.1 / 2**0.5, 0.1 / 2**0.5, 0, 0]),
        ("max", "l1", [-0.0375, 0.0625, 0, 0]),  # the nearest point of the L1 ball
    ],
)
def test_the_step_is_what_its_name_says(step, norm, change):
    outcome = FastGradient(step)(NETWORK, INPUTS, LABELS, norm=norm, epsilon=EPSILON)
    torch.testing.assert_close(outcome.candidates - INPUTS, torch.tensor(change).view(1, 1, 2, 2), rtol=0, atol=2e-6)
    assert (outcome.forward_passes, outcome.backward_passes) == (1, 1)


def test_a_plain_step_is_as_long_as_the_gradient_makes_it():
    weak = linear_network(NETWORK[1].weight / 100, NETWORK[1].bias)
    outcome = FastGradient("plain")(weak, INPUTS, LABELS, epsilon=EPSILON)
    expected = torch.tensor([-0.003, 0.004, 0, 0]).view(1, 1, 2, 2)
    torch.testing.assert_close(outcome.candidates - INPUTS, expected, rtol=0, atol=2e-6)


def test_the_cross_entropy_looks_at_all_classes():
    network = linear_network(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]), torch.zeros(3))
    inputs = torch.tensor([0.5, 0.25, 0.25, 0.5]).view(1, 1, 2, 2)
    outcome = FastGradient("max", "cross-entropy")(network, inputs, LABELS, norm="linf", epsilon=0.1)
    # minus the gradient of log softmax_0: with shares p the change is -(1 - p_0), p_1, p_2
    torch.testing.assert_close(
        outcome.candidates - inputs, torch.tensor([-0.1, 0.05, 0.05, 0]).view(1, 1, 2, 2), rtol=0, atol=2e-6
    )


def test_a_target_is_stepped_towards():
    network = linear_network(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]), torch.zeros(3))
    inputs = torch.tensor([0.75, 0.5, 0.25, 0.5]).view(1, 1, 2, 2)
    outcome = FastGradient("l2")(network, inputs, LABELS, targets=torch.tensor([2]), epsilon=0.1)
    expected = torch.tensor([-1.0, 0, 1, 0]).view(1, 1, 2, 2) * 0.1 / math.sqrt(2)
    torch.testing.assert_close(outcome.candidates - inputs, expected, rtol=0, atol=2e-6)


def test_an_l1_step_moves_the_pixels_that_have_room():
    inputs = torch.tensor([0.0, 0.5, 0.5, 0.5]).view(1, 1, 2, 2)
    weight = torch.tensor([[9.0, 3.0, -2.0, 0.0], [0, 0, 0, 0]])  # the steepest pixel is black and has to fall
    attack = ProjectedGradient(1, 1.0, sparsity=0.25)
    outcome = attack(linear_network(weight, torch.tensor([0.5, 0])), inputs, LABELS, norm="l1", epsilon=0.4)
    expected = torch.tensor([0.0, 0.1, 0.5, 0.5]).view(1, 1, 2, 2)
    torch.testing.assert_close(outcome.candidates, expected, rtol=0, atol=2e-6)
    assert outcome.verified.success.item()


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (FastGradient, {"step": "linf"}),
        (FastGradient, {"loss": "hinge"}),
        (ProjectedGradient, {"steps": 0}),
        (ProjectedGradient, {"restarts": -1}),
        (ProjectedGradient, {"step_size": 0.0}),
        (ProjectedGradient, {"step_size": math.inf}),
        (ProjectedGradient, {"sparsity": 0.0}),
        (ProjectedGradient, {"sparsity": 1.5}),
        (ProjectedGradient, {"loss": "hinge"}),
    ],
)
def test_settings_out_of_range_are_refused(attack, settings):
    with pytest.raises(InputError, match=f"expected .*{next(iter(settings))}"):
        attack(**settings)


def test_settings_are_reported():
    assert FastGradient().parameters() == {"step": "sign", "loss": "margin"}
    assert all(FastGradient(step).parameters()["step"] == step for step in STEPS)
    assert FastGradient().forward_budget(7) == 7


@pytest.mark.parametrize(
    "attack",
    [FastGradient(loss="distance"), DecoupledDirection(5), DecoupledDirection(5, loss="margin"), FastMinimumNorm(5)],
    ids=lambda attack: f"{attack.name}-{attack.parameters().get('loss')}",
)
def test_every_pass_is_announced(attack):
    outcome = attack(NETWORK, INPUTS.expand(3, -1, -1, -1), LABELS.expand(3), epsilon=0.1)
    assert outcome.forward_passes == attack.forward_budget(3)
