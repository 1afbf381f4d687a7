"""Exchange by bits, and the activations that are made of it, against selection by torch and to the bit."""

import pytest
import torch
from deel import torchlip

from lipcert.layers import GroupSort2, HalfAbs, MaxMin
from lipcert.layers.swaps import as_bits, bits_where_less, swap_into

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ODD = [0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan]


def same_bits(first, second):
    return torch.equal(as_bits(first), as_bits(second))


def odd_pairs(dtype):
    """Every pair of values that are hard to compare, subnormal and huge ones among them."""
    limits = torch.finfo(dtype)
    values = torch.tensor([*ODD, limits.max, -limits.max, limits.smallest_normal], dtype=torch.float64).to(dtype)
    subnormal = torch.ones(2, dtype={8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]).view(dtype)
    values = torch.cat([values, subnormal[:1], 2 * subnormal[:1]])
    return torch.cartesian_prod(values, values).unbind(1)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_masks_compare(dtype):
    first, second = odd_pairs(dtype)
    mask = bits_where_less(first, second)
    assert set(mask.tolist()) == {0, -1}
    ordered = ~(first.isnan() | second.isnan() | (first.isinf() & (first == second)))
    below = (first < second) | ((first == 0) & (second == 0) & first.signbit() & ~second.signbit())
    assert torch.equal(mask[ordered] != 0, below[ordered])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_swaps_move_every_bit(dtype):
    first, second = odd_pairs(dtype)
    chosen = torch.arange(len(first)) % 3 == 0
    mask = -chosen.to(as_bits(first).dtype)
    out = torch.empty_like(first), torch.empty_like(first)
    swap_into(first, second, mask, out)
    assert same_bits(out[0], torch.where(chosen, second, first))
    assert same_bits(out[1], torch.where(chosen, first, second))


def by_definition(layer, inputs):
    """The layers as selections that autograd differentiates."""
    if isinstance(layer, HalfAbs):
        folded, kept = inputs.chunk(2, dim=1)
        return torch.cat([torch.where(folded < 0, -folded, folded), kept], dim=1)
    if isinstance(layer, MaxMin):
        first, second = inputs.chunk(2, dim=1)
        less = first < second
        return torch.cat([torch.where(less, second, first), torch.where(less, first, second)], dim=1)
    return torchlip.GroupSort2()(inputs)


def gradient_of(function, inputs, weights):
    variable = inputs.clone().requires_grad_()
    output = function(variable)
    return output.detach(), torch.autograd.grad(output, variable, weights)[0]


@pytest.mark.parametrize("layout", ["images", "channels-last", "vectors", "expanded-gradient", "transposed-gradient"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layer", [MaxMin(), HalfAbs(), GroupSort2()], ids=["maxmin", "half-abs", "groupsort"])
def test_gradients_are_autograds_to_the_bit(layer, dtype, layout):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 8) if layout == "vectors" else (3, 8, 4, 4)
    inputs, weights = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    if layout == "channels-last":
        inputs, weights = (item.contiguous(memory_format=torch.channels_last) for item in (inputs, weights))
    if layout == "expanded-gradient":
        weights = torch.tensor(-2.0, dtype=dtype).expand(shape)
    if layout == "transposed-gradient":
        weights = weights.mT
    value, gradient = gradient_of(layer.train(), inputs, weights)
    expected_value, expected = gradient_of(lambda x: by_definition(layer, x), inputs, weights)
    assert torch.equal(value, expected_value)
    # a gradient of 0 through a selection is the sum of two zeros, which may have another sign
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("layer", [MaxMin(), GroupSort2()], ids=["maxmin", "groupsort"])
def test_gradients_that_are_not_finite_do_not_spread(layer):
    inputs = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.ones_like(inputs)
    weights[0, 1, 2, 2], weights[1, 0, 0, 0] = torch.nan, torch.inf
    _, gradient = gradient_of(layer.train(), inputs, weights)
    assert (int(gradient.isnan().sum()), int(gradient.isinf().sum())) == (1, 1)


@pytest.mark.parametrize("layer", [MaxMin(), HalfAbs(), GroupSort2()], ids=["maxmin", "half-abs", "groupsort"])
def test_gradients_under_autocast(layer):
    linear = torch.nn.Linear(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer.train()(linear(torch.rand(3, 4)))
        loss = outputs.float().square().sum()
    loss.backward()
    assert outputs.dtype == torch.bfloat16
    assert bool(torch.isfinite(linear.weight.grad).all())
