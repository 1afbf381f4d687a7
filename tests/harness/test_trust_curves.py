from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from linear_problem import linear_network, linear_problem
from torch import nn

from lipcert.attacks import Attack, FastGradient, ProjectedGradient
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness.detectors import DetectedNetwork
from lipcert.harness.planted import tight_network
from lipcert.harness.trust_comparisons import (
    ITERATED,
    SHARES,
    SINGLE,
    WITHOUT_GRADIENTS,
    black_box_beats_white_box,
    curve_checks,
    noise_as_good,
    not_falling_to_zero,
    not_monotone,
    single_step_beats_iterated,
    transfer_beats_white_box,
    transfer_check,
)
from lipcert.harness.trust_curves import Curve, attack_curve, diameter, noise_curve, transfer_curve

NETWORK, PIXELS, PREDICTION, DISTANCE = linear_problem(samples=24)
INPUTS = PIXELS.float() / 255
EPSILONS = [0.02, 0.05, 0.1, 0.2, 4.0]


def clustered(samples=16, classes=4):
    """Images of 64 pixels around one prototype a class, and a network that tells them apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % classes
    prototypes = torch.randint(0, 256, (classes, 1, 8, 8), generator=generator)
    noise = torch.randint(-60, 61, (400, 1, 8, 8), generator=generator)
    images = ImageSet((prototypes[labels] + noise).clamp(0, 255).to(torch.uint8), labels)
    return tight_network(images, samples=samples)


SOUND = clustered()


class Rounded(nn.Module):
    """Hides the gradient of a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(inputs.mul(255).round() / 255)


class Shuffled(Rounded):
    """Gives gradients that have nothing to do with the network."""

    def forward(self, inputs):
        turned = inputs.flatten(1).flip(1).roll(7, 1).view_as(inputs)
        return self.network(inputs.detach() + (turned - turned.detach()))


def titles(warnings):
    return {warning.partition(":")[0] for warning in warnings if warning is not None}


def checked(network, surrogate=None):
    said = curve_checks(network.eval(), SOUND.images.inputs(), SOUND.images.labels)
    transfer = [] if surrogate is None else [transfer_check(network, surrogate, SOUND.images.inputs())]
    return titles([*said, *transfer])


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_curve_counts_what_survives(rank):
    ordered = DISTANCE.sort().values
    place = int(ordered.diff().argsort(descending=True)[rank])  # where the gap between two distances is widest
    epsilon = float(ordered[place : place + 2].mean())
    curve = attack_curve(NETWORK, INPUTS, PREDICTION, ITERATED, [epsilon])
    assert (curve.name, curve.epsilons, curve.samples) == ("pgd", (epsilon,), 24)
    assert curve.survivors == (24 - place - 1,)


def test_curves_of_working_attacks_fall_to_zero_in_order():
    curve = attack_curve(NETWORK, INPUTS, PREDICTION, ITERATED, EPSILONS)
    single = attack_curve(NETWORK, INPUTS, PREDICTION, SINGLE, EPSILONS)
    assert curve.survivors[-1] == 0
    assert sorted(curve.survivors, reverse=True) == list(curve.survivors)
    assert not_falling_to_zero(curve, diameter(INPUTS)) is None
    assert not_monotone(curve) is None
    assert single_step_beats_iterated(single, curve) is None
    assert noise_as_good(noise_curve(NETWORK, INPUTS, PREDICTION, EPSILONS), curve) is None


def test_noise_is_as_long_as_the_budget_and_stays_in_the_box():
    seen = []

    class Spy(nn.Module):
        def forward(self, inputs):
            seen.append(inputs)
            return inputs.flatten(1)[:, :2]

        def __deepcopy__(self, memo):
            return self

    centre = torch.full((3, 1, 8, 8), 0.5)
    noise_curve(Spy().eval(), centre, torch.zeros(3, dtype=torch.int64), [0.25])
    lengths = torch.cat([(moved - centre).flatten(1).norm(dim=1) for moved in seen])
    assert torch.allclose(lengths, torch.tensor(0.25))
    noise_curve(Spy().eval(), centre, torch.zeros(3, dtype=torch.int64), [100.0])
    assert all(0 <= moved.min() <= moved.max() <= 1 for moved in seen)


def test_a_sound_network_has_sound_curves():
    assert checked(SOUND.network, surrogate=SOUND.network) == set()


def test_hidden_gradients_show_in_every_curve():
    expected = {
        "Accuracy not falling to zero",
        "Transfer beating white box",
        "Random noise as good as an attack",
        "Black box beating white box",
    }
    assert checked(Rounded(SOUND.network), surrogate=SOUND.network) == expected


def test_wrong_gradients_show_against_those_of_another_network():
    said = checked(Shuffled(SOUND.network), surrogate=SOUND.network)
    assert "Transfer beating white box" in said


def test_of_a_classifier_with_a_detector_the_classifier_is_compared():
    detected = DetectedNetwork(Rounded(SOUND.network), nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)))
    assert transfer_check(detected.eval(), SOUND.network, SOUND.images.inputs()).startswith("Transfer")


