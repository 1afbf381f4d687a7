import copy
from dataclasses import dataclass, field

import pytest
import torch
from linear_problem import linear_network, linear_problem

from lipcert.attacks import Attack
from lipcert.errors import InputError


@dataclass(frozen=True)
class Steps(Attack):
    """A known number of gradient steps that fill whatever gradients they can."""

    name = "steps"
    count: int = 3

    def run(self, model, task):
        moved = task.inputs
        for _ in range(self.count):
            leaf = moved.clone().requires_grad_()
            model(leaf).gather(1, task.labels[:, None]).sum().backward()
            moved = (moved - 0.05 * leaf.grad.sign()).clamp(0, 1)
        model(moved)
        return moved


@dataclass(frozen=True)
class Returns(Attack):
    name = "returns"
    candidates: object = field(default=None, compare=False)

    def run(self, model, task):
        return self.candidates


def problem():
    network, images, prediction, _ = linear_problem(samples=6)
    return network, images.float() / 255, prediction


def test_counts_are_exact():
    network, inputs, labels = problem()
    seen = []
    outcome = Steps(5)(network, inputs, labels, on_forward=seen.append)
    assert (outcome.forward_passes, outcome.backward_passes) == (6 * 6, 5 * 6)
    assert sum(seen) == outcome.forward_passes
    assert outcome.seconds > 0


def test_the_network_is_left_as_it_is():
    network, inputs, labels = problem()
    before = copy.deepcopy(network.state_dict())
    Steps()(network, inputs, labels)
    for name, parameter in network.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad
        assert torch.equal(parameter, before[name])


def test_an_attack_pays_for_no_parameter_gradients():
    @dataclass(frozen=True)
    class Look(Attack):
        name = "look"

        def run(self, model, task):
            assert model(task.inputs.clone().requires_grad_()).requires_grad
            assert not any(parameter.requires_grad for parameter in model.parameters())
            return task.inputs

    Look()(*problem())


def test_existing_gradients_survive():
    network, inputs, labels = problem()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    Steps()(network, inputs, labels)
    assert all(bool((parameter.grad == 7).all()) for parameter in network.parameters())


def test_an_attack_cannot_change_what_it_is_compared_with():
    @dataclass(frozen=True)
    class Vandal(Attack):
        name = "vandal"

        def run(self, model, task):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
            task.labels.fill_(0)
            return task.inputs.zero_()

    network, inputs, labels = problem()
    kept = inputs.clone(), labels.clone()
    outcome = Vandal()(network, inputs, labels)
    assert torch.equal(inputs, kept[0])
    assert torch.equal(labels, kept[1])
    black = network(torch.zeros_like(inputs)).argmax(1)
    assert torch.equal(outcome.verified.success, black != labels)


def test_works_where_gradients_are_off():
    network, inputs, labels = problem()
    with torch.no_grad():
        assert Steps()(network, inputs, labels).backward_passes == 18


def nan_at_one_pixel(inputs):
    inputs = inputs.clone()
    inputs[0, 0, 0, 0] = torch.nan
    return inputs


BAD = [
    ("uint8", lambda x, y: ((x * 255).byte(), y), "floating-point"),
    ("empty", lambda x, y: (x[:0], y[:0]), "non-empty"),
    ("nan", lambda x, y: (nan_at_one_pixel(x), y), "finite"),
    ("above one", lambda x, y: (x * 2, y), "in \\[0, 1\\]"),
    ("negative", lambda x, y: (x - 0.5, y), "in \\[0, 1\\]"),
    ("too few labels", lambda x, y: (x, y[:-1]), "labels of shape"),
    ("float labels", lambda x, y: (x, y.float()), "int64"),
    ("label too large", lambda x, y: (x, y + 4), "labels from 0 to 3"),
    ("label negative", lambda x, y: (x, y - 4), "labels from 0 to 3"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_unusable_arguments_are_refused_before_the_search(spoil, message):
    network, inputs, labels = problem()
    with pytest.raises(InputError, match=message):
        Returns()(network, *spoil(inputs, labels))


def test_training_mode_is_refused():
    network, inputs, labels = problem()
    network[0].train()
    with pytest.raises(InputError, match="eval mode"):
        Steps()(network, inputs, labels)


@pytest.mark.parametrize("candidates", [None, torch.zeros(6, 1, 4, 3), torch.zeros(5, 1, 4, 4)])
def test_candidates_of_another_shape_are_refused(candidates):
    network, inputs, labels = problem()
    with pytest.raises(InputError, match="expected candidates of shape"):
        Returns(candidates)(network, inputs, labels)


def test_settings_are_reported():
    assert Steps(4).parameters() == {"count": 4}
    assert Steps(4).forward_budget(10) is None


def test_double_precision_candidates_are_judged_as_the_network_reads_them():
    network = linear_network(torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 0.5]))
    inputs, labels = torch.tensor([[[[0.75]]]]), torch.tensor([0])
    just_below = torch.full((1, 1, 1, 1), 0.5 - 1e-12, dtype=torch.float64)
    outcome = Returns(just_below)(network, inputs, labels)
    assert outcome.candidates.dtype == torch.float32
    assert not outcome.verified.success.any()


