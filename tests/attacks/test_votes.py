"""Attacks on votes: what they see is the vote, what they find is inside of a patch or on the grid of grey levels."""

import pytest
import torch
from linear_problem import linear_network
from torch import nn

from lipcert.attacks import (
    AdversarialPatch,
    ElasticNet,
    FastMinimumNorm,
    Pointwise,
    SparseAscent,
    VotePatch,
    on_votes,
    verify,
)
from lipcert.attacks.geometry import into_ball
from lipcert.attacks.sparse_ascent import into_ball_and_box
from lipcert.attacks.verify import patch_sides
from lipcert.attacks.votes import SoftVote, on_grid
from lipcert.certificates import BlockAblation, ColumnAblation, RowAblation
from lipcert.errors import InputError
from lipcert.harness.planted_votes import tight_l1_vote, tight_patch_vote
from lipcert.networks import SmoothedNetwork

PATCHES, LEVELS = tight_patch_vote(), tight_l1_vote()


def random_vote(ablation, threshold=None, size=(6, 8)):
    torch.manual_seed(1)
    base = nn.Sequential(nn.Flatten(), nn.Linear(2 * size[0] * size[1], 3))
    base[1].bias.data -= base(torch.rand(200, 2, *size) * (torch.rand(200, 1, 1, size[1]) < 0.4)).mean(0).detach()
    network = SmoothedNetwork(base, ablation, num_classes=3, threshold=threshold).eval()
    return network, torch.rand(12, 1, *size)


@pytest.mark.parametrize("rows", [(2, 2), (0, 5)])
def test_a_patch_is_measured_by_the_smallest_square_that_holds_it(rows):
    images = torch.zeros(3, 2, 6, 9)
    patched = images.clone()
    patched[0, 1, rows[0] : rows[1] + 1, 4:7] = 1e-30
    patched[1, 0, 5, 8] = -1
    expected = [max(3, rows[1] - rows[0] + 1), 1, 0]
    assert patch_sides(images, patched).tolist() == expected
    with pytest.raises(InputError, match="images"):
        patch_sides(torch.zeros(1, 4), torch.ones(1, 4))


@pytest.mark.parametrize("threshold", [None, 0.35])
@pytest.mark.parametrize(
    "ablation", [ColumnAblation(2), RowAblation(3, stride=2), BlockAblation(3, stride=2)], ids=repr
)
def test_the_soft_vote_is_the_vote_and_has_a_slope(ablation, threshold):
    network, inputs = random_vote(ablation, threshold)
    leaf = inputs.clone().requires_grad_()
    votes = SoftVote(network)(leaf)
    assert torch.equal(votes.round(), network(inputs))
    assert torch.equal(votes.argmax(1), network(inputs).argmax(1))
    (slope,) = torch.autograd.grad(votes[:, 0].sum(), leaf)
    assert slope.abs().sum() > 0
    soft = network.view_logits(leaf)
    scale = 1.0
    if threshold is None:
        first, second = soft.detach().topk(2, dim=2).values.unbind(2)
        scale = (first - second).median(1).values[:, None, None]
        chosen = (soft / scale).softmax(2)
    else:
        chosen = torch.sigmoid(soft.log_softmax(2) - torch.tensor(threshold).log())
    (expected,) = torch.autograd.grad(chosen[..., 0].sum(), leaf)
    torch.testing.assert_close(slope, expected)


def test_no_patch_of_the_certified_side_turns_a_vote_and_one_pixel_more_does():
    inputs = PATCHES.images.inputs()
    certified = PATCHES.network.certificate(inputs)
    found = {}
    for beyond in (0, 1):
        attack = VotePatch(first=beyond, last=beyond, places=8)
        found[beyond] = attack(PATCHES.network, inputs, certified.prediction, norm="patch", radius=certified.radius)
    assert not found[0].verified.success.any()
    assert found[1].verified.success.all()  # the certificates of these votes are exact
    assert (found[1].verified.distance <= certified.radius + 1).all()


@pytest.mark.parametrize("threshold", [None, 0.35])
@pytest.mark.parametrize(
    "ablation", [ColumnAblation(2), RowAblation(2, stride=3), BlockAblation(3, stride=2)], ids=repr
)
def test_what_changes_is_inside_of_the_patch_that_is_named(ablation, threshold):
    network, inputs = random_vote(ablation, threshold)
    certified = network.certificate(inputs)
    outcome = VotePatch(last=3, steps=8)(network, inputs, certified.prediction, norm="patch", radius=certified.radius)
    assert outcome.verified.success.sum() >= 6
    assert (outcome.verified.distance > certified.radius).all()
    for n, (row, column, side) in enumerate(
        zip(*(outcome.details[name] for name in ("row", "column", "side")), strict=True)
    ):
        changed = (outcome.candidates[n] != inputs[n]).any(0)
        if side is not None:
            assert 0 <= row <= inputs.shape[2] - side
            assert 0 <= column <= inputs.shape[3] - side
            assert certified.radius[n] <= side <= certified.radius[n] + 3
            changed[row : row + side, column : column + side] = False
        assert not changed.any()
        votes = network(outcome.candidates[n : n + 1])
        assert (votes.argmax(1) != certified.prediction[n]).item() == (side is not None)


def test_sides_stop_at_epsilon_and_at_the_image():
    network, inputs = random_vote(ColumnAblation(2))
    labels, radius = network(inputs).argmax(1), torch.zeros(len(inputs), dtype=torch.float64)
    outcome = VotePatch(first=1, last=20, steps=4)(network, inputs, labels, norm="patch", radius=radius, epsilon=2.5)
    assert outcome.verified.distance[outcome.verified.success].max() <= 2
    outcome = VotePatch(first=7, last=20, steps=4)(network, inputs, labels, norm="patch", radius=radius)
    assert outcome.forward_passes == len(inputs)  # the clean votes: no square of 7 is inside of 6 x 8 pixels


