import math

import pytest
import torch
from linear_problem import linear_network
from torch import nn

from lipcert.attacks import AdversarialPatch
from lipcert.attacks.patch import transformed
from lipcert.errors import InputError


def problem(samples=12, certain=(0.0, 0.3)):
    """A linear network on 2 x 6 x 5 images, more and more certain of them: a patch of 2 x 3 turns most."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 60, generator=generator)
    network = linear_network(weight, -weight.sum(1) / 2)
    inputs = 0.3 + 0.4 * torch.rand(samples, 60, generator=generator)
    towards = weight[torch.arange(samples) % 4] * torch.linspace(*certain, samples)[:, None]
    inputs = (inputs + towards).clamp(0, 1).view(samples, 2, 6, 5)
    return network, inputs, network(inputs).argmax(1)


def best_margins(network, inputs, labels, height, width):
    """By brute force: the lowest margin that any patch leaves at any place: (N, rows, columns)."""
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    rows, columns = inputs.shape[2] - height + 1, inputs.shape[3] - width + 1
    margins = torch.full((len(inputs), rows, columns), math.inf)
    for n, (image, label) in enumerate(zip(inputs, labels.tolist(), strict=True)):
        for other in set(range(len(weight))) - {label}:
            slope = (weight[label] - weight[other]).view_as(image)
            for row in range(rows):
                for column in range(columns):
                    patched = image.clone()
                    window = (slice(None), slice(row, row + height), slice(column, column + width))
                    patched[window] = (slope[window] < 0).float()
                    margin = (slope * patched).sum() + bias[label] - bias[other]
                    margins[n, row, column] = min(margins[n, row, column], margin)
    return margins


def test_a_linear_network_falls_wherever_a_patch_can_turn_it():
    network, inputs, labels = problem(samples=24)
    possible = best_margins(network, inputs, labels, 2, 3).flatten(1).amin(1) < 0
    assert 3 <= possible.sum() <= 21  # else the problem says nothing
    outcome = AdversarialPatch(height=2, width=3, tries=1)(network, inputs, labels)
    assert torch.equal(outcome.verified.success, possible)


def test_a_place_that_is_given_is_kept():
    network, inputs, labels = problem(samples=24)
    possible = best_margins(network, inputs, labels, 3, 3)[:, 2, 1] < 0
    assert 3 <= possible.sum() <= 21
    outcome = AdversarialPatch(height=3, width=3, row=2, column=1)(network, inputs, labels)
    assert torch.equal(outcome.verified.success, possible)
    outside = torch.ones(6, 5, dtype=torch.bool)
    outside[2:5, 1:4] = False
    assert torch.equal(outcome.candidates[..., outside], inputs[..., outside])
    assert outcome.details["row"] == tuple(2 if hit else None for hit in possible.tolist())
    assert outcome.details["column"] == tuple(1 if hit else None for hit in possible.tolist())


def test_places_in_random_order_find_what_there_is_in_the_end():
    network, inputs, labels = problem()
    possible = best_margins(network, inputs, labels, 2, 3).flatten(1).amin(1) < 0
    few = AdversarialPatch(height=2, width=3, search="random", tries=1, steps=1)(network, inputs, labels)
    every = AdversarialPatch(height=2, width=3, search="random", tries=15, steps=1)(network, inputs, labels)
    assert torch.equal(every.verified.success, possible)
    assert few.verified.success.sum() < possible.sum()


def test_a_stride_leaves_places_out_but_for_the_edges():
    network, inputs, labels = problem(samples=24)
    attack = AdversarialPatch(height=2, width=3, stride=3, tries=4)
    margins = best_margins(network, inputs, labels, 2, 3)[:, [0, 3, 4]][:, :, [0, 2]]
    outcome = attack(network, inputs, labels)
    assert torch.equal(outcome.verified.success, margins.flatten(1).amin(1) < 0)
    assert set(outcome.details["row"]) <= {0, 3, 4, None}
    assert set(outcome.details["column"]) <= {0, 2, None}


@pytest.mark.parametrize(
    "attack",
    [
        AdversarialPatch(height=2, width=3),
        AdversarialPatch(height=4, width=2, transforms=3, rotation=45, scale=0.5, steps=5),
        AdversarialPatch(height=3, width=3, search="random", tries=3, steps=5),
    ],
    ids=["upright", "transformed", "random"],
)
def test_candidates_differ_within_one_rectangle_only(attack):
    network, inputs, labels = problem()
    outcome = attack(network, inputs, labels)
    assert outcome.verified.success.any()
    places = zip(outcome.details["row"], outcome.details["column"], strict=True)
    for n, (row, column) in enumerate(places):
        assert (row is None) == (not bool(outcome.verified.success[n])) == (column is None)
        changed = outcome.candidates[n] != inputs[n]
        if row is not None:
            changed[:, row : row + attack.height, column : column + attack.width] = False
        assert not changed.any()


def test_targets_are_reached():
    network, inputs, labels = problem()
    targets = (labels + 1) % 4
    outcome = AdversarialPatch(height=5, width=5)(network, inputs, labels, targets=targets)
    assert outcome.verified.success.sum() >= 10
    assert torch.equal(outcome.verified.prediction[outcome.verified.success], targets[outcome.verified.success])


def test_other_bounds_are_respected():
    network, inputs, labels = problem()
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    stretched = linear_network(weight / 4, bias + weight.sum(1) / 4)
    attack = AdversarialPatch(height=2, width=3)
    outcome = attack(stretched, 4 * inputs - 1, labels, bounds=(-1.0, 3.0))
    assert torch.equal(outcome.verified.success, attack(network, inputs, labels).verified.success)
    assert outcome.candidates.min() >= -1
    assert outcome.candidates.max() <= 3


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_the_norm_is_only_measured(norm):
    network, inputs, labels = problem()
    attack = AdversarialPatch(height=2, width=3)
    outcome = attack(network, inputs, labels, norm=norm, epsilon=1e-3)
    assert torch.equal(outcome.candidates, attack(network, inputs, labels).candidates)


class Valley(nn.Module):
    """Class 1 where one pixel is near 0.3: at neither end of the range."""

    def forward(self, inputs):
        pixel = inputs[:, 0, 1, 1]
        return torch.stack([(pixel - 0.3).square(), torch.full_like(pixel, 0.005)], 1)


def test_steps_find_contents_that_are_no_extreme():
    inputs, labels = torch.full((2, 1, 3, 3), 0.9), torch.tensor([0, 0])
    attack = AdversarialPatch(height=1, width=1, row=1, column=1)
    outcome = attack(Valley().eval(), inputs, labels)
    assert outcome.verified.success.all()
    assert ((outcome.candidates[:, 0, 1, 1] - 0.3).abs() < 0.005**0.5).all()


def test_a_sample_is_attacked_alike_alone_and_in_company():
    network, inputs, labels = problem()
    network, inputs = network.double(), inputs.double()
    attack = AdversarialPatch(height=3, width=2, transforms=2, rotation=30, scale=0.7, steps=4, tries=3)
    together = attack(network, inputs, labels, seed=1).candidates
    order = [5, 0, 9]
    some = attack(network, inputs[order], labels[order], seed=1).candidates
    torch.testing.assert_close(some, together[order], rtol=1e-9, atol=1e-9)
    assert not torch.equal(attack(network, inputs, labels, seed=2).candidates, together)


def test_transformations_change_what_is_optimal():
    # upright, the right pixel is best left black; turned over it lies on the left, where white counts for more
    weight = torch.tensor([[0.0, 0.0], [1.0, -0.2]])
    network = linear_network(weight, torch.tensor([0.5, 0.0]))
    inputs, labels = torch.full((1, 1, 1, 2), 0.25), torch.tensor([0])
    upright = AdversarialPatch(height=1, width=2)(network, inputs, labels)
    assert upright.candidates.flatten().tolist() == [1, 0]
    turned = AdversarialPatch(height=1, width=2, transforms=8, rotation=180)(network, inputs, labels)
    assert turned.verified.success.all()

    def mean_margin(patches):
        logits = network(torch.cat([patches, patches.flip(3)]))
        return (logits[:, 0] - logits[:, 1]).mean().item()

    assert mean_margin(turned.candidates) < 0 < mean_margin(upright.candidates)


def test_no_gradient_no_patch_but_no_harm():
    network = linear_network(torch.zeros(3, 16), torch.tensor([0.0, 1.0, 0.0]))
    inputs = torch.rand(2, 1, 4, 4)
    outcome = AdversarialPatch(height=2, width=2)(network, inputs, torch.tensor([1, 1]))
    assert torch.equal(outcome.candidates, inputs)
    assert outcome.details == {"row": (None, None), "column": (None, None)}


class Nan(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1)[:, :3] * torch.nan


def test_a_network_of_nans_gives_the_inputs_back():
    inputs = torch.rand(2, 1, 4, 4)
    outcome = AdversarialPatch(height=2, width=2)(Nan().eval(), inputs, torch.tensor([1, 1]))
    assert torch.equal(outcome.candidates, inputs)


def test_the_only_class_of_a_network_cannot_be_left():
    inputs = torch.rand(2, 1, 4, 4)
    outcome = AdversarialPatch(height=2, width=2)(
        linear_network(torch.ones(1, 16)), inputs, torch.zeros(2, dtype=torch.int64)
    )
    assert torch.equal(outcome.candidates, inputs)


def test_passes_are_counted():
    network, inputs, labels = problem(samples=5, certain=(0.3, 0.3))
    attack = AdversarialPatch(height=1, width=1, row=0, column=0, steps=3)
    assert not (best_margins(network, inputs, labels, 1, 1)[:, 0, 0] < 0).any()
    outcome = attack(network, inputs, labels)
    assert outcome.forward_passes == 5 * (1 + 4)  # the prospects, the first contents and three steps
    assert outcome.backward_passes == 5 * (3 + 4)  # the prospects are of three classes


PATCH = torch.arange(12.0).view(1, 2, 2, 3) / 12
BACKGROUND = torch.full_like(PATCH, 0.5)


@pytest.mark.parametrize(
    ("angle", "expected"),
    [(0, PATCH), (math.pi, PATCH.flip(2, 3)), (-math.pi, PATCH.flip(2, 3))],
    ids=["upright", "half a turn", "half a turn back"],
)
def test_whole_turns_only_move_pixels(angle, expected):
    drawn = transformed(PATCH, BACKGROUND, torch.tensor([angle]), torch.tensor([1.0]))
    torch.testing.assert_close(drawn, expected)


def test_a_quarter_turn_of_a_square_is_that_of_a_matrix():
    patch = torch.rand(1, 3, 5, 5)
    drawn = transformed(patch, torch.zeros_like(patch), torch.tensor([math.pi / 2]), torch.tensor([1.0]))
    torch.testing.assert_close(drawn, patch.rot90(1, (2, 3)))


def test_a_shrunk_patch_leaves_its_frame_free():
    patch = torch.ones(1, 1, 8, 8)
    drawn = transformed(patch, torch.zeros_like(patch), torch.tensor([0.0]), torch.tensor([0.5]))
    assert torch.equal(drawn[0, 0, 3:5, 3:5], torch.ones(2, 2))
    assert drawn[0, 0, 0].sum() == 0
    assert drawn.sum().item() == pytest.approx(16, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 0}, "height >= 1"),
        ({"stride": 0}, "stride >= 1"),
        ({"tries": 0}, "tries >= 1"),
        ({"steps": 0}, "steps >= 1"),
        ({"transforms": -1}, "transforms >= 0"),
        ({"row": 1}, "both of row and column"),
        ({"row": -1, "column": 0}, "row >= 0"),
        ({"search": "all"}, "ranked, random"),
        ({"rotation": 181.0}, "rotation"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AdversarialPatch(**settings)


def test_a_patch_must_lie_within_the_image():
    network, inputs, labels = problem(samples=1)
    for attack in (AdversarialPatch(height=7), AdversarialPatch(height=2, width=2, row=5, column=0)):
        with pytest.raises(InputError, match="a patch within images of 6 x 5"):
            attack(network, inputs, labels)
    with pytest.raises(InputError, match=r"images \(N, C, H, W\)"):
        AdversarialPatch()(nn.Linear(3, 2).eval(), torch.rand(1, 3), torch.tensor([0]))


def test_settings_are_reported():
    assert "row" not in AdversarialPatch().parameters()
    assert AdversarialPatch(row=0, column=3).parameters()["column"] == 3
