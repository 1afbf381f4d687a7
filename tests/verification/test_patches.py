"""Convolutions whose windows lie apart, as a matrix on patches."""

import pytest
import torch
from reference import operator_norm
from torch import nn

from lipcert import InputError
from lipcert.layers import SpatialShift
from lipcert.layers.centering import Translation
from lipcert.verification.chain import stretches
from lipcert.verification.dense import LARGEST_ORDER, dense
from lipcert.verification.patches import Patches, linear_map
from lipcert.verification.recompute import dense_bounds

SHAPE = (5, 6, 7)
STRETCHES = {
    "1 x 1": [nn.Conv2d(5, 4, 1)],
    "patches": [nn.Conv2d(5, 3, 2, stride=2)],
    "gaps": [nn.Conv2d(5, 3, (1, 2), stride=(2, 3))],
    "groups": [nn.Conv2d(5, 10, 2, stride=2, groups=5)],
    "shift before": [SpatialShift(), nn.Conv2d(5, 4, 1)],
    "zeros from outside": [SpatialShift(2, wrap=False), nn.Conv2d(5, 4, 1)],
    "shift after": [nn.Conv2d(5, 6, 2, stride=2), SpatialShift()],
    "centred and flat": [Translation(torch.arange(5.0)), nn.Dropout(), nn.Conv2d(5, 4, 1), nn.Flatten()],
}


def read(layers):
    [stretch] = stretches(nn.Sequential(*layers).eval())
    return stretch, linear_map(stretch, SHAPE)


@pytest.mark.parametrize("name", STRETCHES)
def test_a_patch_has_the_norms_of_the_whole(name):
    stretch, patches = read(STRETCHES[name])
    assert isinstance(patches, Patches)
    whole = dense(stretch, SHAPE)
    for bound, matrix in (
        (patches.norm_upper_bound(), whole.matrix),
        (patches.absolute_norm_upper_bound(), whole.absolute),
    ):
        norm = operator_norm(matrix)
        assert norm * (1 - 1e-14) <= bound <= norm * (1 + 1e-8)


@pytest.mark.parametrize("name", STRETCHES)
def test_the_matrix_on_patches_gives_what_the_stretch_gives(name):
    stretch, patches = read(STRETCHES[name])
    inputs = torch.randn(3, *SHAPE, dtype=torch.float64)
    due = stretch(inputs) - stretch(torch.zeros_like(inputs))
    torch.testing.assert_close(patches(inputs), due.flatten(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(5, 4, 2)],
        [nn.Conv2d(5, 4, 2, stride=(2, 1))],
        [nn.Conv2d(5, 4, 1, padding=1)],
        [nn.Conv2d(5, 4, 2, stride=2, padding="valid", dilation=2)],
        [nn.Conv2d(5, 4, 1), nn.Conv2d(4, 3, 1)],
        [nn.Flatten(), nn.Linear(210, 3)],
    ],
    ids=["overlap", "overlap on one axis", "padding", "dilation", "two", "none"],
)
def test_everything_else_is_one_matrix_on_the_whole_input(monkeypatch, layers):
    monkeypatch.setattr("lipcert.verification.patches.dense", lambda stretch, shape: (len(stretch.layers), shape))
    assert read(layers)[1] == (len(layers), SHAPE)


def test_images_of_any_size():
    network = nn.Sequential(SpatialShift(), nn.Conv2d(5, 4, 1), nn.Flatten()).eval()
    probe = torch.rand(2, 5, 60, 60)
    assert LARGEST_ORDER < 4 * 60 * 60
    with pytest.raises(InputError, match="a side of at most"):
        dense(stretches(network)[0], probe.shape[1:])
    network.append(nn.ReLU())
    bounds = dense_bounds(network, probe)
    assert bounds.whole == pytest.approx(operator_norm(network[1].weight.detach()[:, :, 0, 0]), rel=1e-8)
    assert bounds.disagreement < 1e-14


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "moved",
    [lambda self, part, axis, sign: part[:, :, :1].expand_as(part), lambda self, part, axis, sign: 1.5 * part],
    ids=["copies", "scales"],
)
def test_a_shift_that_does_more_than_move_is_refused(monkeypatch, moved, after):
    monkeypatch.setattr(SpatialShift, "_moved", moved)
    with pytest.raises(InputError, match="move entries or lose them around the convolution"):
        read([nn.Conv2d(5, 5, 1), SpatialShift()] if after else [SpatialShift(), nn.Conv2d(5, 5, 1)])


def test_a_matrix_that_is_not_the_convolutions_disagrees(monkeypatch):
    layer = nn.Conv2d(5, 4, 1)
    assert dense_bounds(nn.Sequential(layer, nn.ReLU()).eval(), torch.rand(2, *SHAPE)).disagreement < 1e-14
    patch = Patches.__call__
    monkeypatch.setattr(Patches, "__call__", lambda self, inputs: 1.001 * patch(self, inputs))
    assert dense_bounds(nn.Sequential(layer, nn.ReLU()).eval(), torch.rand(2, *SHAPE)).disagreement > 1e-4
