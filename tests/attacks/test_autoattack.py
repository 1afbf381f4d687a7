import logging

import pyautoattack
import pytest
import torch
from linear_problem import linear_network
from pyautoattack.square import SquareAttack as OfficialSquare
from torch import nn

from lipcert.attacks import AutoAttack
from lipcert.attacks.autoattack import _can_be_tiled
from lipcert.errors import InputError

OFFICIAL = {"l1": "L1", "l2": "L2", "linf": "Linf"}
GRADIENTS = ("apgd-ce", "apgd-t", "fab-t")


def problem(classes=4, samples=8, side=6):
    """A small network and images, the last of which is misclassified."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(side**2, 16), nn.ReLU(), nn.Linear(16, classes)).eval()
    with torch.no_grad():
        for layer in (network[1], network[3]):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        network[1].bias.copy_(-network[1].weight.sum(1) / 2)
        network[3].bias.zero_()
    inputs = torch.rand(samples, 1, side, side, generator=generator)
    labels = network(inputs).argmax(1)
    labels[-1] = (labels[-1] + 1) % classes
    return network, inputs, labels


def official(network, inputs, labels, norm, epsilon, seed, components=None, batch_size=250):
    """Which samples pyautoattack itself leaves standing."""
    version = "standard" if components is None else "custom"
    attack = pyautoattack.AutoAttack(
        network, norm=OFFICIAL[norm], eps=epsilon, seed=seed, version=version, attacks=components and list(components)
    )
    if components:
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = 3
        attack.apgd.n_restarts = 1
        attack.fab.n_restarts = 1
    _, prediction = attack.run_standard_evaluation(inputs, labels, batch_size=batch_size)
    return prediction == labels


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.2), ("linf", 0.04)])
def test_the_cascade_leaves_standing_what_pyautoattack_does(norm, epsilon):
    network, inputs, labels = problem()
    attack = AutoAttack(components=GRADIENTS, batch_size=5)
    outcome = attack(network, inputs, labels, norm=norm, epsilon=epsilon, seed=5)
    standing = official(network, inputs, labels, norm, epsilon, 5, GRADIENTS, batch_size=5)
    assert torch.equal(~outcome.verified.success, standing)
    assert 1 <= standing.sum() <= 6
    assert not standing[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("l1", 1.0), ("l2", 0.2), ("linf", 0.04)])
def test_the_standard_version_is_that_of_pyautoattack(norm, epsilon):
    network, inputs, labels = problem(classes=10, samples=16)
    outcome = AutoAttack()(network, inputs, labels, norm=norm, epsilon=epsilon)
    standing = official(network, inputs, labels, norm, epsilon, 0)
    assert torch.equal(~outcome.verified.success, standing)
    assert 1 <= standing.sum() <= 15


def test_square_alone_is_that_of_pyautoattack():
    network, inputs, labels = problem()
    outcome = AutoAttack(components=("square",))(network, inputs, labels, norm="linf", epsilon=0.3)
    assert outcome.verified.success.all()
    reference = pyautoattack.AutoAttack(network, norm="Linf", eps=0.3, seed=0, version="custom", attacks=["square"])
    found, _ = reference.run_standard_evaluation(inputs, labels)
    # those that rounding carried over the budget are a little nearer
    torch.testing.assert_close(outcome.candidates, found, rtol=0, atol=1e-5)


def test_examples_lie_within_the_budget():
    network, inputs, labels = problem()
    for norm, epsilon in (("l1", 1.5), ("l2", 0.3), ("linf", 0.06)):
        outcome = AutoAttack(components=("apgd-ce",))(network, inputs, labels, norm=norm, epsilon=epsilon)
        assert outcome.verified.success.sum() >= 4
        assert outcome.verified.distance[outcome.verified.success].max() <= epsilon


def test_the_cascade_names_the_first_component_that_succeeded():
    network, inputs, labels = problem()
    alone = AutoAttack(components=("apgd-ce",))(network, inputs, labels, epsilon=0.2)
    outcome = AutoAttack(components=("apgd-ce", "fab-t"))(network, inputs, labels, epsilon=0.2)
    winners = outcome.details["winner"]
    right, fell = network(inputs).argmax(1) == labels, outcome.verified.success
    expected = [
        None if not (fell[i] and right[i]) else "apgd-ce" if alone.verified.success[i] else "fab-t" for i in range(8)
    ]
    assert winners == tuple(expected)
    assert winners[-1] is None
    assert torch.equal(outcome.candidates[-1], inputs[-1])


def test_side_by_side_the_nearest_example_wins():
    network, inputs, labels = problem()
    names = ("apgd-ce", "fab-t")
    single = [AutoAttack(components=(name,))(network, inputs, labels, epsilon=0.2) for name in names]
    outcome = AutoAttack(components=names, cascade=False)(network, inputs, labels, epsilon=0.2)
    distances = torch.stack([each.verified.distance for each in single])
    assert torch.equal(outcome.verified.distance, distances.amin(0))
    winners = outcome.details["winner"]
    for sample, nearest in enumerate(distances.argmin(0).tolist()):
        attacked = bool(outcome.verified.success[sample]) and sample != 7
        assert winners[sample] == (names[nearest] if attacked else None)
    assert len(set(winners)) >= 2


def test_nothing_is_printed_logged_or_left_behind(capsys, caplog):
    caplog.set_level(logging.DEBUG)
    network = linear_network(torch.zeros(4, 9), torch.tensor([0.0, 0.0, 0.0, 1.0]))  # zero gradients, which it warns of
    torch.manual_seed(7)
    state = torch.get_rng_state()
    AutoAttack(components=("apgd-t", "apgd-ce"))(network, torch.rand(2, 1, 3, 3), torch.tensor([3, 3]), epsilon=0.1)
    state_after = torch.get_rng_state()
    torch.manual_seed(7)
    torch.rand(2, 1, 3, 3)
    assert torch.equal(state_after, torch.get_rng_state())
    assert not torch.equal(state_after, state)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_the_seed_and_nothing_else_decides():
    network, inputs, labels = problem()
    attack = AutoAttack(components=("apgd-ce",))
    one = attack(network, inputs, labels, epsilon=0.2, seed=1)
    torch.manual_seed(99)
    assert torch.equal(attack(network, inputs, labels, epsilon=0.2, seed=1).candidates, one.candidates)
    assert not torch.equal(attack(network, inputs, labels, epsilon=0.2, seed=2).candidates, one.candidates)


def test_other_bounds_and_double_precision():
    network, inputs, labels = problem(samples=5)
    attack = AutoAttack(components=("apgd-ce", "fab-t"))
    outcome = attack(network, inputs, labels, epsilon=0.2)

    class Stretched(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network.double()

        def forward(self, images):
            assert images.dtype == torch.float64
            return self.network((images + 1) / 4)

    images = 4 * inputs.double() - 1
    stretched = attack(Stretched().eval(), images, labels, epsilon=0.8, bounds=(-1.0, 3.0))
    assert torch.equal(stretched.verified.success, outcome.verified.success)
    assert stretched.candidates.min() >= -1
    assert stretched.candidates.max() <= 3
    fell = stretched.verified.success
    assert stretched.verified.distance[fell].max() <= 0.8
    # float32 noise in the steps of an iteration that roots and signs amplify
    torch.testing.assert_close(stretched.candidates[fell], 4 * outcome.candidates[fell].double() - 1, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("classes", "component"), [(3, "apgd-t"), (2, "apgd-dlr")])
def test_too_few_classes_are_refused(classes, component):
    network, inputs, labels = problem(classes=classes)
    with pytest.raises(InputError, match=f"classes for {component}, got {classes}"):
        AutoAttack(components=(component,))(network, inputs, labels, epsilon=0.1)


def test_two_classes_have_components_that_can():
    network, inputs, labels = problem(classes=2)
    outcome = AutoAttack(components=("apgd-ce", "fab", "fab-t"))(network, inputs, labels, epsilon=1.0)
    assert outcome.verified.success.all()


def test_every_other_class_is_a_target():
    # the last class is the nearest, but has the lowest logit: the fourth target of four
    weight = torch.zeros(5, 36)
    weight[4, 0] = 10.0
    network = linear_network(weight, torch.tensor([1.0, 0.9, 0.8, 0.7, -5.0]))
    inputs, labels = torch.full((1, 1, 6, 6), 0.5), torch.tensor([0])
    outcome = AutoAttack(components=("fab-t",))(network, inputs, labels, epsilon=0.2)
    assert outcome.verified.prediction.tolist() == [4]


def runs(shape):
    """Whether pyautoattack's Square begins on images of this shape."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(shape[2] * shape[3], 2)).eval()
    attack = OfficialSquare(network, norm="L2", eps=0.1, n_queries=0, seed=0)
    inputs = torch.rand(shape)
    try:
        attack.perturb(inputs, network(inputs).argmax(1))
    except (ZeroDivisionError, RuntimeError):
        return False
    return True


