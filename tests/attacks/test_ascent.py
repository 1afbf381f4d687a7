"""The inner maximisation of adversarial training."""

import pytest
import torch
import torch.nn.functional as F
from attack_cases import small_problem
from torch import nn

from lipcert.attacks import LossAscent, ProjectedGradient
from lipcert.attacks.ascent import random_changes
from lipcert.attacks.evaluation import margins
from lipcert.attacks.randomness import hashed_uniform
from lipcert.errors import InputError

NETWORK, IMAGES, LABELS = small_problem()
BUDGETS = {"linf": 0.15, "l2": 0.5}
BOTH = pytest.mark.parametrize("norm", BUDGETS)


def ascend(norm="linf", images=IMAGES, labels=LABELS, seed=0, **settings):
    attack = LossAscent(**settings)
    return attack(NETWORK, images, labels, norm=norm, epsilon=BUDGETS[norm], seed=seed)


def by_hand(norm, steps, step_size):
    """Madry's iteration for one image after the other, in plain words, from the input."""
    found = []
    for image, label in zip(IMAGES, LABELS, strict=True):
        point = image.clone()
        for _ in range(steps):
            leaf = point[None].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(NETWORK(leaf), label[None]), leaf)
            step = gradient[0].sign() if norm == "linf" else gradient[0] / gradient[0].norm()
            change = point + step_size * BUDGETS[norm] * step - image
            if norm == "linf":
                change = change.clamp(-BUDGETS[norm], BUDGETS[norm])
            elif change.norm() > BUDGETS[norm]:
                change = change * BUDGETS[norm] / change.norm()
            point = (image + change).clamp(0, 1)
        found.append(point)
    return torch.stack(found)


@BOTH
def test_the_iteration_is_that_of_madry(norm):
    outcome = ascend(norm, steps=5, step_size=0.3, random_start=False)
    torch.testing.assert_close(outcome.candidates, by_hand(norm, 5, 0.3), rtol=0, atol=1e-5)


@BOTH
@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "divergence"])
def test_points_keep_to_the_budget_and_raise_the_loss(norm, loss):
    outcome = ascend(norm, loss=loss)
    points = outcome.candidates
    change = (points - IMAGES).flatten(1).double()
    assert float(change.abs().max() if norm == "linf" else change.norm(dim=1).max()) <= BUDGETS[norm]
    assert float(points.min()) >= 0
    assert float(points.max()) <= 1
    assert bool((loss_of(loss, points) > loss_of(loss, IMAGES)).all())


def loss_of(name, points):
    """What is climbed, one number a sample."""
    logits = NETWORK(points)
    if name == "cross-entropy":
        return F.cross_entropy(logits, LABELS, reduction="none")
    if name == "margin":
        return -margins(logits, LABELS)
    return F.kl_div(logits.log_softmax(1), NETWORK(IMAGES).softmax(1), reduction="none").sum(1)


def test_samples_that_are_fooled_are_climbed_further():
    """What tells ascent from a search: it does not stop at the first example."""
    searched = ProjectedGradient(10, 0.25, loss="cross-entropy")(NETWORK, IMAGES, LABELS, norm="linf", epsilon=0.15)
    climbed = ascend(random_start=False)
    fooled = searched.verified.success
    assert fooled.any()
    losses = [
        F.cross_entropy(NETWORK(found.candidates[fooled]), LABELS[fooled], reduction="none")
        for found in (searched, climbed)
    ]
    assert bool((losses[1] > losses[0]).all())


@BOTH
def test_what_happens_to_a_sample_does_not_depend_on_its_company(norm):
    together, alone = ascend(norm).candidates[7:8], ascend(norm, IMAGES[7:8], LABELS[7:8]).candidates
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@BOTH
def test_the_start_depends_on_the_seed(norm):
    first, again, other = (ascend(norm, seed=seed, steps=1).candidates for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert bool((first != other).flatten(1).any(1).all())


@pytest.mark.parametrize(("loss", "more"), [("cross-entropy", 0), ("divergence", 1)])
def test_no_pass_is_hidden(loss, more):
    outcome = ascend(steps=4, loss=loss)
    assert outcome.forward_passes == (4 + more) * len(IMAGES) == LossAscent(4, loss=loss).forward_budget(len(IMAGES))
    assert outcome.backward_passes == 4 * len(IMAGES)


def test_a_flat_network_is_left_where_the_start_is():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    flat[1].weight.data.zero_()
    outcome = LossAscent()(flat, torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1]), norm="l2", epsilon=0.1)
    assert outcome.candidates.isfinite().all()


def test_starts_are_spread_over_the_ball():
    images = torch.rand(2000, 1, 1, 3)
    changes = random_changes(images, 0.2, "linf", seed=3).flatten(1)
    torch.testing.assert_close(changes.mean(0), torch.zeros(3), rtol=0, atol=0.2 / 3**0.5 * 4 / 2000**0.5)
    assert 0.199 < float(changes.abs().max()) <= 0.2
    sphere = random_changes(images, 0.2, "l2", seed=3).flatten(1)
    # the share of a ball's volume within half of its radius is an eighth; 4 standard deviations
    inner = (sphere.norm(dim=1) < 0.1).double().mean().item()
    assert abs(inner - 1 / 8) < 4 * (7 / 64 / 2000) ** 0.5
    torch.testing.assert_close(sphere.mean(0), torch.zeros(3), rtol=0, atol=0.01)


def test_hashed_numbers_are_uniform_and_uncorrelated():
    images = torch.zeros(300, 784)
    images[torch.arange(300), torch.arange(300)] = 1 / 255  # they differ in one grey level of one pixel
    numbers = hashed_uniform(images, 500, seed=0).double()
    counts = torch.histc(numbers, 100, 0, 1)
    statistic = float(((counts - 1500).square() / 1500).sum())
    assert 50 < statistic < 170  # chi-squared with 99 degrees of freedom: 5 standard deviations
    correlation = torch.corrcoef(numbers).fill_diagonal_(0).abs().max()
    assert correlation < 5.5 / 500**0.5
    neighbours = torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max()
    assert neighbours < 6 / 300**0.5
    assert numbers.min() > 0
    assert numbers.max() < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "^expected steps >= 1, got 0$"),
        ({"step_size": 0.0}, "^expected a finite step_size > 0, got 0.0$"),
        ({"loss": "distance"}, "^expected a loss among cross-entropy, margin, divergence, got 'distance'$"),
        ({"loss": "divergence", "random_start": False}, "^expected a random start for the divergence"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        LossAscent(**settings)
