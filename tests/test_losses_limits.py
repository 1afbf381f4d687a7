"""Closed forms and limits of the losses, and the constants that they are told."""

import math

import pytest
import torch
import torch.nn.functional as F
from deel import torchlip
from test_losses import LOSSES, naive_radii, problem
from torch import nn

from lipcert.certificates import class_pair_upper_bounds, margin_radius
from lipcert.deployment import export
from lipcert.losses import (
    EMMA,
    CertificateRegularised,
    CertifiedRadiusLoss,
    LogitAnnealing,
    OffsetCrossEntropy,
    head_pair_bounds,
    head_weight,
)
from lipcert.metrics import average_certified_radius, certified_accuracy
from lipcert.networks import hkr_convnet


def test_two_classes_have_closed_forms():
    margin = torch.tensor([-1.5, 0.0, 0.25, 3.0], dtype=torch.float64)
    logits, targets = torch.stack((torch.zeros(4), margin), 1), torch.ones(4, dtype=torch.int64)
    bounds = torch.full((2, 2), 2.0, dtype=torch.float64)

    def soft(x):
        return torch.log1p(torch.exp(x))

    assert OffsetCrossEntropy(1.0, 0.5)(logits, targets).item() == pytest.approx(
        0.5 * soft((1 - margin) / 0.5).mean().item()
    )
    p = torch.sigmoid((margin - 1) / 0.5)
    assert LogitAnnealing(1.0, 0.5, gamma=2)(logits, targets).item() == pytest.approx(
        (-0.5 * (1 - p) ** 2 * p.log()).mean().item()
    )
    rho = margin / 2
    assert CertificateRegularised(0.7)(logits, targets, bounds).item() == pytest.approx(
        (soft(-margin) - 0.7 * rho.clamp(min=0)).mean().item()
    )
    # Ahead by more than the budget, within it, and behind: 3 - 2 * 0.5, a tie, a hundredth of the budget.
    assert EMMA(0.5)(logits, targets, bounds).item() == pytest.approx(
        soft(-torch.tensor([-1.51, -0.01, 0.0, 2.0], dtype=torch.float64)).mean().item()
    )
    loss = CertifiedRadiusLoss(1.0, min_radius=0.25, temperature=0.2, tail_slope=0.3)
    assert loss(logits, targets, bounds).item() == pytest.approx(
        (0.2 * soft((1 - rho) / 0.2) - 0.7 * 0.2 * soft((0.25 - rho) / 0.2)).mean().item()
    )


def test_limits_are_the_cross_entropy():
    logits, targets, bounds = problem()
    plain = F.cross_entropy(logits, targets)
    torch.testing.assert_close(OffsetCrossEntropy(0.0, 1.0)(logits, targets), plain)
    torch.testing.assert_close(LogitAnnealing(0.0, 1.0, gamma=0.0)(logits, targets), plain)
    torch.testing.assert_close(
        LogitAnnealing(0.8, 0.3, gamma=0.0)(logits, targets), OffsetCrossEntropy(0.8, 0.3)(logits, targets)
    )
    torch.testing.assert_close(CertificateRegularised(0.0)(logits, targets, bounds), plain)
    torch.testing.assert_close(EMMA(0.0)(logits, targets, bounds), plain)


def test_offset_cross_entropy_goes_to_the_hinge():
    logits, targets, _ = problem()
    margins = torch.stack([naive_radii(row, int(y), torch.ones(5, 5)) for row, y in zip(logits, targets, strict=True)])
    hinge = (1.0 - margins.min(1).values).clamp(min=0).mean()
    # Above the hinge by at most T log K.
    difference = OffsetCrossEntropy(1.0, 1e-3)(logits, targets) - hinge
    assert 0 <= difference <= 1e-3 * math.log(5)


def test_annealing_fades_out_with_the_power_gamma_plus_one():
    targets = torch.tensor([0])
    near, far = (torch.tensor([[m, 0.0]], dtype=torch.float64) for m in (20.0, 21.0))
    loss = LogitAnnealing(0.0, 1.0, gamma=2.0)
    # 1 - p goes like exp(-m), where 1 - p itself has no digits left in float32.
    assert (loss(near, targets) / loss(far, targets)).item() == pytest.approx(math.exp(3), rel=1e-6)
    assert loss(near.float(), targets).item() == pytest.approx(math.exp(-60), rel=1e-4)


def test_emma_shifts_certified_samples_by_the_whole_budget_and_others_to_a_tie():
    _, _, bounds = problem()
    seen = {}

    class Inner(nn.Module):
        def forward(self, logits, targets):
            seen["logits"], seen["targets"] = logits, targets
            return logits.sum()

    logits = torch.zeros(2, 5, dtype=torch.float64)
    logits[0, 3] = 100.0
    logits[1, 3] = 0.5 * 0.2 * bounds[3].sort().values[1]  # half of the budget from its nearest rival
    one_hot = F.one_hot(torch.tensor([3, 3]), 5)
    EMMA(0.2, Inner())(logits, one_hot, bounds)
    assert seen["targets"] is one_hot
    expected = 0.2 * bounds[3]
    expected[3] = 100.0
    torch.testing.assert_close(seen["logits"][0], expected)
    torch.testing.assert_close(seen["logits"][1], logits[1, 3].expand(5))