def test_a_patch_attack_by_gradients_runs_on_votes_too():
    inputs = PATCHES.images.inputs()[:1]
    attack = on_votes(AdversarialPatch(height=6, width=6, tries=20))
    outcome = attack(PATCHES.network, inputs, torch.tensor([0]), norm="patch")
    assert outcome.verified.success.all()
    assert outcome.verified.distance.item() == 6


def test_networks_without_votes_are_refused():
    network = linear_network(torch.ones(2, 16))
    with pytest.raises(InputError, match="votes over views, got Sequential"):
        VotePatch()(network, torch.rand(1, 1, 4, 4), torch.tensor([0]), norm="patch")
    with pytest.raises(InputError, match="ablated views, got SplittingNetwork"):
        VotePatch()(LEVELS.network, LEVELS.images.inputs(), LEVELS.images.labels, norm="patch")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda: VotePatch(first=3, last=2), "last >= 3"),
        (lambda: VotePatch(places=0), "places >= 1"),
        (lambda: VotePatch(temperature=0.0), "temperature > 0"),
        (lambda: ElasticNet(steps=0), "steps >= 1"),
        (lambda: ElasticNet(beta=-1.0), "beta >= 0"),
        (lambda: SparseAscent(reach=0.0), "reach > 0"),
        (lambda: SparseAscent(loss="hinge"), "a loss among"),
        (lambda: Pointwise(queries=0), "queries >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(attack, message):
    with pytest.raises(InputError, match=message):
        attack()


def test_apgd_needs_a_size():
    with pytest.raises(InputError, match="an epsilon or certified radii for apgd-l1"):
        SparseAscent()(linear_network(torch.ones(2, 16)), torch.rand(1, 1, 4, 4), torch.tensor([0]), norm="l1")


EXACT = [SparseAscent(reach=1.3), FastMinimumNorm(), ElasticNet(), Pointwise()]


@pytest.mark.parametrize("attack", EXACT, ids=lambda attack: attack.name)
def test_l1_examples_of_8_bit_votes_are_on_the_grid_and_beyond_the_radius(attack):
    inputs = LEVELS.images.inputs()
    certified = LEVELS.network.certificate(inputs)
    outcome = on_votes(attack, grid=255)(
        LEVELS.network, inputs, certified.prediction, norm="l1", radius=certified.radius
    )
    assert outcome.verified.success.any()
    assert torch.equal(on_grid(outcome.candidates, 255), outcome.candidates)
    levels = (outcome.candidates.double() * 255).round() - (inputs.double() * 255).round()
    distance = levels.abs().flatten(1).sum(1)
    found = outcome.verified.success
    assert (distance[found] > (certified.radius[found] * 255).round()).all()


def l1_problem():
    """A linear network and, for every image, how far it is in L1: the gap over the steepest pixel, if there is room."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(2, 36, generator=generator)
    weight[:, 7] *= 4  # one pixel decides
    network = linear_network(weight, -weight.sum(1) / 2)
    inputs = 0.5 + 0.05 * torch.randn(10, 1, 6, 6, generator=generator)
    logits = network(inputs).detach()
    steepest = (weight[0] - weight[1]).abs().max()
    distance = (logits[:, 0] - logits[:, 1]).abs() / steepest
    near = distance < 0.3
    assert near.sum() >= 5
    return network, inputs[near], logits[near].argmax(1), distance[near].double()


@pytest.mark.parametrize(
    ("attack", "slack"), [(ElasticNet(beta=1.0), 0.1), (SparseAscent(reach=1.1), 0.11)], ids=["elastic-net", "apgd-l1"]
)
def test_l1_attacks_come_near_to_the_boundary_of_a_linear_network(attack, slack):
    network, inputs, labels, distance = l1_problem()
    found = attack(network, inputs, labels, norm="l1", radius=distance).verified.distance
    assert (found >= distance * (1 - 1e-5)).all()
    assert (found <= distance * (1 + slack) + 1e-5).all()


def test_pointwise_puts_back_what_is_not_needed():
    network, inputs, labels, _ = l1_problem()
    start = 1 - labels.view(-1, 1, 1, 1) * torch.ones_like(inputs)
    start = torch.where((network(start).argmax(1) != labels).view(-1, 1, 1, 1), start, 1 - start)
    begun = verify(network, inputs, labels, start, norm="l1")
    assert begun.success.any()
    ended = Pointwise(queries=400)(network, inputs, labels, norm="l1", start=start).verified
    assert ended.success.all()
    assert (ended.distance[begun.success] < begun.distance[begun.success] / 3).all()


def test_projections_onto_ball_and_box():
    generator = torch.Generator().manual_seed(0)
    inputs, points = torch.rand(20, 15, generator=generator), 3 * torch.randn(20, 15, generator=generator)
    sizes = torch.linspace(0, 5, 20)
    found = into_ball_and_box(points, inputs, sizes, (0.0, 1.0))
    assert found.min() >= 0
    assert found.max() <= 1
    assert ((found - inputs).abs().sum(1) <= sizes + 1e-5).all()
    free = into_ball_and_box(points, inputs, sizes, (-99.0, 99.0))
    torch.testing.assert_close(free, inputs + into_ball(points - inputs, sizes, "l1"), atol=1e-5, rtol=0)
    for _ in range(30):  # the nearest one: nothing else in the ball and the box is nearer
        others = torch.rand(20, 15, generator=generator)
        others = into_ball_and_box(others, inputs, sizes, (0.0, 1.0))
        assert ((points - found).norm(dim=1) <= (points - others).norm(dim=1) + 1e-5).all()