def test_which_images_square_can_tile():
    shapes = [(1, 1, height, width) for height in (4, 5, 9, 14, 28) for width in (4, 5, 9, 14, 28, 31)]
    shapes += [(1, 1, size, size) for size in range(1, 33)]
    found = {shape[2:]: _can_be_tiled(shape) for shape in shapes}
    assert found[28, 28]
    assert found[32, 32]
    assert not found[14, 14]
    with torch.random.fork_rng():
        assert found == {shape[2:]: runs(shape) for shape in shapes}


def test_images_that_square_cannot_tile():
    network, inputs, labels = problem(side=4)
    outcome = AutoAttack(components=("square",))(network, inputs, labels, epsilon=1.0)
    assert outcome.verified.success.all()
    with pytest.raises(InputError, match="square in L1, got 4 x 4"):
        AutoAttack(components=("square",))(network, inputs, labels, norm="l1", epsilon=1.0)
    with pytest.raises(InputError, match=r"images \(N, C, H, W\)"):
        AutoAttack()(nn.Linear(3, 4).eval(), torch.rand(1, 3), torch.tensor([0]), epsilon=1.0)


def test_gradients_reach_the_ends_of_another_range():
    # all of the way is a pixel that already is at the end of its range, where clamping would stop the gradient
    network = linear_network(torch.eye(4), torch.zeros(4))
    inputs = torch.tensor([0.7, 0.3, 0.3, 0.3]).view(1, 1, 2, 2)
    for bounds in ((0.0, 0.7), (-0.1, 0.7), (0.3, 0.9)):
        attack = AutoAttack(components=("apgd-ce",))
        outcome = attack(network, inputs, torch.tensor([0]), norm="linf", epsilon=0.25, bounds=bounds)
        assert outcome.verified.success.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "custom"}, "standard, plus, rand"),
        ({"components": ("pgd",)}, "components among apgd-ce"),
        ({"components": "fab"}, "components among apgd-ce"),
        ({"components": ("fab", "fab")}, "each component once"),
        ({"batch_size": 0}, "batch_size >= 1"),
    ],
)
def test_unknown_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AutoAttack(**settings)


def test_settings_are_reported():
    assert AutoAttack().parameters() == {"version": "standard", "cascade": True, "batch_size": 250}
    assert AutoAttack(components=("fab", "square")).parameters()["components"] == "fab, square"


def test_every_pass_is_counted():
    network, inputs, labels = problem(samples=3)
    labels = network(inputs).argmax(1)
    outcome = AutoAttack(components=("apgd-ce",))(network, inputs, labels, epsilon=1e-6)
    assert not outcome.verified.success.any()
    # the classes, the classes again by APGD, a start and 100 steps, and the classes of what it found
    assert outcome.forward_passes == 3 * (1 + 1 + 101 + 1)
    assert outcome.backward_passes == 3 * 101
