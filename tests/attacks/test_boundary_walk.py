import math

import pytest
import torch
from attack_cases import MINIMUM, ids, small_problem
from linear_problem import linear_network
from torch import nn

from lipcert.attacks import BoundaryWalk, DeepFool
from lipcert.attacks.best import Best
from lipcert.attacks.crossing import cross
from lipcert.attacks.task import Task
from lipcert.attacks.verify import distance_upper_bound
from lipcert.errors import InputError

CENTRE = torch.full((1, 1, 3, 3), 0.5)


class Balls(nn.Module):
    """Class 0 inside of a ball around the centre; beyond it class 1, and behind a plane class 2."""

    def __init__(self, size=0.4, plane=1.5):
        super().__init__()
        self.size = size
        self.plane = plane

    def forward(self, inputs):
        outside = (inputs - CENTRE.to(inputs)).flatten(1).square().sum(1)
        behind = inputs.flatten(1)[:, 0] - self.plane + self.size**2
        return torch.stack([torch.full_like(outside, self.size**2), outside, behind], dim=1)


def inside_the_ball(samples=6, size=0.3):
    offsets = torch.randn(samples, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(0.1, size, samples).view(-1, 1, 1, 1)
    return CENTRE + offsets / offsets.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * lengths, lengths.flatten().double()


def test_the_nearest_point_of_a_curved_boundary_is_found():
    inputs, lengths = inside_the_ball()
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    found = BoundaryWalk()(Balls().eval(), inputs, labels).verified.distance
    assert (found >= (0.4 - lengths) * (1 - 1e-5)).all()
    assert (found <= (0.4 - lengths) * 1.002).all()


def test_the_nearer_of_two_boundaries_is_found():
    inputs, lengths = inside_the_ball()
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    plane = 0.75
    exact = torch.minimum(0.4 - lengths, (plane - inputs[:, 0, 0, 0]).double())
    outcome = BoundaryWalk()(Balls(plane=plane).eval(), inputs, labels)
    assert set(outcome.verified.prediction.tolist()) == {1, 2}
    torch.testing.assert_close(outcome.verified.distance, exact, rtol=2e-3, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 3.0, 1e6])
def test_a_radius_shortens_the_way_and_a_wrong_one_hides_nothing(share):
    network, inputs, labels = small_problem()
    plain = BoundaryWalk()(network, inputs, labels).verified.distance
    told = BoundaryWalk()(network, inputs, labels, radius=share * plain).verified.distance
    torch.testing.assert_close(told, plain, rtol=5e-3, atol=0)


def test_more_steps_and_restarts_do_not_lose_what_was_found():
    network, inputs, labels = small_problem(samples=16)
    last = torch.full((16,), math.inf, dtype=torch.float64)
    for attack in (BoundaryWalk(1, 1, 1), BoundaryWalk(4, 1, 4), BoundaryWalk(4, 1, 16), BoundaryWalk(4, 1, 16, 3)):
        distance = attack(network, inputs, labels).verified.distance
        # the last stretch is found to first order and searched for once
        assert (distance <= last * (1 + 1e-3)).all()
        last = distance


class Watched(nn.Module):
    """Remembers what it was asked."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.points, self.logits = [], []

    def forward(self, inputs):
        logits = self.network(inputs)
        self.points.append(inputs.detach())
        self.logits.append(logits.detach())
        return logits


@pytest.mark.parametrize("case", MINIMUM, ids=ids(MINIMUM))
def test_nothing_that_was_seen_is_nearer_than_what_is_returned(case):
    network, inputs, labels = small_problem(samples=3)
    for position in range(3):
        one = slice(position, position + 1)
        watched = Watched(network).eval()
        case.attack.run(watched, Task(inputs[one], labels[one], norm=case.norm))
        points, logits = torch.cat(watched.points), torch.cat(watched.logits)
        ordered = logits.sort(1, descending=True).values
        clear = (logits.argmax(1) != labels[position]) & (ordered[:, 0] - ordered[:, 1] > 1e-5 * logits.abs().amax(1))
        distances = distance_upper_bound(inputs[one].expand_as(points), points, case.norm)[clear]
        assert len(distances) > 0
        assert case(network, inputs[one], labels[one]).verified.distance.item() <= distances.min().item()


def test_pixels_at_a_bound_can_still_move_inwards():
    # all black: the only way is up
    network = linear_network(torch.tensor([[0.0] * 9, [1.0] * 9]), torch.tensor([0.9, 0.0]))
    outcome = BoundaryWalk()(network, torch.zeros(1, 1, 3, 3), torch.tensor([0]))
    assert outcome.verified.distance.item() == pytest.approx(0.3, rel=1e-4)


def test_a_class_beyond_the_box_is_out_of_reach():
    network = linear_network(torch.tensor([[0.0] * 9, [1.0] * 9]), torch.tensor([9.5, 0.0]))
    outcome = BoundaryWalk(restarts=2)(network, torch.full((1, 1, 3, 3), 0.5), torch.tensor([0]))
    assert not outcome.verified.success.item()
    assert outcome.candidates.equal(torch.full((1, 1, 3, 3), 0.5))


@pytest.mark.parametrize("setting", ["rivals", "approach", "steps", "restarts"])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match=f"expected {setting}"):
        BoundaryWalk(**{setting: -1})


@pytest.mark.parametrize("share", [0.1, 0.6, 0.999, 1.0, 1.001, 1.5, 3.0])
def test_a_ray_is_crossed_wherever_its_end_lies(share):
    inputs, lengths = inside_the_ball()
    network, labels = Balls().eval(), torch.zeros(len(inputs), dtype=torch.int64)
    outwards = (inputs - CENTRE) / lengths.float().view(-1, 1, 1, 1)
    gaps = 0.4 - lengths.float()
    task = Task(inputs, labels)
    best, owners = Best(task), torch.arange(len(inputs))
    heights = 0.4**2 - lengths.float().square()
    ends = inputs + share * gaps.view(-1, 1, 1, 1) * outwards
    cross(network, best, owners, ends, heights, looks=16)
    torch.testing.assert_close(best.distance, gaps.double(), rtol=1e-4, atol=0)


class Noisy(nn.Module):
    """Its margin is off by 1e-4 unless it reads one image alone, as if numbers of 1000 were cancelled inside."""

    def forward(self, inputs):
        mean = inputs.flatten(1).mean(1)
        return torch.stack([mean, 0.4 - 1e-4 * torch.full_like(mean, len(inputs) == 1)], dim=1)


def test_examples_last_in_any_company():
    inputs = torch.full((3, 1, 3, 3), 0.5)
    for attack in (BoundaryWalk(), DeepFool()):
        outcome = attack(Noisy().eval(), inputs, torch.tensor([0, 0, 0]))
        assert outcome.verified.success.all()
        assert (outcome.verified.distance <= 0.3 * 1.003).all()
