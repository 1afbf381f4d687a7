"""On linear networks the distance of every boundary is known exactly."""

import pytest
import torch
from attack_cases import Case, ids
from linear_problem import linear_network, linear_problem
from test_geometry import slow_distance

from lipcert.attacks import (
    BoundaryWalk,
    DecoupledDirection,
    DeepFool,
    FastGradient,
    FastMinimumNorm,
    ProjectedGradient,
)

CASES = [
    Case(BoundaryWalk(), "l2"),
    *(Case(DeepFool(20, overshoot=1e-6), norm) for norm in ("l1", "l2", "linf")),
    Case(DecoupledDirection(200), "l2"),
    *(Case(FastMinimumNorm(200), norm) for norm in ("l1", "l2", "linf")),
]
# BoundaryWalk and DeepFool solve a linear problem in one step; the others approach the answer
SHARP = {"boundary-walk": 1e-5, "deepfool": 1e-5, "ddn": 0.02, "fmn": 0.05}
ROUNDING = 1e-5  # logits of up to 9 must differ by 12 units in the last place, and L1 gradients are about 2 long


def exact_distances(network, inputs, labels, norm, bounds, targets=None):
    """The distances in float64, box included: by bisection, and for L1 by linear programming."""
    weight, bias = network[1].weight.detach().double(), network[1].bias.detach().double()
    distances = []
    for position, (point, label) in enumerate(zip(inputs.flatten(1).double(), labels.tolist(), strict=True)):
        rivals = [other for other in range(len(weight)) if other != label] if targets is None else [targets[position]]
        found = (
            slow_distance(point, weight[label] - weight[rival], bias[rival] - bias[label], bounds, norm)
            for rival in rivals
        )
        distances.append(min(distance for distance in found if distance is not None))
    return torch.tensor(distances, dtype=torch.float64)


def boxed_problem(samples=8):
    """A linear network and images whose nearest boundary points lie on the surface of the box."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(4, 16, generator=generator)
    inputs = (torch.rand(samples, 1, 4, 4, generator=generator) * 2 - 0.5).clamp(0, 1)
    network = linear_network(weight, -weight.sum(1) / 2)
    return network, inputs, network(inputs).argmax(1)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
@pytest.mark.parametrize("boxed", [False, True], ids=["free", "boxed"])
def test_minimum_distances_are_reached_and_never_undercut(case, boxed):
    if boxed:
        network, inputs, labels = boxed_problem()
    else:
        network, images, labels, free = linear_problem(samples=8)
        inputs = images.float() / 255
    exact = exact_distances(network, inputs, labels, case.norm, (0.0, 1.0))
    if case.norm == "l2" and not boxed:
        torch.testing.assert_close(exact, free)
    found = case(network, inputs, labels).verified.distance
    assert (found >= exact * (1 - 1e-12)).all()
    assert (found <= exact * (1 + SHARP[case.attack.name]) + ROUNDING).all()


def test_the_box_matters_in_the_boxed_problem():
    network, inputs, labels = boxed_problem()
    for norm in ("l1", "l2", "linf"):
        boxed, free = (exact_distances(network, inputs, labels, norm, bounds) for bounds in ((0.0, 1.0), (-99.0, 99.0)))
        assert (boxed > 1.01 * free).sum() >= 3


@pytest.mark.parametrize("attack", [BoundaryWalk(), DeepFool(overshoot=1e-6)], ids=lambda attack: attack.name)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_neither_the_scale_of_the_logits_nor_the_bounds_matter(attack, scale):
    network, inputs, labels = boxed_problem()
    exact = exact_distances(network, inputs, labels, "l2", (0.0, 1.0))
    other = linear_network(network[1].weight * scale / 255, network[1].bias * scale)
    found = attack(other, inputs * 255, labels, bounds=(0.0, 255.0)).verified.distance / 255
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("attack", [BoundaryWalk(), DeepFool(overshoot=1e-6)], ids=lambda attack: attack.name)
def test_a_target_is_reached_at_its_own_distance(attack):
    network, inputs, labels = boxed_problem()
    two = linear_network(network[1].weight[:2], network[1].bias[:2])
    labels = two(inputs).argmax(1)
    outcome = attack(two, inputs, labels, targets=1 - labels)
    exact = exact_distances(two, inputs, labels, "l2", (0.0, 1.0), (1 - labels).tolist())
    torch.testing.assert_close(outcome.verified.distance, exact, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_budget_suffices_from_the_exact_distance_on(norm):
    network, inputs, labels = boxed_problem(samples=5)
    exact = exact_distances(network, inputs, labels, norm, (0.0, 1.0))
    attack = ProjectedGradient(60, 0.05)
    for position, distance in enumerate(exact.tolist()):
        one = slice(position, position + 1)
        for share, success in ((0.999, False), (1.1, True)):
            outcome = attack(network, inputs[one], labels[one], norm=norm, epsilon=share * distance)
            assert outcome.verified.success.item() is success


def test_the_nearest_class_is_not_the_one_with_the_largest_logit():
    # class 1 lags behind by 1 at slope 1, class 2 by 2 at slope 5
    network = linear_network(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]]), torch.tensor([1.0, -0.5, -3.5]))
    inputs, labels = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    for attack in (ProjectedGradient(), DecoupledDirection(200), FastMinimumNorm(100), BoundaryWalk(rivals=1)):
        assert attack(network, inputs, labels, epsilon=0.41).verified.prediction.item() == 2
    missed = ProjectedGradient(loss="margin")(network, inputs, labels, epsilon=0.41)
    assert not missed.verified.success.item()


@pytest.mark.parametrize(("step", "norm"), [("sign", "linf"), ("l2", "l2")])
def test_one_step_is_optimal_on_two_linear_classes(step, norm):
    network, images, labels, _ = linear_problem(samples=6)
    inputs = images.float() / 255
    two = linear_network(network[1].weight[:2], network[1].bias[:2] + (network[1].weight[:2] * 0.1).sum(1))
    labels = two(inputs).argmax(1)
    for position, distance in enumerate(exact_distances(two, inputs, labels, norm, (-9.0, 9.0)).tolist()):
        one = slice(position, position + 1)
        for share, success in ((0.999, False), (1.001, True)):
            outcome = FastGradient(step)(
                two, inputs[one], labels[one], norm=norm, epsilon=share * distance, bounds=(-9.0, 9.0)
            )
            assert outcome.verified.success.item() is success
