"""Sums in blocks: their values, how often they round, and what that is worth to a certificate."""

from __future__ import annotations

import functools
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lipcert import certify, export
from lipcert.blocked_sums import conv2d_in_blocks, linear_in_blocks, roundings_in_blocks
from lipcert.certificates import lipschitz_upper_bound, logit_errors
from lipcert.deployment import check_export
from lipcert.layers import OrthogonalConv2d, OrthogonalLinear
from lipcert.layers.blocked import BlockedConv2d, BlockedLinear

SHAPES = [
    (5, 10),
    (5, 256),
    (5, 257),
    (5, 640),
    (3, 1001),
    (6, 40, 3, 3),
    (6, 33, 5, 4),
    (6, 300, 1, 1),
    (6, 2, 12, 12),
]


def run_of(shape: tuple[int, ...]):
    if len(shape) == 2:
        return linear_in_blocks, F.linear, torch.randn(7, shape[1])
    settings = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 1 + (shape[2:] == (3, 3)))}
    calls = (functools.partial(call, **settings) for call in (conv2d_in_blocks, F.conv2d))
    return *calls, torch.randn(7, shape[1], 13, 13)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_plain_operation(shape, bias):
    torch.manual_seed(0)
    blocked, plain, inputs = run_of(shape)
    tensors = [inputs, torch.randn(shape), *([torch.randn(shape[0])] if bias else [])]
    leaves = [tensor.double().requires_grad_() for tensor in tensors]
    results = [call(*leaves) for call in (blocked, plain)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(result.square().sum(), leaves) for result in results]
    for found, due in zip(*gradients, strict=True):
        torch.testing.assert_close(found, due)
    if roundings_in_blocks(*tensors[1:], *[None] * (not bias)) == tensors[1][0].numel() + bias:
        assert torch.equal(blocked(*tensors), plain(*tensors))


class Depth(TorchFunctionMode):
    """Puts in place of every result how many roundings lie on the longest way to it, in the worst order."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.linear, F.conv2d):
            _, weight, bias, *_ = (*args, None)
            return torch.full_like(func(*args, **(kwargs or {})), weight[0].numel() + (bias is not None))
        if func.__name__ in ("__iadd__", "add_"):
            return torch.maximum(*args) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_number_of_roundings_is_the_longest_way(shape, bias):
    blocked, _, inputs = run_of(shape)
    weight, shift = torch.ones(shape), torch.ones(shape[0]) if bias else None
    with Depth():
        depths = blocked(inputs, weight, shift)
    assert (depths == roundings_in_blocks(weight, shift)).all()
    assert roundings_in_blocks(weight, shift) <= weight[0].numel() + bias


def test_layers_sum_in_blocks_when_they_are_deployed_and_only_then():
    torch.manual_seed(0)
    network = nn.Sequential(
        OrthogonalConv2d(2, 32, 3, stride=2, padding=1, constraint="aoc"),
        OrthogonalConv2d(32, 32, 3, stride=1, padding=1, constraint="aoc"),
        nn.Flatten(),
        OrthogonalLinear(512, 300),
        OrthogonalLinear(300, 5, constraint="bjorck"),
    )
    plain, inputs = export(network), torch.rand(9, 2, 8, 8)
    assert [type(layer) for layer in plain] == [nn.Conv2d, BlockedConv2d, nn.Flatten, BlockedLinear, BlockedLinear]
    check_export(network, plain, inputs)
    others = {
        BlockedConv2d: nn.Conv2d(32, 32, 3, padding=1),
        BlockedLinear: nn.Linear(512, 300),
    }
    for place in (1, 3):
        unblocked = others[type(plain[place])]
        unblocked.load_state_dict(plain[place].state_dict())
        value = plain[:place](inputs)
        with Depth():
            assert (plain[place](value) < unblocked(value)).all()
        assert torch.equal(plain[place].train()(value), unblocked(value))
        plain[place].eval()


@pytest.mark.parametrize(
    "settings",
    [{"groups": 2}, {"padding": 1, "padding_mode": "circular"}],
    ids=str,
)
def test_other_convolutions_are_those_of_torch(settings):
    torch.manual_seed(0)
    layer = BlockedConv2d(64, 8, 3, **settings).eval()
    plain = nn.Conv2d(64, 8, 3, **settings)
    plain.load_state_dict(layer.state_dict())
    inputs = torch.randn(2, 64, 7, 7)
    assert torch.equal(layer(inputs), plain(inputs))
    assert logit_errors(nn.Sequential(layer, nn.Flatten()).eval(), (64, 7, 7)).coefficient.equal(
        logit_errors(nn.Sequential(plain, nn.Flatten()).eval(), (64, 7, 7)).coefficient
    )


def test_a_certificate_keeps_more_of_its_radius_and_the_same_proof():
    torch.manual_seed(0)
    widths, shape = (1024, 512, 512, 5), (1, 32, 32)
    plain, blocked = (
        nn.Sequential(nn.Flatten(), *(kind(*sizes) for sizes in pairwise(widths))).eval()
        for kind in (nn.Linear, BlockedLinear)
    )
    blocked.load_state_dict(plain.state_dict())
    assert lipschitz_upper_bound(blocked, shape).value == lipschitz_upper_bound(plain, shape).value
    inputs = torch.rand(20, *shape)
    slack, of_plain = (certify(network, inputs).rounding_slack for network in (blocked, plain))
    assert bool((slack < of_plain / 5).all())
    assert bool((slack > of_plain / 9).all())
