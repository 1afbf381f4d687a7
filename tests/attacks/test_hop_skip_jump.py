import pytest
import torch
from linear_problem import linear_network, linear_problem

from lipcert.attacks import BoundaryAttack, HopSkipJump, Task
from lipcert.attacks.decision import Oracle, on_the_way, settled, starting_points, to_the_boundary
from lipcert.attacks.randomness import sample_generators
from lipcert.attacks.verify import distance_upper_bound


def two_classes():
    """A problem with one boundary only, its inputs, labels, exact L2 and exact maximum-norm distances."""
    network, images, labels, distance = linear_problem(samples=8, classes=2)
    weight = network[1].weight.detach().double()
    normal = weight[0] - weight[1]
    return network, images.float() / 255, labels, distance, distance * normal.norm() / normal.abs().sum()


@pytest.mark.parametrize("attack", [HopSkipJump(queries=1500, initial_probes=40), BoundaryAttack(queries=1500)])
def test_linear_distances_are_approached_and_never_undercut(attack):
    network, inputs, labels, distance, _ = two_classes()
    outcome = attack(network, inputs, labels)
    assert outcome.verified.success.all()
    assert outcome.verified.confirmed.all()
    ratio = outcome.verified.distance / distance
    # the exact distances are float64 results of about 20 roundings
    assert ratio.min() >= 1 - 1e-14
    assert ratio.max() <= 1.03


def test_linear_distances_in_the_maximum_norm():
    network, inputs, labels, _, distance = two_classes()
    outcome = HopSkipJump(queries=4000)(network, inputs, labels, norm="linf")
    assert outcome.verified.success.all()
    ratio = outcome.verified.distance / distance
    assert ratio.min() >= 1 - 1e-14
    assert ratio.max() <= 1.1  # the signs of the normal's small components drown in the noise of the probes


def test_more_queries_bring_it_nearer():
    network, inputs, labels, distance, _ = two_classes()
    ratios = [
        (HopSkipJump(queries=queries, initial_probes=20)(network, inputs, labels).verified.distance / distance).mean()
        for queries in (100, 300, 1500)
    ]
    assert ratios[0] > ratios[1] > ratios[2]


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_scale_of_the_logits_does_not_matter(factor):
    network, inputs, labels, distance, _ = two_classes()
    scaled = linear_network(network[1].weight * factor, network[1].bias * factor)
    outcome = HopSkipJump(queries=1500, initial_probes=40)(scaled, inputs, labels)
    assert (outcome.verified.distance / distance).max() <= 1.03


def oracle_of(network, inputs, labels, queries=1000, **arguments):
    return Oracle(network, Task(inputs, labels, **arguments), queries)


def test_an_oracle_counts_for_each_sample():
    network, inputs, labels, _, _ = two_classes()
    oracle = oracle_of(network, inputs, labels, queries=3)
    assert not oracle(inputs, torch.arange(8)).any()
    expected = (network(1 - inputs[5:6]).argmax(1) != labels[5]).tolist()
    assert oracle(1 - inputs[[5, 5]], torch.tensor([5, 5])).tolist() == 2 * expected
    assert oracle.asked.tolist() == [1, 1, 1, 1, 1, 3, 1, 1]
    assert oracle.affords(1).tolist() == [True] * 5 + [False] + [True] * 2


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_bisection_ends_on_the_boundary(norm):
    network, inputs, labels, _, _ = two_classes()
    oracle = oracle_of(network, inputs, labels, norm=norm)
    points, found = starting_points(oracle, sample_generators(oracle.task), tries=10)
    assert found.all()
    everyone = torch.arange(8)
    reached = to_the_boundary(oracle, points, everyone, steps=15)
    assert oracle(reached, everyone).all()
    # one part in 2^14 nearer, the class is the input's again
    back = on_the_way(inputs, reached, torch.full((8,), 1 - 2.0**-12), norm)
    far = distance_upper_bound(inputs, points, norm) / distance_upper_bound(inputs, reached, norm) < 2
    assert far.any()
    assert not oracle(back, everyone)[far].any()


def test_points_that_rounding_decides_are_moved_outwards():
    # the network sees class 1 beyond 0.25, but alone only beyond 0.2501: as if logits rounded otherwise
    class Rounding(torch.nn.Module):
        def forward(self, inputs):
            limit = 0.2501 if len(inputs) == 1 else 0.25
            return torch.stack([torch.full((len(inputs),), limit), inputs.flatten(1)[:, 0]], 1)

    inputs, labels = torch.zeros(2, 1, 1, 1), torch.tensor([0, 0])
    oracle = oracle_of(Rounding(), inputs, labels)
    points = torch.tensor([0.25001, 0.3]).view(2, 1, 1, 1)
    moved = settled(oracle, points, torch.tensor([True, True]))
    assert 0.2501 < moved[0].item() < 0.2505
    assert moved[1].item() == points[1].item()
    kept = settled(oracle, points, torch.tensor([False, False]))
    assert torch.equal(kept, points)
