"""A network of crops votes as a loop over the windows does, sees nothing else, and refuses what it was not made for."""

import pytest
import torch
from torch import nn

from lipcert.certificates import BlockAblation, ColumnAblation, ColumnAndRowAblation, RowAblation
from lipcert.errors import InputError
from lipcert.networks import CropNetwork, SmoothedNetwork
from lipcert.networks.crops import cut

SIZE = (8, 12)
CASES = {
    "columns": (ColumnAblation(3), (None, 3)),
    "no wrap": (ColumnAblation(2, stride=3, wrap=False), (None, 2)),
    "rows": (RowAblation(2), (2, None)),
    "blocks": (BlockAblation((5, 6), stride=(2, 3)), (5, 6)),
}


def images(count=4):
    return torch.rand(count, 2, *SIZE, generator=torch.Generator().manual_seed(5))


def smoothed(case, **options):
    torch.manual_seed(1)
    ablation, crop = CASES[case]
    base = CropNetwork((2, *SIZE), crop, 3, stages=((6, 1), (8, 2)), width=16)
    for parameter in base.parameters():  # places matter, and no branch is near zero
        nn.init.normal_(parameter, std=0.3)
    return SmoothedNetwork(base, ablation, num_classes=3, **options).eval()


def logits_by_loop(network, inputs):
    """Each window cut by rolling the image, one view of one image after the other."""
    rows = []
    for image in inputs:
        each = []
        for row, column, height, width in network.ablation.windows(*SIZE).tolist():
            crop = image.roll((-row, -column), (1, 2))[None, :, :height, :width]
            each.append(network.network(crop, torch.tensor([[row, column]]))[0])
        rows.append(torch.stack(each))
    return torch.stack(rows)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at_once", [None, 200, 10_000])
def test_votes_are_those_of_a_loop_over_windows(case, at_once):
    network = smoothed(case, elements_at_once=at_once)
    with torch.no_grad():
        network.network.head.bias -= logits_by_loop(network, images()).mean((0, 1))  # views disagree
        expected = logits_by_loop(network, images())
        assert torch.allclose(network.view_logits(images()), expected, rtol=0, atol=1e-5)
        assert torch.equal(network.votes(images()), expected.argmax(2))
        assert len(expected.argmax(2).unique()) > 1
        views = torch.tensor([0, 1, expected.shape[1] - 1, 2])
        assert torch.allclose(network.one_view_logits(images(), views), expected[range(4), views], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_view_sees_its_window_alone(case):
    network, inputs = smoothed(case), images(1).requires_grad_()
    for view, mask in enumerate(network.ablation.masks(*SIZE)):
        (gradient,) = torch.autograd.grad(network.view_logits(inputs)[0, view].square().sum(), inputs)
        assert not gradient[0, :, ~mask].any()
        assert gradient[0, :, mask].any()


def test_a_crop_goes_on_at_the_opposite_edge():
    image = torch.arange(20.0).view(1, 1, 4, 5)
    crop = cut(image, torch.tensor([[3, 4, 2, 3]]))
    assert crop.squeeze().tolist() == [[19, 15, 16], [4, 0, 1]]


def test_where_a_crop_was_cut_matters():
    network = smoothed("columns").network
    crops = torch.rand(1, 2, 8, 3).expand(2, -1, -1, -1)
    first, second = network(crops, torch.tensor([[0, 0], [0, 7]]))
    assert not torch.allclose(first, second)


def test_weights_are_for_the_views_they_were_trained_on():
    state = smoothed("columns").state_dict()
    base = CropNetwork((2, *SIZE), (None, 3), 3, stages=((6, 1), (8, 2)), width=16)
    SmoothedNetwork(base, ColumnAblation(3, stride=2), num_classes=3).load_state_dict(state)
    with pytest.raises(InputError, match="ColumnAblation 3, cropped"):
        SmoothedNetwork(base, BlockAblation((8, 3)), num_classes=3).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": (None, 13)}, "crops within images of 8 x 12, got 8 x 13"),
        ({"crop": (0, 2)}, "crops within images"),
        ({"crop": (None, 2, 3)}, "a height and a width of crops"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"kernel_size": 4}, "an odd kernel"),
        ({"width": 0}, "a positive width"),
        ({"stages": ()}, "stages of positive numbers"),
        ({"stages": ((8, 0),)}, "stages of positive numbers"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        CropNetwork((1, *SIZE), **{"crop": (None, 2), **settings})


def test_views_that_it_was_not_made_for():
    base = CropNetwork((1, *SIZE), (None, 2), 3, stages=((4, 1),)).eval()
    with pytest.raises(InputError, match=r"crops \(M, C, 8 x 2\) for this network, got \(24, 1, 8, 3\)"):
        SmoothedNetwork(base, ColumnAblation(3), num_classes=3).votes(torch.rand(2, 1, *SIZE))
    with pytest.raises(InputError, match="views of one size for a network of crops, got 2 sizes"):
        SmoothedNetwork(base, ColumnAndRowAblation(2), num_classes=3).votes(torch.rand(2, 1, *SIZE))
