"""Metrics against loops over samples, and torchlip's own Kantorovich-Rubinstein loss."""

import math

import pytest
import torch
from deel import torchlip

from lipcert.errors import InputError
from lipcert.metrics import (
    AverageCertifiedRadius,
    CertifiedAccuracy,
    KantorovichRubinstein,
    average_certified_radius,
    certified_accuracy,
)


def samples(count=200):
    generator = torch.Generator().manual_seed(0)
    radius = torch.rand(count, generator=generator, dtype=torch.float64)
    preds = torch.randint(0, 4, (count,), generator=generator)
    target = torch.randint(0, 4, (count,), generator=generator)
    return radius, preds, target


def test_functions_agree_with_a_loop_over_samples():
    radius, preds, target = samples()
    rows = list(zip(radius.tolist(), preds.tolist(), target.tolist(), strict=True))
    vra = sum(p == t and r >= 0.4 for r, p, t in rows) / len(rows)
    acr = sum(r for r, p, t in rows if p == t) / len(rows)
    assert certified_accuracy(radius, preds, target, 0.4).item() == pytest.approx(vra, abs=1e-7)
    assert average_certified_radius(radius, preds, target).item() == pytest.approx(acr, abs=1e-12)


def test_a_radius_equal_to_epsilon_counts():
    assert certified_accuracy(torch.tensor([0.5]), torch.tensor([1]), torch.tensor([1]), 0.5) == 1


@pytest.mark.parametrize("batches", [1, 3, 200])
def test_metrics_accumulate_over_batches_of_any_size(batches):
    radius, preds, target = samples()
    vra, acr = CertifiedAccuracy([0.0, 0.4, 2.0]), AverageCertifiedRadius()
    for chunk in torch.arange(len(radius)).tensor_split(batches):
        vra.update(radius[chunk], preds[chunk], target[chunk])
        acr.update(radius[chunk], preds[chunk], target[chunk])
    expected = [certified_accuracy(radius, preds, target, eps).item() for eps in (0.0, 0.4, 2.0)]
    assert vra.compute().tolist() == pytest.approx(expected, abs=1e-7)
    assert acr.compute().item() == pytest.approx(average_certified_radius(radius, preds, target).item(), abs=1e-12)
    vra.reset()
    vra.update(torch.ones(1), torch.tensor([0]), torch.tensor([0]))
    assert vra.compute().tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("batches", [1, 7])
def test_kr_over_batches_is_torchlips_loss_over_all_samples(batches):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 5, (300,), generator=generator)
    metric = KantorovichRubinstein(5)
    for chunk in torch.arange(300).tensor_split(batches):
        metric.update(logits[chunk], target[chunk])
    expected = torchlip.KRMulticlassLoss()(logits, torch.nn.functional.one_hot(target, 5))
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-12)


def test_kr_of_a_class_that_was_never_seen_is_zero():
    metric = KantorovichRubinstein(3)
    metric.update(torch.tensor([[1.0, 0.0, 9.0], [0.0, 2.0, 9.0]]), torch.tensor([0, 1]))
    assert metric.compute().item() == pytest.approx((1 + 2 + 0) / 3)


@pytest.mark.parametrize("epsilon", [-1.0, math.nan, math.inf])
def test_budgets_that_are_none_are_refused(epsilon):
    with pytest.raises(InputError, match="epsilon >= 0"):
        CertifiedAccuracy([0.1, epsilon])
    with pytest.raises(InputError, match="epsilon >= 0"):
        certified_accuracy(*samples(), epsilon)
