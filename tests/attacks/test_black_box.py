"""What all attacks without gradients have to keep to."""

import dataclasses

import pytest
import torch
from linear_problem import linear_network, linear_problem
from torch import nn

from lipcert.attacks import BoundaryAttack, HopSkipJump, SquareAttack, Task
from lipcert.errors import InputError

CASES = [
    pytest.param(HopSkipJump(queries=240, initial_probes=20), {}, id="hop-skip-jump-l2"),
    pytest.param(HopSkipJump(queries=240, initial_probes=20), {"norm": "linf"}, id="hop-skip-jump-linf"),
    pytest.param(BoundaryAttack(queries=240), {}, id="boundary-l2"),
    pytest.param(SquareAttack(queries=120), {"epsilon": 0.5}, id="square-l2"),
    pytest.param(SquareAttack(queries=120), {"norm": "linf", "epsilon": 0.12}, id="square-linf"),
]
each = pytest.mark.parametrize(("attack", "arguments"), CASES)

SEEN = []  # images that Recorded networks were given; a copy of a network writes here too


class Recorded(nn.Module):
    """A network that writes down how many images it is given."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        SEEN.append(len(inputs))
        return self.network(inputs)


def problem(samples=6, dtype=torch.float32):
    network, images, labels, _ = linear_problem(samples=samples)
    return network.to(dtype), images.to(dtype) / 255, labels


@each
def test_the_seed_and_nothing_else_decides(attack, arguments):
    network, inputs, labels = problem()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = attack(network, inputs, labels, seed=3, **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(attack(network, inputs, labels, seed=3, **arguments).candidates, one.candidates)
    assert not torch.equal(attack(network, inputs, labels, seed=4, **arguments).candidates, one.candidates)


@each
def test_a_sample_is_attacked_alike_alone_and_in_company(attack, arguments):
    # in float64, so that logits do not round to another decision in a batch of another size
    network, inputs, labels = problem(dtype=torch.float64)
    together = attack(network, inputs, labels, **arguments).candidates
    order = [4, 0, 3]
    some = attack(network, inputs[order], labels[order], **arguments).candidates
    torch.testing.assert_close(some, together[order], rtol=1e-9, atol=1e-9)


@each
def test_queries_are_what_the_network_saw_and_no_more_than_allowed(attack, arguments):
    network, inputs, labels = problem()
    outcome = attack(network, inputs, labels, **arguments)
    SEEN.clear()
    attack.run(Recorded(network).eval(), Task(inputs, labels, **arguments))
    assert outcome.forward_passes == sum(SEEN)
    assert outcome.forward_passes <= attack.forward_budget(6) == 6 * attack.queries
    assert outcome.backward_passes == 0


@each
@pytest.mark.parametrize("queries", [1, 2, 20, 41])
def test_even_small_numbers_of_queries_are_kept(attack, arguments, queries):
    network, inputs, labels = problem()
    frugal = dataclasses.replace(attack, queries=queries)
    start = torch.zeros_like(inputs)
    assert frugal(network, inputs, labels, start=start, **arguments).forward_passes <= 6 * queries


@each
def test_targets_are_reached(attack, arguments):
    network, inputs, labels = problem()
    targets = (labels + 1) % 4
    epsilon = {} if "epsilon" not in arguments else {"epsilon": 6 * arguments["epsilon"]}
    outcome = attack(network, inputs, labels, targets=targets, **{**arguments, **epsilon})
    assert outcome.verified.success.all()
    assert torch.equal(outcome.verified.prediction, targets)


@each
def test_other_bounds_are_respected(attack, arguments):
    network, inputs, labels = problem()
    low, high = -1.0, 3.0
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    stretched = linear_network(weight / 4, bias + weight.sum(1) / 4)
    units = {name: 4 * value if name == "epsilon" else value for name, value in arguments.items()}
    outcome = attack(stretched, low + 4 * inputs, labels, bounds=(low, high), **units)
    assert outcome.verified.success.all()
    assert outcome.candidates.min() >= low
    assert outcome.candidates.max() <= high


@each
def test_candidates_of_images_near_the_edge_are_images(attack, arguments):
    network, _, _ = problem()
    inputs = torch.full((2, 1, 4, 4), 0.999)
    epsilon = {} if "epsilon" not in arguments else {"epsilon": 3.0}
    outcome = attack(network, inputs, network(inputs).argmax(1), **{**arguments, **epsilon})
    assert outcome.verified.success.all()
    assert outcome.candidates.max() <= 1


class Nan(nn.Module):
    def forward(self, inputs):
        return torch.full((len(inputs), 3), torch.nan)


class Fickle(nn.Module):
    """Another class at every call."""

    calls = 0

    def forward(self, inputs):
        Fickle.calls += 1
        return torch.eye(3)[Fickle.calls % 3].expand(len(inputs), 3)


@each
@pytest.mark.parametrize("network", [Nan(), linear_network(torch.zeros(3, 16), torch.tensor([0.0, 1.0, 0.0]))])
def test_a_network_that_never_answers_otherwise_gives_the_inputs_back(attack, arguments, network):
    inputs, labels = torch.rand(3, 1, 4, 4), torch.tensor([1, 1, 1])
    outcome = attack(network.eval(), inputs, labels, **arguments)
    assert torch.equal(outcome.candidates, inputs)


@each
def test_a_network_that_changes_its_mind_does_not_hold_the_search_up(attack, arguments):
    outcome = attack(Fickle().eval(), torch.rand(3, 1, 4, 4), torch.tensor([1, 0, 2]), **arguments)
    assert outcome.forward_passes <= 3 * attack.queries
    assert outcome.candidates.isfinite().all()


@each
def test_one_hopeless_sample_does_not_stop_the_others(attack, arguments):
    network, inputs, labels = problem()
    with torch.no_grad():
        weight = torch.cat([network[1].weight, torch.zeros(1, 16)])
        bias = torch.cat([network[1].bias, torch.tensor([-1000.0])])
    network = linear_network(weight, bias)  # its fifth class is never given
    targets = (labels + 1) % 4
    targets[2] = 4
    epsilon = {} if "epsilon" not in arguments else {"epsilon": 6 * arguments["epsilon"]}
    outcome = attack(network, inputs, labels, targets=targets, **{**arguments, **epsilon})
    assert outcome.verified.success.tolist() == [True, True, False, True, True, True]
    assert torch.equal(outcome.candidates[2], inputs[2])


def pattern_problem():
    """A network with a small adversarial region, far from everything that is made up: a chequered image."""
    pattern = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]).repeat(2).view(1, 1, 4, 4)
    signs = 2 * pattern.flatten() - 1
    network = linear_network(torch.stack([0 * signs, signs]), torch.tensor([0.0, -6.5]))
    return network, torch.full((1, 1, 4, 4), 0.5), torch.tensor([0]), pattern


@pytest.mark.parametrize("attack", [HopSkipJump(queries=400, initial_probes=20), BoundaryAttack(queries=400)])
def test_a_start_that_is_given_is_used(attack):
    network, inputs, labels, pattern = pattern_problem()
    assert not attack(network, inputs, labels).verified.success.any()
    outcome = attack(network, inputs, labels, start=pattern)
    assert outcome.verified.success.all()
    # nearer than the start, and not nearer than the plane: 6.5 / 4, with a sample's 1e-6 for float32 logits
    assert 6.5 / 4 - 1e-6 <= outcome.verified.distance.item() < 2 * 0.99


def test_the_square_attack_starts_from_what_is_given():
    network, inputs, labels, pattern = pattern_problem()
    attack = SquareAttack(queries=2)
    assert not attack(network, inputs, labels, epsilon=1.7).verified.success.any()
    assert attack(network, inputs, labels, epsilon=1.7, start=pattern).verified.success.all()


@pytest.mark.parametrize("attack", [HopSkipJump(queries=3000, initial_probes=20), BoundaryAttack(queries=3000)])
def test_the_search_ends_within_epsilon(attack):
    network, images, labels, distance = linear_problem(samples=4)
    epsilon = 1.5 * distance.max().item()
    outcome = attack(network, images.float() / 255, labels, epsilon=epsilon)
    assert outcome.verified.distance.max() <= epsilon
    assert outcome.forward_passes < 4 * 2500


def test_a_neighbour_is_the_last_resort():
    # only images like the second one are of class 1, and nothing made up is
    network, inputs, _, pattern = pattern_problem()
    inputs = torch.cat([inputs, pattern])
    outcome = HopSkipJump(queries=200, initial_probes=20)(network, inputs, torch.tensor([0, 1]))
    assert outcome.verified.success.all()


@pytest.mark.parametrize(
    ("attack", "setting", "value"),
    [
        (HopSkipJump, "queries", 0),
        (HopSkipJump, "initial_probes", 0),
        (HopSkipJump, "start_tries", -1),
        (BoundaryAttack, "queries", 0),
        (BoundaryAttack, "start_tries", -1),
        (BoundaryAttack, "sideways", 1.0),
        (BoundaryAttack, "inwards", 0.0),
        (SquareAttack, "queries", 0),
        (SquareAttack, "area", 0.0),
        (SquareAttack, "area", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(attack, setting, value):
    with pytest.raises(InputError, match=f"expected .*{setting}"):
        attack(**{setting: value})


@pytest.mark.parametrize("name", ["hop-skip-jump", "boundary", "square"])
def test_attacks_say_that_they_need_no_gradients(name):
    [attack] = [attack for attack in (HopSkipJump, BoundaryAttack, SquareAttack) if attack.name == name]
    assert attack.black_box
    assert attack.targeted
    assert attack.fixed_budget == (name == "square")
