"""Metrics under attack, of detectors and of transfer, against loops over samples."""

import math
import statistics

import pytest
import torch

from lipcert.errors import InputError
from lipcert.metrics import (
    AccuracyWithRejection,
    AdversarialAccuracy,
    CleanAccuracy,
    Detection,
    RobustAccuracy,
    SuccessfulPerturbation,
    TransferMatrix,
    accuracy_with_rejection,
    adversarial_accuracy,
    clean_accuracy,
    detection_rates,
    mean_perturbation,
    median_perturbation,
    robust_accuracy,
    successful,
    transfer_matrix,
)

COUNT, CLASSES = 301, 3
REJECTED = CLASSES


def batch():
    """Classes before and after an attack, true classes and distances; some inputs are rejected."""
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randint(0, CLASSES + 1, (2, COUNT), generator=generator)
    target = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    return before, after, target, torch.rand(COUNT, generator=generator, dtype=torch.float64)


def rows():
    return list(zip(*(values.tolist() for values in batch()), strict=True))


def stands(before, after, label, rejected):
    return before == label and after in (label, rejected)


@pytest.mark.parametrize("rejected", [None, REJECTED])
def test_accuracies_agree_with_a_loop_over_samples(rejected):
    before, after, target, _ = batch()
    right = [row for row in rows() if row[0] == row[2]]
    standing = [row for row in rows() if stands(*row[:3], rejected)]
    assert 0 < len(standing) < len(right) < COUNT
    assert clean_accuracy(before, target).item() == pytest.approx(len(right) / COUNT)
    assert robust_accuracy(before, after, target, rejected=rejected).item() == pytest.approx(len(standing) / COUNT)
    assert adversarial_accuracy(before, after, target, rejected=rejected).item() == pytest.approx(
        len(standing) / len(right)
    )


@pytest.mark.parametrize("rejected", [None, REJECTED])
def test_perturbations_are_those_of_the_successful_examples_only(rejected):
    before, after, target, distance = batch()
    won = [row[3] for row in rows() if row[0] == row[2] and not stands(*row[:3], rejected)]
    success = successful(before, after, target, rejected=rejected)
    assert mean_perturbation(distance, success).item() == pytest.approx(statistics.fmean(won))
    assert median_perturbation(distance, success).item() == pytest.approx(statistics.median(won))


def test_what_was_wrong_before_the_attack_is_not_robust_even_if_the_attack_puts_it_right():
    wrong, right = torch.tensor([1]), torch.tensor([0])
    assert robust_accuracy(wrong, right, right) == 0
    assert successful(wrong, wrong, right).tolist() == [False]


def test_a_classifier_that_rejects_everything_is_worth_nothing():
    everything, target = torch.full((5,), REJECTED), torch.zeros(5, dtype=torch.int64)
    assert robust_accuracy(everything, everything, target, rejected=REJECTED) == 0
    assert accuracy_with_rejection(target, torch.ones(5, dtype=torch.bool), target, flagged="wrong") == 0


def test_robust_accuracy_with_a_rejected_class_is_the_accuracy_in_which_flagged_examples_do_no_harm():
    _, after, target, _ = batch()
    classes = torch.where(after == REJECTED, 0, after)  # a flagged input has a class all the same
    expected = accuracy_with_rejection(classes, after == REJECTED, target, flagged="right")
    assert robust_accuracy(target, after, target, rejected=REJECTED).item() == expected.item()


@pytest.mark.parametrize("flagged", ["wrong", "right", "left out"])
def test_accuracy_with_rejection_agrees_with_a_loop(flagged):
    before, after, target, _ = batch()
    flags = after == REJECTED
    counted = right = 0
    for pred, flag, label in zip(before.tolist(), flags.tolist(), target.tolist(), strict=True):
        counted += not (flag and flagged == "left out")
        right += flagged == "right" if flag else pred == label
    assert accuracy_with_rejection(before, flags, target, flagged=flagged).item() == pytest.approx(right / counted)
    metric = AccuracyWithRejection(flagged=flagged)
    for chunk in torch.arange(COUNT).tensor_split(4):
        metric.update(before[chunk], flags[chunk], target[chunk])
    assert metric.compute().item() == pytest.approx(right / counted)


def test_detection_rates_are_shares_of_their_own_kind():
    flags = torch.tensor([True, True, False, True, False, False, False])
    tampered = torch.tensor([True, True, True, False, False, False, False])
    assert [round(rate.item(), 6) for rate in detection_rates(flags, tampered)] == [0.666667, 0.25]
    rates = detection_rates(flags, torch.zeros(7, dtype=torch.bool))
    assert math.isnan(rates.true_positive.item())
    assert rates.false_positive.item() == pytest.approx(3 / 7)


