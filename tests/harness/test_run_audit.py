from dataclasses import dataclass, replace

import pytest
import torch
from linear_problem import linear_network, linear_problem
from straight_attack import Straight

from lipcert.attacks import Attack, Verified
from lipcert.certificates import Certificate, certify
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import AuditInterrupted, Budget, Stage, Subject, run_audit
from lipcert.harness.ledger import GALLERY, refuted

QUICK = Straight()
SAMPLES = 14


@dataclass(frozen=True)
class Nothing(Attack):
    """Finds nothing."""

    name = "nothing"

    def run(self, model, task):
        return task.inputs


@dataclass(frozen=True)
class Black(Attack):
    """Knows one image only."""

    name = "black"

    def run(self, model, task):
        model(task.inputs)
        return torch.zeros_like(task.inputs)


@dataclass(frozen=True)
class OutOfBounds(Attack):
    """Leaves the box, and takes a nan with it."""

    name = "out-of-bounds"

    def run(self, model, task):
        moved = task.inputs - 100 * torch.sign(torch.randn_like(task.inputs))
        moved[0] = torch.nan
        return moved


@dataclass(frozen=True)
class Impatient(Attack):
    """Is interrupted at the third sample."""

    name = "impatient"

    def run(self, model, task):
        if torch.equal(task.inputs[0], THIRD):
            raise KeyboardInterrupt
        return torch.zeros_like(task.inputs)


PROBLEM = linear_problem(samples=SAMPLES)
THIRD = PROBLEM[1][2].float() / 255


def images(labels=None):
    _, pixels, prediction, _ = PROBLEM
    return ImageSet(pixels, prediction if labels is None else labels)


def everything():
    return torch.arange(SAMPLES)


def inflated(factor):
    """A planted mutant: certificates with radii that are too large, or too small."""

    def certifier(model, inputs):
        certificate = certify(model, inputs)
        return replace(certificate, radius=certificate.radius * factor)

    return certifier


def test_sound_certificates_stand_and_are_tight():
    network, _, _, distance = PROBLEM
    result = run_audit(network, images(), samples=everything(), attacks=[QUICK])
    assert result.verdict == "pass"
    assert result.violations == ()
    for row, exact in zip(result.rows, distance.tolist(), strict=True):
        assert row.attacked
        assert row.attack == "straight"
        assert row.radius <= exact <= row.distance <= 1.05 * exact
    [attack] = result.attacks
    assert (attack.samples, attack.success_rate, attack.violations) == (SAMPLES, 1.0, 0)
    assert attack.forward_passes == QUICK.forward_budget(SAMPLES)
    assert attack.parameters == {"beyond": 1e-3, "shaky": 0.0}


def test_inflated_radii_are_refuted_and_the_evidence_is_kept():
    network = PROBLEM[0]
    result = run_audit(network, images(), samples=everything(), attacks=[QUICK], certifier=inflated(1.2))
    assert result.verdict == "fail"
    assert [row.index for row in result.violations] == list(range(SAMPLES))
    assert result.attacks[0].violations == SAMPLES
    assert [item.index for item in result.gallery] == list(range(SAMPLES))
    assert SAMPLES > GALLERY
    for item in result.gallery:
        adversarial = torch.from_numpy(item.adversarial)
        assert network(adversarial[None]).argmax(1).item() == item.adversarial_prediction != item.label
        true = (adversarial.double() - images().inputs()[item.index].double()).norm().item()
        assert true <= item.distance < item.radius
        assert item.distance == pytest.approx(true, rel=1e-12)


def test_one_inflated_radius_among_many_is_found():
    def certifier(model, inputs):
        certificate = certify(model, inputs)
        certificate.radius[5] *= 1.1
        return certificate

    result = run_audit(PROBLEM[0], images(), samples=everything(), attacks=[QUICK], certifier=certifier)
    assert [row.index for row in result.violations] == [5]
    assert 5 in {item.index for item in result.gallery}


def test_smaller_radii_stand():
    result = run_audit(PROBLEM[0], images(), samples=everything(), attacks=[QUICK], certifier=inflated(0.5))
    assert result.verdict == "pass"
    assert all(row.ratio >= 2 for row in result.rows)