def test_emma_ramps_up_with_the_progress_of_training():
    loss = EMMA(2.0, start=0.25, ramp=0.5)
    assert loss.present_epsilon == 2.0
    budgets = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        loss.progress = progress
        budgets.append(loss.present_epsilon)
    assert budgets == [0.5, 1.25, 2.0, 2.0, 2.0]
    constant = EMMA(2.0, ramp=0.0)
    constant.progress = 0.0
    assert constant.present_epsilon == 2.0
    logits, targets, bounds = problem()
    loss.progress = 0.0
    assert loss(logits, targets, bounds) == EMMA(0.5)(logits, targets, bounds)


def certificates(logits, targets, bounds):
    preds, radius = margin_radius(logits, bounds)
    return radius, preds, targets


def test_radius_loss_goes_to_what_is_missing_of_the_average_certified_radius():
    logits, targets, bounds = problem(200)
    radius, preds, _ = certificates(logits, targets, bounds)
    missing = 0.4 - average_certified_radius(radius.clamp(max=0.4), preds, targets)
    loss = CertifiedRadiusLoss(0.4, temperature=1e-5, tail_slope=0.0)
    assert loss(logits, targets, bounds).item() == pytest.approx(missing.item(), abs=1e-4)


def test_a_narrow_band_counts_what_is_not_certified_there():
    logits, targets, bounds = problem(200)
    share = certified_accuracy(*certificates(logits, targets, bounds), 0.25).item()
    assert 0.1 < share < 0.6
    width = 1e-6
    loss = CertifiedRadiusLoss(0.25 + width / 2, min_radius=0.25 - width / 2, temperature=1e-8, tail_slope=0.0)
    assert loss(logits, targets, bounds).item() / width == pytest.approx(1 - share, abs=1e-3)


def test_the_slope_of_the_tail():
    logits = torch.tensor([[-50.0, 0.0], [0.4, 0.0], [50.0, 0.0]], requires_grad=True)
    loss = CertifiedRadiusLoss(0.5, temperature=0.02, tail_slope=0.25)
    loss(logits, torch.zeros(3, dtype=torch.int64), torch.full((2, 2), 2.0)).backward()
    slopes = logits.grad[:, 0] * 3 * 2  # per sample and per unit of radius: behind, within the band, beyond it
    torch.testing.assert_close(slopes, torch.tensor([-0.25, -1.0, 0.0]), atol=1e-3, rtol=0)


def test_with_a_full_tail_and_one_constant_it_is_the_offset_cross_entropy():
    logits, targets, _ = problem()
    bounds = torch.full((5, 5), 1.7, dtype=torch.float64)
    loss = CertifiedRadiusLoss(0.6, temperature=0.2, tail_slope=1.0)(logits, targets, bounds)
    torch.testing.assert_close(loss, OffsetCrossEntropy(0.6 * 1.7, 0.2 * 1.7)(logits, targets) / 1.7)


def test_radius_loss_does_not_see_the_scale_of_the_head():
    logits, targets, bounds = problem()
    loss = LOSSES["radius"]
    torch.testing.assert_close(loss(3 * logits, targets, 3 * bounds), loss(logits, targets, bounds))


def test_pair_bounds_of_a_head_are_differentiable_distances():
    weight = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    bounds = head_pair_bounds(weight, 0.5)
    torch.testing.assert_close(bounds, 0.5 * (weight[:, None] - weight[None]).norm(dim=2))
    coefficients = torch.rand(4, 4, dtype=torch.float64)
    (got,) = torch.autograd.grad((bounds * coefficients).sum(), weight)
    reference = torch.stack([0.5 * (weight[i] - weight[j]).norm() for i in range(4) for j in range(4) if i != j])
    (wanted,) = torch.autograd.grad((reference * coefficients[~torch.eye(4, dtype=torch.bool)]).sum(), weight)
    torch.testing.assert_close(got, wanted)
    close = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-6]])
    assert head_pair_bounds(close)[0, 1].item() == pytest.approx((close[1, 1] - close[0, 1]).item())


def test_the_head_of_a_constrained_network_is_that_of_its_export():
    network = hkr_convnet((1, 8, 8), 3, channels=(2,), hidden=4)
    plain = export(network)
    torch.testing.assert_close(head_weight(network, 3), plain[-1].weight)
    assert head_weight(network, 4) is None
    assert head_weight(nn.Flatten(), 4) is None
    # What training assumes is what certification finds, up to the constant of the body.
    certified, _ = class_pair_upper_bounds(plain, (1, 8, 8), rule="pairwise")
    ratio = (certified / head_pair_bounds(plain[-1].weight).double())[~torch.eye(3, dtype=torch.bool)]
    assert ratio.max() - ratio.min() < 1e-5


def test_the_gradient_reaches_the_weight_of_the_head():
    layer = torchlip.SpectralLinear(6, 3)
    features, targets = torch.randn(8, 6), torch.arange(8) % 3
    with nn.utils.parametrize.cached():
        loss = EMMA(0.5)(layer(features), targets, head_pair_bounds(head_weight(layer, 3)))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert layer.parametrizations.weight.original.grad.abs().sum() > 0
