import pytest
import torch
from linear_problem import linear_problem

from lipcert.attacks import SquareAttack
from lipcert.attacks.square import _hills, _side
from lipcert.errors import InputError


def two_classes():
    network, images, labels, distance = linear_problem(samples=6, classes=2)
    weight = network[1].weight.detach().double()
    normal = weight[0] - weight[1]
    distances = {"l2": distance, "linf": distance * normal.norm() / normal.abs().sum()}
    return network, images.float() / 255, labels, distances


def successes(network, inputs, labels, norm, budgets):
    attack = SquareAttack(queries=400)
    outcomes = [
        attack(network, inputs[i : i + 1], labels[i : i + 1], norm=norm, epsilon=budget)
        for i, budget in enumerate(budgets)
    ]
    found = torch.cat([outcome.verified.distance for outcome in outcomes])
    return found, torch.cat([outcome.verified.success for outcome in outcomes])


@pytest.mark.parametrize(("norm", "enough"), [("l2", 1.5), ("linf", 1.2)])
def test_a_linear_network_falls_within_the_budget_and_never_below_the_exact_distance(norm, enough):
    network, inputs, labels, distances = two_classes()
    budgets = (enough * distances[norm]).tolist()
    found, success = successes(network, inputs, labels, norm, budgets)
    assert success.all()
    assert (found >= distances[norm] * (1 - 1e-14)).all()
    assert all(distance <= budget for distance, budget in zip(found.tolist(), budgets, strict=True))
    _, success = successes(network, inputs, labels, norm, (0.99 * distances[norm]).tolist())
    assert not success.any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_sample_that_fell_asks_no_more(norm):
    network, inputs, labels, _ = two_classes()
    outcome = SquareAttack(queries=1000)(network, inputs, labels, norm=norm, epsilon=20.0)
    assert outcome.verified.success.all()
    assert outcome.forward_passes <= 6 * 100


def test_a_misclassified_input_costs_one_question():
    network, inputs, labels, _ = two_classes()
    outcome = SquareAttack()(network, inputs, 1 - labels, epsilon=0.1)
    assert torch.equal(outcome.candidates, inputs)
    assert outcome.forward_passes == 6


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 5, 9), (1, 2, 14, 3), (1, 1, 1, 7)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_images_of_any_shape_can_be_attacked(shape, norm):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3)).eval()
    inputs = torch.rand(shape)
    outcome = SquareAttack(queries=30)(network, inputs, network(inputs).argmax(1), norm=norm, epsilon=0.5)
    assert outcome.candidates.shape == shape
    assert outcome.candidates.isfinite().all()


def test_what_is_no_image_is_refused():
    network = torch.nn.Linear(5, 2).eval()
    with pytest.raises(InputError, match=r"expected images \(N, C, H, W\)"):
        SquareAttack()(network, torch.rand(2, 5), torch.tensor([0, 0]), epsilon=0.5)


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_hills_have_unit_length_and_two_directions(side):
    lying, upright = _hills(side, torch.tensor([0.1, 0.9]))[:, 0]
    assert torch.equal(upright, lying.T)
    assert lying.square().sum().item() == pytest.approx(1, abs=1e-6)
    if side > 1:
        assert (lying[: side // 2] > 0).all()
        assert (lying[side // 2 :] < 0).all()


def test_squares_shrink_from_the_given_area_to_a_pixel():
    sides = [_side(0.8, progress / 100, (1, 3, 28, 28)) for progress in range(100)]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == 25  # sqrt(0.8) of 28
    assert sides[-1] == 1