def test_a_certificate_for_another_class_is_refuted_by_the_clean_image():
    def certifier(model, inputs):
        certificate = certify(model, inputs)
        certificate.prediction[7] = (certificate.prediction[7] + 1) % 4
        return certificate

    result = run_audit(PROBLEM[0], images(), attacks=[Nothing()], certifier=certifier)
    [row] = result.violations
    assert (row.index, row.distance, row.attack) == (7, 0.0, "clean-input")
    assert 7 in {item.index for item in result.gallery}


@pytest.mark.parametrize("attack", [Nothing(), OutOfBounds()], ids=lambda attack: attack.name)
def test_what_is_no_image_refutes_nothing(attack):
    result = run_audit(PROBLEM[0], images(), samples=everything(), attacks=[attack], certifier=inflated(1e6))
    assert result.verdict == "pass"
    assert result.attacks[0].success_rate == 0
    assert result.attacks[0].median_distance is None
    assert all(row.attacked and row.distance is None for row in result.rows)
    assert any("No adversarial example was found for 14 samples" in warning for warning in result.warnings)


def test_the_nearest_example_of_several_attacks_counts():
    network = PROBLEM[0]
    for attacks in ([Black(), QUICK], [QUICK, Black()]):
        result = run_audit(network, images(), samples=everything(), attacks=attacks)
        assert {row.attack for row in result.rows} == {QUICK.name}
        assert [row.name for row in result.attacks] == [attack.name for attack in attacks]
        assert all(item.attack == QUICK.name for item in result.gallery)


def test_a_wrong_sample_is_attacked_away_from_its_prediction():
    network, _, prediction, distance = PROBLEM
    labels = (prediction + 1) % 4
    labels[0] = prediction[0]
    result = run_audit(network, images(labels), samples=torch.tensor([3]), attacks=[QUICK])
    row = result.rows[3]
    assert not row.correct
    assert distance[3] <= row.distance <= 1.05 * distance[3]


def test_by_default_the_first_correct_image_of_each_class_is_attacked():
    _, _, prediction, _ = PROBLEM
    labels = prediction.clone()
    first = int((prediction == 0).nonzero()[0])
    labels[first] = 1
    result = run_audit(PROBLEM[0], images(labels), attacks=[Nothing()])
    expected = {int(((prediction == c) & (labels == c)).nonzero()[0]) for c in range(4)}
    assert {row.index for row in result.rows if row.attacked} == expected
    assert first not in expected
    assert any(f"4 of {SAMPLES} certificates were attacked" in warning for warning in result.warnings)


def test_an_interrupted_audit_hands_over_what_it_knows():
    budget = Budget("small chunks", (Stage(Impatient(), chunk=2),))
    with pytest.raises(AuditInterrupted) as stopped:
        run_audit(PROBLEM[0], images(), samples=everything(), budget=budget)
    result = stopped.value.result
    assert [row.index for row in result.rows if row.attacked] == [0, 1]
    assert result.attacks[0].samples == 2
    assert "interrupted" in result.warnings[0]
    assert isinstance(stopped.value, KeyboardInterrupt)


def test_names_reach_the_report():
    subject = Subject("net", "f" * 64, "toy", "val", ("a", "b", "c", "d"), "do it")
    result = run_audit(PROBLEM[0], images(), attacks=[Nothing()], subject=subject, epsilons=[1, 0.5])
    assert (result.model_name, result.model_sha256, result.command) == ("net", "f" * 64, "do it")
    assert (result.data_name, result.data_split, result.class_names) == ("toy", "val", ("a", "b", "c", "d"))
    assert result.data_sha256 == images().sha256
    assert result.model_parameters == 4 * 16 + 4
    assert result.epsilons == (0.5, 1.0)
    assert {"python", "torch", "foolbox", "lipcert", "platform", "threads", "device"} <= set(result.environment)


def test_without_a_file_the_tensors_are_the_checksum():
    network = PROBLEM[0]
    other = linear_network(network[1].weight * 2, network[1].bias)
    sums = {run_audit(n, images(), attacks=[Nothing()]).model_sha256 for n in (network, network, other)}
    assert len(sums) == 2


def test_a_hopeless_network_is_warned_about():
    labels = (PROBLEM[2] + 1) % 4
    labels[0] = PROBLEM[2][0]
    result = run_audit(PROBLEM[0], images(labels), attacks=[Nothing()])
    assert any("no better than chance: 1 of 14 right" in warning for warning in result.warnings)