def test_a_network_with_one_class_has_nothing_to_find():
    constant = linear_network(torch.zeros(3, 64), torch.tensor([1.0, 0.0, 0.0]))
    images = SOUND.images.inputs()
    assert titles(curve_checks(constant, images, torch.zeros(len(images), dtype=torch.int64))) == set()


def test_an_iterated_attack_that_takes_no_steps_is_weaker_than_one_step():
    lame = attack_curve(NETWORK, INPUTS, PREDICTION, ProjectedGradient(steps=2, step_size=0.01), EPSILONS)
    single = attack_curve(NETWORK, INPUTS, PREDICTION, FastGradient("l2"), EPSILONS)
    assert "fast-gradient leaves" in single_step_beats_iterated(single, lame)


@dataclass(frozen=True)
class Timid(Attack):
    """Gives up where the budget is large, and succeeds elsewhere."""

    name: ClassVar[str] = "timid"
    fixed_budget: ClassVar[bool] = True

    def run(self, model, task):
        return task.inputs if task.epsilon > 0.3 else FastGradient("l2").run(model, task)


def test_an_attack_that_gives_up_is_not_monotone():
    assert "under timid" in not_monotone(attack_curve(NETWORK, INPUTS, PREDICTION, Timid(), EPSILONS))


@dataclass(frozen=True)
class Liar(Attack):
    """Goes to another image, whatever the budget."""

    name: ClassVar[str] = "liar"
    fixed_budget: ClassVar[bool] = True

    def run(self, model, task):
        return task.inputs.flip(0)


def test_what_lies_outside_of_the_budget_does_not_count():
    assert attack_curve(NETWORK, INPUTS, PREDICTION, Liar(), [0.01]).survivors == (24,)
    assert transfer_curve(NETWORK, NETWORK, INPUTS, PREDICTION, Liar(), [0.01]).survivors == (24,)
    assert attack_curve(NETWORK, INPUTS, PREDICTION, Liar(), [4.0]).survivors[0] < 24


def test_a_surrogate_with_other_classes_is_refused():
    with pytest.raises(InputError, match="4 classes, got one with 3"):
        transfer_curve(NETWORK, linear_network(torch.zeros(3, 16)), INPUTS, PREDICTION, ITERATED, EPSILONS)


def curve(*survivors, samples=20, name="pgd"):
    return Curve(name, tuple(float(2**number) for number in range(len(survivors))), survivors, samples)


@pytest.mark.parametrize(
    ("check", "arguments", "said"),
    [
        pytest.param(not_falling_to_zero, (curve(20, 3), 2.0), True, id="three survive"),
        pytest.param(not_falling_to_zero, (curve(20, 2), 2.0), False, id="two survive by chance"),
        pytest.param(not_falling_to_zero, (curve(20, 9), 4.0), False, id="no budget reaches everything"),
        pytest.param(not_monotone, (curve(10, 5, 8),), True, id="up by three"),
        pytest.param(not_monotone, (curve(10, 5, 7),), False, id="up by two"),
        pytest.param(not_monotone, (curve(10, 6, 8, 9),), True, id="up by three in two steps"),
        pytest.param(not_monotone, (curve(10, 6, 6, 0),), False, id="flat"),
        pytest.param(single_step_beats_iterated, (curve(20, 5), curve(20, 8)), True, id="one step finds three more"),
        pytest.param(single_step_beats_iterated, (curve(20, 6), curve(20, 8)), False, id="one step finds two more"),
        pytest.param(black_box_beats_white_box, (curve(20, 5), curve(20, 8)), True, id="queries find three more"),
        pytest.param(black_box_beats_white_box, (curve(20, 9), curve(20, 8)), False, id="queries find less"),
        pytest.param(transfer_beats_white_box, (curve(5, 5), curve(8, 5)), True, id="others find three more"),
        pytest.param(transfer_beats_white_box, (curve(6, 5), curve(8, 5)), False, id="others find two more"),
        pytest.param(noise_as_good, (curve(20, 15), curve(18, 15)), True, id="noise finds as much"),
        pytest.param(noise_as_good, (curve(20, 15), curve(18, 14)), False, id="noise finds less"),
        pytest.param(noise_as_good, (curve(20, 18), curve(20, 18)), False, id="noise finds two by chance"),
        pytest.param(noise_as_good, (curve(20, 1), curve(9, 1)), False, id="both find nearly everything"),
    ],
)
def test_how_much_is_more_than_chance(check, arguments, said):
    assert (check(*arguments) is not None) == said


def test_curves_at_other_budgets_or_on_other_inputs_are_not_compared():
    with pytest.raises(InputError, match="same budgets"):
        single_step_beats_iterated(curve(3, 2), curve(3, 2, 1))
    with pytest.raises(InputError, match="same budgets"):
        black_box_beats_white_box(curve(3), curve(3, samples=9))


def test_the_cheap_attacks_are_what_they_stand_for():
    assert SINGLE.fixed_budget
    assert ITERATED.fixed_budget
    assert WITHOUT_GRADIENTS.black_box
    assert max(SHARES) == 1
    assert list(SHARES) == sorted(SHARES)