@dataclass(frozen=True)
class Sees(Attack):
    """Keeps the task that it is given."""

    name = "sees"
    norms = ("l2", "linf")
    targeted = True
    fixed_budget = True
    seen: list = field(default_factory=list, compare=False)

    def run(self, model, task):
        self.seen.append(task)
        return task.inputs


def test_the_task_is_what_was_asked_for():
    network, inputs, labels = problem()
    radius, attack = torch.rand(6).double(), Sees()
    arguments = {"targets": (labels + 1) % 4, "norm": "linf", "epsilon": 0.1, "bounds": (-1.0, 2.0), "seed": 5}
    attack(network, inputs, labels, **arguments, radius=radius, start=inputs / 2)
    [task] = attack.seen
    assert {name: getattr(task, name) for name in ("norm", "epsilon", "bounds", "seed")}.items() <= arguments.items()
    kept = (inputs, labels, arguments["targets"], radius, inputs / 2)
    for seen, given in zip((task.inputs, task.labels, task.targets, task.radius, task.start), kept, strict=True):
        assert torch.equal(seen, given)
        assert seen.data_ptr() != given.data_ptr()


UNABLE = [
    ("a target that is the label", lambda y: {"targets": y.clone()}, "targets other than the labels"),
    ("a target that is no class", lambda y: {"targets": y + 4}, "targets from 0 to 3"),
    ("too few targets", lambda y: {"targets": y[1:]}, "targets of shape"),
    ("unknown norm", lambda y: {"norm": "l0"}, "a norm among l1, l2, linf"),
    ("a norm that it cannot do", lambda y: {"norm": "l1"}, "a norm among l2, linf for sees"),
    ("no budget", lambda y: {"epsilon": None}, "an epsilon for sees"),
    ("no room", lambda y: {"epsilon": 0.0}, "epsilon > 0"),
    ("nan budget", lambda y: {"epsilon": float("nan")}, "epsilon > 0"),
    ("bounds in the wrong order", lambda y: {"bounds": (1.0, 0.0)}, "ascending order"),
    ("infinite bounds", lambda y: {"bounds": (0.0, float("inf"))}, "finite bounds"),
    ("bounds that are too tight", lambda y: {"bounds": (0.0, 0.5)}, "inputs in \\[0, 0.5\\]"),
    ("negative radius", lambda y: {"radius": torch.full((6,), -1.0)}, "radii >= 0"),
    ("too few radii", lambda y: {"radius": torch.ones(5)}, "radii of shape"),
    ("starting points outside", lambda y: {"start": torch.full((6, 1, 4, 4), 1.5)}, "starting points in"),
    ("too few starting points", lambda y: {"start": torch.zeros(5, 1, 4, 4)}, "starting points of shape"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in UNABLE], ids=[case[0] for case in UNABLE])
def test_tasks_that_cannot_be_done_are_refused_before_the_search(spoil, message):
    network, inputs, labels = problem()
    attack = Sees()
    with pytest.raises(InputError, match=message):
        attack(network, inputs, labels, **{"epsilon": 0.1, **spoil(labels)})
    assert attack.seen == []


def test_what_is_not_told_a_target_refuses_one():
    network, inputs, labels = problem()
    with pytest.raises(InputError, match="no targets for steps"):
        Steps()(network, inputs, labels, targets=(labels + 1) % 4)


def test_a_target_counts_only_if_it_is_reached():
    network, inputs, labels = problem()
    other = network(1 - inputs).argmax(1)
    changed = other != labels
    attack = Returns(1 - inputs)
    object.__setattr__(attack, "targeted", True)
    missed = torch.where(changed, (other + 1) % 4, (labels + 1) % 4)
    missed = torch.where(missed == labels, (missed + 1) % 4, missed)
    assert changed.any()
    assert torch.equal(attack(network, inputs, labels).verified.success, changed)
    reached = attack(network, inputs, labels, targets=torch.where(changed, other, missed)).verified
    assert torch.equal(reached.success, changed)
    assert not attack(network, inputs, labels, targets=missed).verified.success.any()
