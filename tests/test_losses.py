"""What holds for every loss: a naive loop gives its values and gradients, and no logits break it."""

import math

import pytest
import torch
import torch.nn.functional as F

from lipcert.errors import InputError
from lipcert.losses import (
    EMMA,
    CertificateRegularised,
    CertifiedRadiusLoss,
    LogitAnnealing,
    OffsetCrossEntropy,
    PairwiseLoss,
    head_pair_bounds,
)

LOSSES = {
    "offset": OffsetCrossEntropy(1.0, 0.5),
    "annealing": LogitAnnealing(1.0, 0.5, gamma=3.0),
    "annealing-half": LogitAnnealing(1.0, 0.5, gamma=0.5),
    "regularised": CertificateRegularised(0.7),
    "emma": EMMA(0.3),
    "emma-annealing": EMMA(0.3, LogitAnnealing(1.0, 0.5)),
    "radius": CertifiedRadiusLoss(1.0, min_radius=0.2, temperature=0.3, tail_slope=0.2),
}


PAIRWISE = [name for name, loss in LOSSES.items() if isinstance(loss, PairwiseLoss)]


@pytest.fixture(params=LOSSES, name="loss")
def one_of_the_losses(request):
    return LOSSES[request.param]


@pytest.fixture(params=PAIRWISE, name="pairwise_loss")
def one_of_the_pairwise_losses(request):
    return LOSSES[request.param]


