"""Detectors: their scores, their thresholds and what these promise, and probabilities that mean something."""

import json
import math

import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc, binary_roc

from lipcert import InputError, export, load_network, save_network
from lipcert.attacks import ProjectedGradient
from lipcert.defenses import BinaryDetector, BitDepth, GaussianSmoothing, MedianFilter, SqueezingDetector
from lipcert.defenses.calibration import operating_point, platt, roc_curve, threshold_at
from lipcert.defenses.postprocessing import HighConfidence, ReverseSigmoid, RoundedProbabilities
from lipcert.harness.detectors import DetectedNetwork, load_detected
from lipcert.harness.joint_attack import jointly

INPUTS = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def linear(classes=3, scale=10.0):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
    network[1].weight.data *= scale
    return network.eval()


def test_squeezing_scores_are_the_largest_l1_change_of_probabilities():
    network, squeezers = linear(), [BitDepth(2), MedianFilter(3)]
    scores = SqueezingDetector(network, squeezers).eval()(INPUTS)
    for image, score in zip(INPUTS, scores, strict=True):
        before = network(image[None]).softmax(1)[0]
        changes = [(network(squeeze(image[None])).softmax(1)[0] - before).abs().sum() for squeeze in squeezers]
        assert score.item() == pytest.approx(max(changes).item(), abs=1e-6)


def test_a_detector_without_a_threshold_says_so_and_is_calibrated():
    detector = SqueezingDetector(linear(), [BitDepth(2)]).eval()
    with pytest.raises(InputError, match="expected a threshold, given or calibrated, got none"):
        detector.flags(INPUTS)
    threshold = detector.calibrate(INPUTS, 0.1)
    scores = detector(INPUTS)
    assert threshold == scores.sort().values[-4].item()
    assert detector.flags(INPUTS).sum() == 3


def test_the_false_positive_rate_is_met_on_fresh_images_within_a_point():
    generator = torch.Generator().manual_seed(2)
    detector = SqueezingDetector(linear(scale=2.0), [BitDepth(2), GaussianSmoothing(0.5)]).eval()
    detector.calibrate(torch.rand(8000, 1, 6, 6, generator=generator), 0.05)
    rate = detector.flags(torch.rand(8000, 1, 6, 6, generator=generator)).double().mean().item()
    assert rate == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("ties", [False, True])
def test_the_promise_of_the_threshold_is_kept_on_average(rate, ties):
    draws = torch.rand(20_000, 40, generator=torch.Generator().manual_seed(3)).double()
    draws = (draws * 8).floor() if ties else draws
    flagged = sum(float(row[-1] > threshold_at(row[:-1], rate)) for row in draws) / len(draws)
    deviation = math.sqrt(rate * (1 - rate) / len(draws))
    assert flagged <= rate + 4 * deviation
    if not ties:  # (n + 1) rate is whole: nothing is given away
        assert flagged >= rate - 4 * deviation


def test_a_confidence_bounds_the_rate_of_the_threshold_itself():
    generator = torch.Generator().manual_seed(4)
    rates = [
        1 - threshold_at(torch.rand(200, generator=generator), 0.1, confidence=0.9)  # of uniform scores, exactly
        for _ in range(2000)
    ]
    above = sum(rate > 0.1 for rate in rates) / len(rates)
    assert above <= 0.1 + 4 * math.sqrt(0.09 / len(rates))
    assert above >= 0.04  # and no more cautious than whole numbers demand


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(8), 0.1), "expected more clean scores for a false-positive rate of 0.1, got 8"),
        ((torch.rand(8), 0.0), "expected 0 < false_positive_rate < 1, got 0"),
        ((torch.tensor([torch.nan] * 20), 0.1), "expected finite scores, got nan or infinity"),
        ((torch.zeros(0), 0.1), r"expected scores of shape \(n,\), got \(0,\)"),
    ],
)
def test_thresholds_that_cannot_be_had(arguments, message):
    with pytest.raises(InputError, match=message):
        threshold_at(*arguments)


def test_the_curve_is_torchmetrics_and_so_is_its_area():
    generator = torch.Generator().manual_seed(5)
    clean = (torch.rand(70, generator=generator) * 20).floor() / 20
    adversarial = (torch.rand(50, generator=generator).sqrt() * 20).floor() / 20
    scores, target = torch.cat([clean, adversarial]), torch.cat([torch.zeros(70), torch.ones(50)]).long()
    curve = roc_curve(clean, adversarial)
    false, true, thresholds = binary_roc(scores, target)
    assert curve.area == pytest.approx(binary_auroc(scores, target).item(), abs=1e-6)
    # what reaches a threshold there is above the next lower one here
    assert torch.allclose(curve.false_positive_rate[1:], false[1:].double(), atol=1e-6)
    assert torch.allclose(curve.true_positive_rate[1:], true[1:].double(), atol=1e-6)
    assert torch.equal(curve.thresholds[:-1], thresholds[1:].double())


def test_an_operating_point_lies_on_the_curve():
    clean, adversarial = torch.rand(50), torch.rand(50) + 0.3
    curve = roc_curve(clean, adversarial)
    point = operating_point(clean, adversarial, curve.thresholds[40].item())
    assert point.false_positive_rate == pytest.approx(curve.false_positive_rate[40].item())
    assert point.true_positive_rate == pytest.approx(curve.true_positive_rate[40].item())


def test_platt_finds_the_odds_that_scores_were_drawn_with():
    generator = torch.Generator().manual_seed(6)
    scores = 4 * torch.randn(20_000, generator=generator).double() + 1
    labels = (torch.rand(20_000, generator=generator) < torch.sigmoid(0.5 * scores - 2)).long()
    scale, shift = platt(scores, labels)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(-2, abs=0.1)