def broken(**changes):
    return lambda model, inputs: replace(certify(model, inputs), **changes)


UNUSABLE = [
    ("negative epsilon", {"epsilons": [0.5, -1]}, "epsilon"),
    ("nan epsilon", {"epsilons": [float("nan")]}, "epsilon"),
    ("no samples", {"samples": torch.zeros(0, dtype=torch.int64)}, "at least one sample"),
    ("sample out of range", {"samples": torch.tensor([0, SAMPLES])}, "from 0 to 13"),
    ("negative sample", {"samples": torch.tensor([-1])}, "from 0 to 13"),
    ("a sample twice", {"samples": torch.tensor([1, 1])}, "twice"),
    ("nan radius", {"certifier": broken(radius=torch.full((SAMPLES,), torch.nan))}, "radii >= 0"),
    ("negative radius", {"certifier": broken(radius=torch.full((SAMPLES,), -1.0))}, "radii >= 0"),
    ("too few radii", {"certifier": broken(radius=torch.ones(2))}, "radii of shape"),
]


@pytest.mark.parametrize(("arguments", "message"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_unusable_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        run_audit(PROBLEM[0], images(), attacks=[Nothing()], **arguments)


def test_labels_that_the_network_does_not_have_are_refused():
    labels = PROBLEM[2].clone()
    labels[3] = 4
    with pytest.raises(InputError, match="labels from 0 to 3, got 0 to 4"):
        run_audit(PROBLEM[0], images(labels), attacks=[Nothing()])


def test_nothing_right_and_no_samples_given_is_refused():
    with pytest.raises(InputError, match="correctly classified"):
        run_audit(PROBLEM[0], images((PROBLEM[2] + 1) % 4), attacks=[Nothing()])


def test_training_mode_is_refused():
    network = linear_network(PROBLEM[0][1].weight, PROBLEM[0][1].bias).train()
    with pytest.raises(InputError, match="eval mode"):
        run_audit(network, images(), attacks=[Nothing()])


@pytest.mark.parametrize(
    ("distance", "confirmed", "expected"),
    [
        pytest.param(0.5, True, True, id="deep inside"),
        pytest.param(0.5, False, True, id="deep inside, float32 only"),
        pytest.param(0.9995, True, True, id="at the boundary"),
        pytest.param(0.9995, False, False, id="at the boundary, float32 only"),
        pytest.param(1.0, True, False, id="exactly at the radius"),
        pytest.param(1.5, True, False, id="outside"),
    ],
)
def test_when_a_certificate_is_refuted(distance, confirmed, expected):
    found = Verified(
        torch.tensor([True]), torch.tensor([confirmed]), torch.tensor([distance]).double(), torch.tensor([1])
    )
    assert refuted(found, torch.ones(1).double()).item() is expected
    assert not refuted(replace(found, success=torch.tensor([False])), torch.ones(1).double()).item()


class Cancelling(torch.nn.Module):
    """Its float32 evaluation is blind, its float64 evaluation is not."""

    def forward(self, inputs):
        pixel = (inputs.flatten(1) + 1e8) - 1e8
        return torch.cat([pixel, torch.full_like(pixel, 0.25)], dim=1)


def test_rounding_that_ruins_the_deployed_network_is_no_excuse():
    def certifier(model, inputs):
        ones = torch.ones(len(inputs), dtype=torch.float64)
        return Certificate(torch.zeros(len(inputs), dtype=torch.int64), ones / 4, "l2", "best", 1.0, (), "real", ())

    pixels = torch.full((1, 1, 1, 1), 128, dtype=torch.uint8)
    result = run_audit(
        Cancelling().eval(),
        ImageSet(pixels, torch.tensor([0])),
        samples=torch.tensor([0]),
        attacks=[Nothing()],
        certifier=certifier,
    )
    assert result.verdict == "fail"


@pytest.mark.parametrize("distance", [0.0, 0.5, 0.99999])
def test_a_float32_certificate_is_not_excused_by_rounding(distance):
    found = Verified(torch.tensor([True]), torch.tensor([False]), torch.tensor([distance]).double(), torch.tensor([1]))
    assert refuted(found, torch.ones(1).double(), arithmetic="float32").item()
    assert not refuted(replace(found, distance=torch.ones(1).double()), torch.ones(1).double(), arithmetic="float32")
