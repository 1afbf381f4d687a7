from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from lipcert.attacks import Attack, CarliniWagner
from lipcert.certificates import certify
from lipcert.data import FashionMNISTMini, ImageSet
from lipcert.errors import InputError
from lipcert.harness import run_audit
from lipcert.harness.planted import own_images, planted_models, tight_network
from lipcert.harness.self_test import all_caught, exit_code, self_test, table
from lipcert.harness.trust import TITLES

IMAGES = FashionMNISTMini().split("test")
TIGHT = tight_network(IMAGES, samples=8)


def small_images(samples=200, classes=4):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    prototypes = torch.randint(0, 256, (classes, 1, 5, 5), generator=generator)
    noise = torch.randint(-60, 61, (samples, 1, 5, 5), generator=generator)
    return ImageSet((prototypes[labels] + noise).clamp(0, 255).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def results():
    """What the audit says of every planted model, by name."""
    said = {}

    def audit(network, images, **options):
        said[names[-1]] = run_audit(network, images, **options)
        return said[names[-1]]

    names = []
    verdicts = self_test(images=small_images(), audit=audit, progress=names.append)
    return said, verdicts, names


def replayed(said, change=lambda result: result):
    """Return an audit that says again what was said, changed."""
    names = []

    def audit(network, images, **options):
        if names[-1] not in said:
            raise InputError("expected a network in eval mode, got one in training mode")
        return change(said[names[-1]])

    return self_test(images=small_images(), audit=audit, progress=names.append)


def missed(verdicts):
    return {verdict.planted.name for verdict in verdicts if not verdict.caught}


def test_every_planted_model_is_reported_for_what_it_is(results):
    _, verdicts, names = results
    assert missed(verdicts) == set()
    assert len(verdicts) == len(set(names)) >= 13
    assert all_caught(verdicts)
    assert exit_code(verdicts) == 0
    assert [verdict.planted.name for verdict in verdicts] == names


def test_the_defects_of_the_issue_are_among_them(results):
    said = {verdict.planted.name: verdict.said for verdict in results[1]}
    assert "violations" in said["Lipschitz constant 10 % too small"]
    assert "violations" in said["radii 1.2 times too large"]
    assert "violations" in said["certificates of another network"]
    assert "Logits that are not finite" in said["nan"]
    assert "Randomised" in said["non-deterministic"]
    assert "Zero gradients" in said["rounded input"]
    assert "Masked gradients" in said["replaced backward pass"]
    assert "Dynamic" in said["dynamic"]
    assert said["nothing"] == "nothing"


BROKEN = {
    "an audit that keeps its warnings to itself": (
        lambda result: replace(result, warnings=()),
        lambda planted: bool(planted.warnings),
    ),
    "an audit that refutes nothing": (
        lambda result: replace(result, rows=tuple(replace(row, violated=False) for row in result.rows)),
        lambda planted: bool(planted.violated),
    ),
    "an audit that refutes everything": (
        lambda result: replace(result, rows=tuple(replace(row, violated=True) for row in result.rows)),
        lambda planted: planted.violated is False,
    ),
    "an audit that cries wolf": (
        lambda result: replace(result, warnings=(*result.warnings, "Random noise as good as an attack: at ...")),
        lambda planted: planted.violated is False,
    ),
    "an audit that takes one defect for another": (
        lambda result: replace(result, warnings=tuple(f"Too few classes: {warning}" for warning in result.warnings)),
        lambda planted: bool(planted.warnings),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_audit_is_found_out(results, name):
    change, must_miss = BROKEN[name]
    verdicts = replayed(results[0], change)
    assert missed(verdicts) == {verdict.planted.name for verdict in verdicts if must_miss(verdict.planted)} != set()
    assert exit_code(verdicts) == 1


def test_an_audit_that_changes_nothing_is_no_broken_one(results):
    assert missed(replayed(results[0])) == set()


def test_an_audit_that_refuses_everything_has_caught_nothing():
    def refusing(*arguments, **options):
        raise InputError("expected something else")

    assert len(missed(self_test(images=small_images(), audit=refusing))) >= 13


def test_an_audit_that_takes_networks_in_training_mode_has_missed_them(results):
    training = {**results[0], "training mode": results[0]["nothing"]}
    assert missed(replayed(training)) == {"training mode"}


@dataclass(frozen=True)
class Nothing(Attack):
    """Finds nothing."""

    name = "nothing"

    def run(self, model, task):
        return task.inputs


def test_attacks_that_find_nothing_miss_the_inflated_radii():
    verdicts = self_test(images=small_images(), attacks=[Nothing()])
    assert missed(verdicts) >= {"Lipschitz constant 10 % too small", "radii 1.2 times too large"}
    assert "MISSED" in table(verdicts)


def test_the_table_says_what_was_planted_and_what_was_said(results):
    lines = table(results[1]).splitlines()
    assert len([line for line in lines if line.startswith("caught")]) == len(results[1])
    assert lines[-1] == f"{len(results[1])} of {len(results[1])} planted models were reported for what they are."
    for verdict in results[1]:
        assert any(verdict.planted.name in line and verdict.planted.expected in line for line in lines)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)).eval().requires_grad_(False)


def test_defects_are_planted_in_a_network_of_the_users_own():
    network = convolutional()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    verdicts = self_test(network, small_images())
    assert missed(verdicts) == set()
    hosted = [verdict.planted for verdict in verdicts if verdict.planted.name == "non-deterministic"]
    assert type(hosted[0].network.network[0]) is nn.Conv2d
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_images_is_refused():
    with pytest.raises(InputError, match="images beside the network"):
        self_test(convolutional())


def test_the_tight_network_is_tight():
    inputs = TIGHT.images.inputs()
    found = certify(TIGHT.network, inputs)
    assert torch.equal(found.prediction, TIGHT.images.labels)
    outcome = CarliniWagner(2, 200, 0.03)(TIGHT.network, inputs, found.prediction)
    ratio = outcome.verified.distance / found.radius
    assert 1 <= ratio.min() <= ratio.median() < 1.02
    for layer in (TIGHT.network[1], TIGHT.network[3]):
        gram = layer.weight.double() @ layer.weight.double().mT
        assert torch.allclose(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-5)


def test_the_tight_network_knows_something():
    images = small_images()
    network = tight_network(images).network
    assert (network((images.images // 2 + 64).float() / 255).argmax(1) == images.labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (torch.zeros(4, 1, 5, 5, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(9, 1, 2, 2, dtype=torch.uint8), torch.arange(9)),
    ],
    ids=["one class", "more classes than pixels"],
)
def test_images_that_no_tight_network_can_be_made_for_are_refused(pixels, labels):
    with pytest.raises(InputError, match="two classes and as many pixels"):
        tight_network(ImageSet(pixels, labels))


def test_classes_may_be_missing_and_numbers_large():
    images = small_images()
    sound = tight_network(ImageSet(images.images, images.labels * 7 + 2))
    assert sound.network(sound.images.inputs()).shape[1] == 4


def test_the_users_images_have_the_networks_own_classes():
    network = convolutional()
    sound = own_images(network, small_images(), samples=5)
    assert len(sound.images) == 5
    assert torch.equal(network(sound.images.inputs()).argmax(1), sound.images.labels)


def test_what_is_expected_can_be_said():
    for planted in planted_models(TIGHT):
        assert set(planted.warnings) <= set(TITLES)
        assert planted.expected != "nothing" or planted.violated is False