def test_platt_stays_finite_where_scores_separate_the_labels():
    scale, shift = platt(torch.tensor([-1.0, -2.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 1]))
    assert 0 < scale < 10
    assert shift == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4), "expected clean and adversarial samples, got 4 and 0"),
        (torch.ones(4), "expected clean and adversarial samples, got 0 and 4"),
        (torch.tensor([0, 1, 2, 1]), "expected 4 labels, 0 for clean and 1 for adversarial, got others"),
    ],
)
def test_platt_needs_both_kinds(labels, message):
    with pytest.raises(InputError, match=message):
        platt(torch.arange(4.0), labels)


def test_calibration_of_a_detector_is_repeatable_and_changes_no_order():
    detector = BinaryDetector(linear(2)).eval()
    labels = (torch.rand(40, generator=torch.Generator().manual_seed(7)) < detector.probabilities(INPUTS)).long()
    before = detector(INPUTS)
    detector.calibrate(INPUTS, labels)
    after = detector(INPUTS)
    assert torch.equal(before.argsort(), after.argsort())
    detector.calibrate(INPUTS, labels)
    assert torch.allclose(detector(INPUTS), after, atol=1e-3)
    detector.calibrate_threshold(INPUTS, 0.1)
    assert detector.flags(INPUTS).sum() == 3


def test_a_detector_with_other_than_two_logits_is_refused():
    with pytest.raises(InputError, match=r"expected two logits, clean and adversarial, got shape \(40, 3\)"):
        BinaryDetector(linear(3))(INPUTS)


def test_a_saved_detector_is_one_option_of_the_audit(tmp_path):
    network = {"class_path": "lipcert.networks.dense_network"}
    network["init_args"] = {"input_shape": [1, 6, 6], "num_classes": 4, "widths": [4]}
    recipe = {"network": network, "squeezers": [{"class_path": "lipcert.defenses.BitDepth"}]}
    from lipcert.deployment import build_network

    detector = build_network("lipcert.defenses.SqueezingDetector", recipe).eval()
    plain = export(detector)
    threshold = plain.calibrate(INPUTS, 0.1)
    path = tmp_path / "detector.safetensors"
    save_network(plain, path, SqueezingDetector, **recipe)
    assert load_network(path).threshold.item() == threshold
    classifier = linear()
    arguments = json.dumps({"path": str(path)})
    joint = load_detected(classifier, "lipcert:load_network", arguments=arguments, threshold=threshold)
    assert torch.equal(joint(INPUTS).argmax(1) == 3, plain.flags(INPUTS))


def test_a_joint_attack_evades_classifier_and_squeezing_together():
    network = linear(scale=20.0)
    detector = SqueezingDetector(network, [BitDepth(3), GaussianSmoothing(0.4)]).eval()
    detector.calibrate(INPUTS, 0.1)
    joint = DetectedNetwork(network, detector, threshold=detector.threshold.item()).eval()
    labels = joint(INPUTS).argmax(1)
    attack = ProjectedGradient(steps=60, loss="margin")
    alone = attack(network, INPUTS, network(INPUTS).argmax(1), norm="linf", epsilon=0.3)
    together = jointly(attack)(joint, INPUTS, labels, norm="linf", epsilon=0.3)
    accepted = labels < 3
    assert not detector.flags(together.candidates)[accepted].any()
    assert together.verified.success[accepted].double().mean() > 0.8
    assert alone.verified.success.all()


@pytest.mark.parametrize("module", [RoundedProbabilities(2), HighConfidence(0.2), ReverseSigmoid(0.5, 0.2)])
def test_postprocessing_keeps_the_class(module):
    logits = linear(5)(INPUTS)
    certain = logits.softmax(1).topk(2).values
    logits = logits[(certain[:, 0] - certain[:, 1]) > 0.02]
    published = module(logits)
    assert torch.equal(published.argmax(1), logits.argmax(1))
    assert not torch.allclose(published, logits.softmax(1))


def test_postprocessing_by_its_formulas():
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert RoundedProbabilities(1)(torch.tensor([[0.64, 0.36]]).log()).tolist()[0] == pytest.approx([0.6, 0.4])
    assert HighConfidence(0.3 + 1e-3)(logits)[0].tolist() == pytest.approx([0.6, 0, 0])
    raw = [p - 0.4 * (1 / (1 + math.exp(-0.5 * math.log(p / (1 - p)))) - 0.5) for p in (0.6, 0.3, 0.1)]
    assert ReverseSigmoid(0.4, 0.5)(logits)[0].tolist() == pytest.approx([value / sum(raw) for value in raw], rel=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SqueezingDetector(linear(), []), "expected at least one squeezer, and transformations only, got none"),
        (lambda: SqueezingDetector(linear(), [nn.ReLU()]), "transformations only, got ReLU"),
        (lambda: SqueezingDetector(linear(), [BitDepth()], threshold=-1.0), "expected a finite threshold >= 0, got -1"),
        (lambda: SqueezingDetector(linear(), [BitDepth()])(255 * INPUTS), r"expected inputs in \[0, 1\]"),
        (lambda: BinaryDetector(linear(2), threshold=math.nan), "expected a threshold, got nan"),
        (lambda: RoundedProbabilities(0), "expected decimals >= 1, got 0"),
        (lambda: HighConfidence(1.0), "expected 0 < cutoff < 1, got 1"),
        (lambda: ReverseSigmoid(0.0), "expected 0 < beta <= 1, got 0"),
    ],
)
def test_bad_settings_are_one_clear_error(build, message):
    with pytest.raises(InputError, match=message):
        build()