def problem(count=16, classes=5, *, seed=0):
    """Logits around the scale of the budgets, classes, and the constants of a random head; float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (count,), generator=generator)
    logits[: count // 2] += 2 * F.one_hot(targets[: count // 2], classes)
    return logits, targets, head_pair_bounds(weight)


def value(loss, logits, targets, bounds):
    return loss(logits, targets, bounds) if isinstance(loss, PairwiseLoss) else loss(logits, targets)


def naive_offset(loss, logits, y, bounds):
    z = [(f - loss.offset * (j == y)) / loss.temperature for j, f in enumerate(logits)]
    return -(z[y] - torch.log(sum(torch.exp(value) for value in z))) * loss.temperature


def naive_annealing(loss, logits, y, bounds):
    z = torch.stack([(f - loss.offset * (j == y)) / loss.temperature for j, f in enumerate(logits)])
    p = (torch.exp(z) / torch.exp(z).sum())[y]
    return -loss.temperature * (1 - p) ** loss.gamma * torch.log(p)


def naive_cross_entropy(logits, y):
    return -torch.log(torch.exp(logits[y]) / torch.exp(logits).sum())


def naive_radii(logits, y, bounds):
    return torch.stack([(logits[y] - logits[j]) / bounds[y, j] for j in range(len(logits)) if j != y])


def naive_regularised(loss, logits, y, bounds):
    return naive_cross_entropy(logits, y) - loss.gamma * naive_radii(logits, y, bounds).min().clamp(min=0)


def naive_emma(loss, logits, y, bounds):
    shifted = list(logits)
    for j in range(len(logits)):
        if j != y:
            share = ((logits[y] - logits[j]) / (bounds[y, j] * loss.epsilon)).clip(0.01, 1).detach()
            shifted[j] = logits[j] + share * loss.epsilon * bounds[y, j]
    inner = loss.inner
    return naive_cross_entropy(torch.stack(shifted), y) if inner is None else naive_annealing(inner, shifted, y, bounds)


def naive_radius_loss(loss, logits, y, bounds):
    radii, tau = naive_radii(logits, y, bounds), loss.temperature
    upper, lower = (tau * torch.log(1 + torch.exp((t - radii) / tau).sum()) for t in (loss.max_radius, loss.min_radius))
    return upper - (1 - loss.tail_slope) * lower


NAIVE = {
    OffsetCrossEntropy: naive_offset,
    LogitAnnealing: naive_annealing,
    CertificateRegularised: naive_regularised,
    EMMA: naive_emma,
    CertifiedRadiusLoss: naive_radius_loss,
}


def test_values_and_gradients_are_those_of_a_naive_loop(loss):
    logits, targets, bounds = problem()
    got = [tensor.clone().requires_grad_() for tensor in (logits, bounds)]
    wanted = [tensor.clone().requires_grad_() for tensor in (logits, bounds)]
    mean = value(loss, got[0], targets, got[1])
    naive = NAIVE[type(loss)]
    reference = torch.stack(
        [naive(loss, row, int(y), wanted[1]) for row, y in zip(wanted[0], targets, strict=True)]
    ).mean()
    torch.testing.assert_close(mean, reference, rtol=1e-12, atol=1e-12)
    mean.backward()
    reference.backward()
    torch.testing.assert_close(got[0].grad, wanted[0].grad, rtol=1e-9, atol=1e-12)
    if isinstance(loss, PairwiseLoss):
        torch.testing.assert_close(got[1].grad, wanted[1].grad, rtol=1e-9, atol=1e-12)


def test_a_constant_added_to_all_logits_changes_nothing(loss):
    logits, targets, bounds = problem()
    moved = logits + torch.linspace(-50, 50, len(logits), dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        value(loss, moved, targets, bounds), value(loss, logits, targets, bounds), rtol=1e-11, atol=1e-12
    )


def test_one_hot_targets_are_classes(loss):
    logits, targets, bounds = problem()
    one_hot = F.one_hot(targets, 5).to(logits.dtype)
    assert value(loss, logits, one_hot, bounds) == value(loss, logits, targets, bounds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [1e4, -1e4, 0.0])
def test_extreme_logits_and_ties_stay_finite(loss, own, dtype):
    logits = torch.zeros(3, 4).to(dtype)
    logits[:, 1] = own
    logits[1, 2] = -own
    logits.requires_grad_()
    bounds = torch.full((4, 4), 1.5)
    result = value(loss, logits, torch.ones(3, dtype=torch.int64), bounds)
    result.backward()
    assert result.isfinite()
    assert result.dtype == torch.float32
    assert logits.grad.isfinite().all()


def test_equal_rows_of_the_head_stay_finite(loss):
    weight = torch.ones(4, 3, requires_grad=True)
    logits = torch.zeros(2, 4, requires_grad=True)
    result = value(loss, logits, torch.tensor([0, 1]), head_pair_bounds(weight))
    result.backward()
    assert result.isfinite()
    assert logits.grad.isfinite().all()
    assert weight.grad is None or weight.grad.isfinite().all()


def test_nothing_is_read_from_the_device(loss):
    """A tensor of the meta device has no values: whatever waits for one raises."""
    logits = torch.zeros(8, 5, device="meta", requires_grad=True)
    bounds = head_pair_bounds(torch.ones(5, 3, device="meta", requires_grad=True))
    value(loss, logits, torch.zeros(8, dtype=torch.int64, device="meta"), bounds).backward()
    assert logits.grad.shape == (8, 5)


def test_without_bounds_every_constant_is_root_two(pairwise_loss):
    logits, targets, _ = problem()
    bounds = torch.full((5, 5), math.sqrt(2), dtype=torch.float64)
    assert pairwise_loss(logits, targets) == pairwise_loss(logits, targets, bounds)


def test_the_own_constant_is_not_used(pairwise_loss):
    logits, targets, bounds = problem()
    other = bounds + 9 * torch.eye(5, dtype=torch.float64)
    assert pairwise_loss(logits, targets, other) == pairwise_loss(logits, targets, bounds)


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((4, 1), (4,)), ((4, 3), (3,)), ((4, 3), (4, 2)), ((4, 3), (4, 1))])
def test_shapes_that_do_not_fit_are_refused(loss, shapes):
    logits, targets = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(InputError, match=r"expected (logits|targets) of shape"):
        loss(logits, targets)


def test_bounds_of_other_classes_are_refused():
    with pytest.raises(InputError, match="pair bounds"):
        EMMA(0.1)(torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: OffsetCrossEntropy(-0.1), "offset"),
        (lambda: OffsetCrossEntropy(math.nan), "offset"),
        (lambda: OffsetCrossEntropy(1, 0), "temperature"),
        (lambda: LogitAnnealing(-1), "offset"),
        (lambda: LogitAnnealing(1, -1), "temperature"),
        (lambda: LogitAnnealing(gamma=-1), "gamma"),
        (lambda: CertificateRegularised(-1), "gamma"),
        (lambda: EMMA(-1), "epsilon"),
        (lambda: EMMA(1, start=1.5), "start"),
        (lambda: EMMA(1, ramp=-0.5), "ramp"),
        (lambda: CertifiedRadiusLoss(0), "max_radius"),
        (lambda: CertifiedRadiusLoss(math.inf), "max_radius"),
        (lambda: CertifiedRadiusLoss(1, min_radius=-1), "min_radius"),
        (lambda: CertifiedRadiusLoss(1, min_radius=1), "min_radius < max_radius"),
        (lambda: CertifiedRadiusLoss(1, temperature=0), "temperature"),
        (lambda: CertifiedRadiusLoss(1, tail_slope=1.1), "tail_slope"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(make, name):
    with pytest.raises(InputError, match=f"expected {name}"):
        make()
