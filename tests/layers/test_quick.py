"""Layers exchanged for faster ones: the same values to the bit, and nothing exchanged that is not known."""

import copy

import pytest
import torch
from deel import torchlip
from torch import nn

from lipcert.attacks.counting import CountedNetwork
from lipcert.layers.blocked import BlockedConv2d, BlockedLinear
from lipcert.layers.quick import quickened


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        torchlip.GroupSort2(),
        nn.LPPool2d(2, 2),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), torchlip.GroupSort2()),
        nn.LPPool2d(2, (2, 1), stride=(2, 1)),
        nn.Flatten(),
        nn.Linear(48, 4),
        torchlip.GroupSort2(),
    ).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_the_same_to_the_bit_and_gradients_up_to_rounding(dtype):
    slow = network().to(dtype)
    quick = quickened(copy.deepcopy(slow))
    assert sum(type(layer).__name__.startswith("_Quick") for layer in quick.modules()) == 5
    assert not any(layer.training for layer in quick.modules())
    inputs, weight = torch.randn(7, 1, 8, 8, dtype=dtype), torch.randn(4, dtype=dtype)
    gradients = []
    for each in (slow, quick):
        leaf = inputs.clone().requires_grad_()
        logits = each(leaf)
        gradients.append(torch.autograd.grad((logits * weight).sum(), leaf)[0])
        assert torch.equal(logits, slow(inputs))
    torch.testing.assert_close(*gradients)


def test_sums_in_blocks_become_plain_ones():
    """Block by block they are others in the last bits; the network that was handed in keeps its own."""
    torch.manual_seed(0)
    slow = nn.Sequential(BlockedConv2d(40, 40, 3, padding=1), nn.Flatten(), BlockedLinear(640, 5)).eval()
    quick = quickened(copy.deepcopy(slow))
    assert [type(layer) for layer in quick] == [nn.Conv2d, nn.Flatten, nn.Linear]
    inputs = torch.randn(7, 40, 4, 4)
    torch.testing.assert_close(quick(inputs), slow(inputs))
    assert [type(layer) for layer in slow] == [BlockedConv2d, nn.Flatten, BlockedLinear]


def test_special_values_are_sorted_alike():
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, 3.0, -3.0])
    pairs = torch.cartesian_prod(special, special)
    slow, quick = torchlip.GroupSort2(), quickened(torchlip.GroupSort2())
    torch.testing.assert_close(quick(pairs), slow(pairs), rtol=0, atol=0, equal_nan=True)


def test_windows_of_zeros_have_no_slope():
    inputs = torch.zeros(1, 1, 2, 2, requires_grad=True)
    quickened(nn.LPPool2d(2, 2))(inputs).sum().backward()
    assert torch.equal(inputs.grad, torch.zeros(1, 1, 2, 2))


class Loud(torchlip.GroupSort2):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def with_hook():
    layer = torchlip.GroupSort2()
    layer.register_forward_hook(lambda module, arguments, output: output + 1)
    return layer


def with_forward_of_its_own():
    layer = torchlip.GroupSort2()
    layer.forward = lambda inputs: -inputs
    return layer


@pytest.mark.parametrize(
    "make",
    [
        Loud,
        with_hook,
        with_forward_of_its_own,
        lambda: torchlip.GroupSort2(k_coef_lip=2.0),
        lambda: nn.LPPool2d(1, 2),
        lambda: nn.LPPool2d(2, 3, stride=1),
        lambda: nn.LPPool2d(2, 3, ceil_mode=True),
    ],
)
def test_what_is_not_known_is_left_alone(make):
    layer = make()
    assert quickened(layer) is layer
    assert quickened(nn.Sequential(layer))[0] is layer


def test_images_that_windows_do_not_tile_are_pooled_as_before():
    inputs = torch.rand(2, 3, 5, 7)
    assert torch.equal(quickened(nn.LPPool2d(2, 2))(inputs), nn.LPPool2d(2, 2)(inputs))


def test_attacks_search_with_the_quick_layers_and_leave_the_network_alone():
    slow = network()
    kinds = [type(layer) for layer in slow.modules()]
    counted = CountedNetwork(slow)
    assert any(type(layer).__name__ == "_QuickSort" for layer in counted.modules())
    assert [type(layer) for layer in slow.modules()] == kinds
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(counted(inputs), slow(inputs))