@pytest.mark.parametrize("batches", [1, 3, COUNT])
def test_metrics_accumulate_over_batches_of_any_size_and_start_again(batches):
    before, after, target, distance = batch()
    robust, adversarial = RobustAccuracy(rejected=REJECTED), AdversarialAccuracy(rejected=REJECTED)
    clean, perturbation, detection = CleanAccuracy(), SuccessfulPerturbation(rejected=REJECTED), Detection()
    for _ in range(2):
        for chunk in torch.arange(COUNT).tensor_split(batches):
            clean.update(before[chunk], target[chunk])
            robust.update(before[chunk], after[chunk], target[chunk])
            adversarial.update(before[chunk], after[chunk], target[chunk])
            perturbation.update(distance[chunk], before[chunk], after[chunk], target[chunk])
            detection.update(after[chunk] == REJECTED, before[chunk] == target[chunk])
        success = successful(before, after, target, rejected=REJECTED)
        classes = (before, after, target)
        assert clean.compute().item() == pytest.approx(clean_accuracy(before, target).item())
        assert robust.compute().item() == pytest.approx(robust_accuracy(*classes, rejected=REJECTED).item())
        assert adversarial.compute().item() == pytest.approx(adversarial_accuracy(*classes, rejected=REJECTED).item())
        assert perturbation.compute()["mean"].item() == pytest.approx(mean_perturbation(distance, success).item())
        assert perturbation.compute()["median"].item() == pytest.approx(median_perturbation(distance, success).item())
        expected = detection_rates(after == REJECTED, before == target)
        assert [rate.item() for rate in detection.compute()] == pytest.approx([rate.item() for rate in expected])
        for metric in (clean, robust, adversarial, perturbation, detection):
            metric.reset()


@pytest.mark.parametrize("batches", [1, 4])
def test_the_transfer_matrix_has_sources_as_rows_and_networks_as_columns(batches):
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 3, (40,), generator=generator)
    preds = torch.randint(0, 3, (2, 40), generator=generator)
    crafted = torch.randint(0, 3, (3, 2, 40), generator=generator)
    expected = [[robust_accuracy(preds[m], crafted[s, m], target).item() for m in range(2)] for s in range(3)]
    assert transfer_matrix(preds, crafted, target).tolist() == expected
    metric = TransferMatrix(3, 2)
    for chunk in torch.arange(40).tensor_split(batches):
        metric.update(preds[:, chunk], crafted[:, :, chunk], target[chunk])
    assert metric.compute().tolist() == [pytest.approx(row) for row in expected]


def test_without_anything_to_count_there_is_no_number():
    none, distances = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    assert math.isnan(clean_accuracy(none, none))
    assert math.isnan(adversarial_accuracy(torch.tensor([1]), torch.tensor([1]), torch.tensor([0])))
    assert math.isnan(mean_perturbation(distances, none.bool()))
    assert math.isnan(median_perturbation(distances, none.bool()))
    metric = SuccessfulPerturbation()
    metric.update(torch.ones(1), torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    assert all(math.isnan(value) for value in metric.compute().values())


ONE = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clean_accuracy(torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64)), "integer preds"),
        (lambda: clean_accuracy(torch.zeros(3, 3).long(), torch.zeros(3, dtype=torch.int64)), "integer preds"),
        (lambda: robust_accuracy(ONE, torch.zeros(2, dtype=torch.int64), ONE), r"adversarial_preds of shape \(1,\)"),
        (lambda: mean_perturbation(torch.ones(2), ONE.bool()), "distances and bool successes"),
        (lambda: median_perturbation(torch.ones(1), ONE), "distances and bool successes"),
        (lambda: detection_rates(ONE, ONE.bool()), "bool flags"),
        (lambda: detection_rates(ONE.bool(), torch.zeros(2, dtype=torch.bool)), r"bool tampered of shape \(1,\)"),
        (lambda: accuracy_with_rejection(ONE, torch.zeros(2).bool(), ONE, flagged="wrong"), r"shape \(2,\), got"),
        (lambda: accuracy_with_rejection(ONE, ONE.bool(), ONE, flagged="ignored"), "among wrong, right, left out"),
        (lambda: transfer_matrix(ONE, ONE, ONE), r"\(M, N\), \(S, M, N\) and \(N,\)"),
        (lambda: TransferMatrix(1, 1).update(ONE[None], ONE.expand(2, 1, 1), ONE), r"expected \(1, 1\) sources"),
    ],
)
def test_what_are_no_classes_or_flags_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
