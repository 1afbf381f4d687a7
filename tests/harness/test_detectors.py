from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from linear_problem import linear_network, linear_problem
from torch import nn

from lipcert.attacks import (
    Attack,
    AutoAttack,
    BoundaryAttack,
    BoundaryWalk,
    CarliniWagner,
    DecoupledDirection,
    DeepFool,
    FastGradient,
    FastMinimumNorm,
    Findings,
    HopSkipJump,
    ProjectedGradient,
    SquareAttack,
)
from lipcert.certificates import certify
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import BUDGETS, SampleRow, Subject, run_audit
from lipcert.harness.detectors import (
    REJECTED,
    DetectedNetwork,
    KeepsClass,
    certify_detected,
    check_rejects,
    false_alarms,
    load_detected,
)
from lipcert.harness.joint_attack import joint_budget, jointly
from lipcert.harness.trust import trust_checks


class Score(nn.Module):
    """A linear score of the pixels."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))
        self.bias = bias

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight + self.bias


class Flag(Score):
    def forward(self, inputs):
        return super().forward(inputs) > 0


# two pixels: class 0 right of 1/2, flagged below x + y = 1.4
CLASSIFIER = linear_network(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5]))
DETECTOR = Score([-1.0, -1.0], 1.4)
JOINT = DetectedNetwork(CLASSIFIER, DETECTOR, threshold=0.0).eval()
IMAGE = torch.tensor([0.75, 0.75]).view(1, 1, 1, 2)
NEAREST_FLAGGED, NEAREST = 0.25, (0.25**2 + 0.15**2) ** 0.5  # to the boundary, and to its part that is not flagged
SEARCH = CarliniWagner(4, 200, 0.03)


def points(count=400):
    return torch.rand(count, 1, 1, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [1.0, 1e9, 1e-30], ids=["logits", "huge logits", "tiny logits"])
@pytest.mark.parametrize("detector", [DETECTOR, Flag([-1.0, -1.0], 1.4)], ids=["score", "flag"])
def test_the_last_logit_is_the_largest_exactly_where_the_detector_flags(size, detector):
    network = DetectedNetwork(nn.Sequential(CLASSIFIER, Scaled(size)), detector, threshold=0.0).eval()
    inputs = torch.cat([points(), torch.tensor([[0.5, 0.9], [0.5, 0.900001], [0.9, 0.49999]]).view(3, 1, 1, 2)])
    flagged = network.flags(inputs)
    assert 0 < int(flagged.sum()) < len(inputs)
    logits = network(inputs)
    assert torch.equal(logits.argmax(1) == 2, flagged)
    assert torch.equal(logits[:, :2], CLASSIFIER(inputs) * size)
    assert torch.equal(logits[~flagged].argmax(1), CLASSIFIER(inputs[~flagged]).argmax(1))


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, inputs):
        return inputs * self.factor


def test_the_threshold_itself_is_not_flagged():
    network = DetectedNetwork(CLASSIFIER, Score([1.0, 0.0]), threshold=0.5).eval()
    assert network(torch.tensor([0.5, 0.0]).view(1, 1, 1, 2)).argmax(1).item() == 0


def test_the_last_logit_leads_below_the_threshold():
    leaf = IMAGE.clone().requires_grad_()
    logits = JOINT(leaf)
    (slope,) = torch.autograd.grad(logits[0, 2] - logits[0].amax(), leaf)
    assert torch.allclose(slope.flatten(), torch.tensor([-1.0, -1.0]))


def test_a_score_that_is_nan_is_rejected():
    class Broken(nn.Module):
        def forward(self, inputs):
            return inputs.flatten(1).sum(1) * torch.nan

    assert DetectedNetwork(CLASSIFIER, Broken()).eval()(IMAGE).argmax(1).item() == 2


def test_keeping_the_class_is_being_rejected_or_not_misclassified():
    inputs = points()
    flagged, classes = JOINT.flags(inputs), CLASSIFIER(inputs).argmax(1)
    for label in (0, 1):
        kept = KeepsClass(JOINT, label)(inputs).argmax(1) == label
        assert torch.equal(kept, flagged | (classes == label))


def test_what_is_found_is_misclassified_and_not_flagged():
    label = torch.tensor([0])
    alone = SEARCH(CLASSIFIER, IMAGE, label)
    assert alone.verified.distance.item() == pytest.approx(NEAREST_FLAGGED, rel=0.02)
    assert JOINT.flags(alone.candidates).item(), "the nearest example of the classifier alone has to be one that counts"
    both = jointly(SEARCH)(JOINT, IMAGE, label)
    assert both.verified.success.item()
    assert both.verified.prediction.item() == 1
    assert not JOINT.flags(both.candidates).item()
    assert NEAREST <= both.verified.distance.item() < 1.05 * NEAREST


@dataclass(frozen=True)
class Scatter(Attack):
    """Knows some images, and says which."""

    name: ClassVar[str] = "scatter"
    norms = ("l2", "linf")
    black_box = True
    spread: float = 1.0

    def run(self, model, task):
        model(task.inputs)
        count = len(task.inputs)
        return Findings(points(count) * self.spread, {"number": tuple(range(count))})


@pytest.mark.parametrize("spread", [1.0, 1.5], ids=["in the box", "and outside"])
def test_nothing_that_is_flagged_or_no_image_counts(spread):
    joint = DetectedNetwork(CLASSIFIER, DETECTOR, threshold=0.5).eval()
    inputs = points(200).flip(0)
    labels = joint(inputs).argmax(1)
    assert set(labels.tolist()) == {0, 1, 2}
    outcome = jointly(Scatter(spread=spread))(joint, inputs, labels)
    assert 0 < int(outcome.verified.success.sum()) < 200
    assert not bool((outcome.verified.prediction[outcome.verified.success] == 2).any())
    assert not bool(joint.flags(outcome.candidates[outcome.verified.success]).any())
    assert not bool(outcome.verified.success[labels == 2].any())
    assert torch.equal(outcome.candidates[labels == 2], inputs[labels == 2])


def test_details_are_put_back_in_their_places():
    inputs = points(50).clamp(0.3, 1.0)
    labels = JOINT(inputs).argmax(1)
    numbers = jointly(Scatter())(JOINT, inputs, labels).details["number"]
    for label in (0, 1):
        of_label = [number for number, own in zip(numbers, labels.tolist(), strict=True) if own == label]
        assert of_label == list(range(len(of_label)))
    assert {number for number, own in zip(numbers, labels.tolist(), strict=True) if own == 2} == {None}


def test_an_attack_stays_what_it_is():
    joint = jointly(Scatter(spread=0.5))
    assert (joint.name, joint.norms, joint.black_box) == ("scatter with detector", ("l2", "linf"), True)
    assert joint.parameters() == {"spread": 0.5}
    assert "Scatter(spread=0.5)" in repr(joint)
    assert joint.forward_budget(3) is None
    assert jointly(SEARCH).forward_budget(3) == SEARCH.forward_budget(3) + 7


def detected_problem():
    network, pixels, prediction, distance = linear_problem(samples=14)
    inputs = pixels.float() / 255
    brightness = inputs.flatten(1).sum(1)
    threshold = float(brightness.sort().values[-3:-1].mean())  # flags the two brightest
    detector = Score([1.0] * 16)
    joint = DetectedNetwork(network, detector, threshold=threshold).eval()
    return joint, ImageSet(pixels, prediction), distance, brightness > threshold


def test_the_classifiers_certificates_hold_for_both():
    joint, images, _, flagged = detected_problem()
    inputs = images.inputs()
    found, alone = certify_detected(joint, inputs), certify(joint.classifier, inputs)
    assert flagged.sum() == 2
    assert torch.equal(found.radius[~flagged], alone.radius[~flagged])
    assert torch.equal(found.prediction[~flagged], alone.prediction[~flagged])
    assert found.radius[flagged].tolist() == [0.0, 0.0]
    assert found.prediction[flagged].tolist() == [4, 4]
    assert "flagged" in found.assumptions[-1]
    assert torch.equal(certify_detected(joint.classifier, inputs).radius, alone.radius)


def test_a_detector_is_audited_with_its_classifier():
    joint, images, distance, flagged = detected_problem()
    result = run_audit(
        joint,
        images,
        samples=torch.arange(14),
        attacks=[jointly(BoundaryWalk())],
        certifier=certify_detected,
        subject=Subject(class_names=("a", "b", "c", "d", REJECTED)),
    )
    assert result.verdict == "pass"
    assert [row.prediction == 4 for row in result.rows] == flagged.tolist()
    for row, alone in zip(result.rows, distance.tolist(), strict=True):
        if row.prediction == 4:
            assert row.distance is None
        elif row.distance is not None:
            assert alone <= row.distance
            assert row.adversarial_prediction not in (4, row.prediction)
    assert sum(row.distance is not None for row in result.rows) > 6


def test_a_detector_without_certificates_behind_it_is_found_out():
    """The mutant: an inflated certificate of the classifier is refuted, though a detector stands beside it."""
    joint, images, _, _ = detected_problem()

    def inflated(model, inputs):
        found = certify_detected(model, inputs)
        found.radius.mul_(1.5)
        return found

    result = run_audit(joint, images, samples=torch.arange(14), attacks=[jointly(BoundaryWalk())], certifier=inflated)
    assert result.verdict == "fail"


def test_clean_images_that_are_flagged_are_counted():
    joint, images, _, _ = detected_problem()
    rows = [SampleRow(number, 0, int(label), 0.0) for number, label in enumerate(joint(images.inputs()).argmax(1))]
    assert "flags 2 of 14 clean images (14.3%)" in false_alarms(rows, 4)
    assert false_alarms(rows, 5) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": float("nan")}, "threshold"), ({"slope": 0.0}, "slope"), ({"slope": float("inf")}, "slope")],
)
def test_unusable_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DetectedNetwork(CLASSIFIER, DETECTOR, **options)


def test_a_detector_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"shape \(1,\), got \(1, 2\)"):
        DetectedNetwork(CLASSIFIER, nn.Flatten())(IMAGE)


def trusted(detector):
    network, pixels, _, _ = linear_problem(samples=16)
    joint = DetectedNetwork(network, detector, threshold=8.0).eval()
    inputs = pixels.float() / 255
    constant = certify_detected(joint, inputs).lipschitz_upper_bound
    said = trust_checks(joint, inputs, joint(inputs).argmax(1), lipschitz_upper_bound=constant)
    return [warning.partition(":")[0] for warning in said]


def test_a_detector_with_a_score_raises_no_alarm():
    assert trusted(Score([50.0] * 16)) == []  # steeper than the classifier's constant, which is not about it


def test_a_detector_without_a_slope_is_told_from_one_with():
    assert trusted(Flag([1.0] * 16, -8.0)) == ["Detector without a slope"]
    assert trusted(nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))) == []


class Noisy(Score):
    def forward(self, inputs):
        return super().forward(inputs) + torch.randn(len(inputs))


class Nan(Score):
    def forward(self, inputs):
        return super().forward(inputs).log()


@pytest.mark.parametrize(("detector", "title"), [(Noisy, "Randomised"), (Nan, "Logits that are not finite")])
def test_what_is_wrong_with_the_detector_is_wrong_with_both(detector, title):
    assert title in trusted(detector([1.0] * 16, -8.0))


def test_every_attack_of_a_budget_is_made_one_on_both():
    budget = joint_budget(BUDGETS["thorough"]([0.5]))
    assert len(budget.stages) == len(BUDGETS["thorough"]([0.5]).stages)
    assert all(stage.attack.name.endswith(" with detector") for stage in (*budget.stages, *budget.again))
    assert any(stage.attack.black_box for stage in budget.stages)


EVERY = [
    BoundaryWalk(),
    FastMinimumNorm(steps=30),
    DecoupledDirection(steps=30),
    DeepFool(),
    CarliniWagner(1, 30, 0.05),
    FastGradient("l2"),
    ProjectedGradient(steps=5),
    SquareAttack(queries=50),
    HopSkipJump(queries=200),
    BoundaryAttack(queries=100),
    AutoAttack(components=("apgd-ce", "fab-t")),
]


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.name)
def test_every_attack_works_on_both(attack):
    joint, images, distance, flagged = detected_problem()
    inputs, labels = images.inputs()[:6], joint(images.inputs())[:6].argmax(1)
    outcome = jointly(attack)(joint, inputs, labels, epsilon=1.0 if attack.fixed_budget else None)
    success = outcome.verified.success
    assert bool(success.any())
    assert not bool(success[flagged[:6]].any())
    assert bool((outcome.verified.distance >= distance[:6]).all())
    assert not bool(joint.flags(outcome.candidates[success]).any())
    assert bool((joint.classifier(outcome.candidates[success]).argmax(1) != labels[success]).all())


def test_thresholds_are_part_of_what_is_audited():
    states = [DetectedNetwork(CLASSIFIER, DETECTOR, threshold=value).state_dict() for value in (0.25, 0.5)]
    assert [state["threshold"].item() for state in states] == [0.25, 0.5]


def test_a_detector_is_loaded_by_its_import_path():
    joint = load_detected(CLASSIFIER, "test_detectors:Flag", arguments='{"weight": [-1.0, -1.0], "bias": 1.4}')
    assert torch.equal(joint.flags(points()), JOINT.flags(points()))
    assert not any(module.training for module in joint.modules())
    check_rejects(joint, IMAGE, 2)
    with pytest.raises(InputError, match="expected 4 logits, one a class and one for rejection, got 3"):
        check_rejects(joint, IMAGE, 3)
    with pytest.raises(InputError, match="expected a detector that runs on images"):
        check_rejects(joint, torch.rand(1, 1, 3, 3), 2)
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        load_detected(CLASSIFIER, "nowhere:Flag")
