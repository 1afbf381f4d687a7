"""The Björck iteration on Gram matrices is torchlip's own: values, gradients, when it ends, state and export."""

import copy

import pytest
import torch
from deel import torchlip
from deel.torchlip.normalizers import bjorck_normalization
from deel.torchlip.utils.bjorck_norm import _BjorckNorm
from torch import nn

from lipcert import export
from lipcert.layers import bjorck
from lipcert.layers.bjorck import GramBjorck, speed_up
from lipcert.networks import hkr_convnet

EPS = 1e-3
SHAPES = {"wide": (6, 40), "tall": (40, 6), "kernel": (5, 3, 3, 3), "tall-kernel": (40, 1, 3, 3), "row": (1, 8)}
LAYERS = {
    "linear": lambda: torchlip.SpectralLinear(48, 6),
    "tall-linear": lambda: torchlip.SpectralLinear(6, 48),
    "square-linear": lambda: torchlip.SpectralLinear(8, 8),
    "conv2d": lambda: torchlip.SpectralConv2d(4, 6, kernel_size=(3, 3), padding="same"),
    "strided": lambda: torchlip.SpectralConv2d(4, 6, kernel_size=(3, 3), stride=2),
    "conv1d": lambda: torchlip.SpectralConv1d(8, 4, kernel_size=5),
}


def of_condition(shape, condition, dtype=torch.float32):
    """A weight of norm 1 whose singular values are spread evenly on a logarithmic scale."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64, generator=generator).flatten(1)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = condition ** -torch.linspace(0, 1, left.shape[1], dtype=torch.float64)
    return ((left * values) @ right).reshape(shape).to(dtype)


def value_and_gradient(function, weight):
    variable = weight.clone().requires_grad_()
    output = function(variable)
    towards = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    output.backward(towards.to(weight.dtype))
    return output.detach().double(), variable.grad.double()


def on_gram(weight, *, waits=True):
    return bjorck._Orthonormalised.apply(weight.flatten(1), EPS, waits).view(weight.shape)


def torchlips(weight):
    return bjorck_normalization(weight, EPS)


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "masked"])
@pytest.mark.parametrize("condition", [1, 1.001, 1.3, 10, 1e3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_torchlips(shape, condition, waits):
    exact = of_condition(shape, condition, torch.float64)
    # From 1 step to all 15. In double precision only rounding is between the two; single precision loses to either
    # what the iteration enlarges, at most 1.5**15 times, and the gradient of the first four steps nothing.
    for dtype, values, gradients in [(torch.float64, 1e-10, 1e-12), (torch.float32, 2e-5, 2e-6)]:
        expected = value_and_gradient(torchlips, exact.to(dtype))
        result = value_and_gradient(lambda weight: on_gram(weight, waits=waits), exact.to(dtype))
        assert distance(result[0], expected[0]) < values
        assert distance(result[1], expected[1]) < gradients


def test_the_cases_end_after_different_numbers_of_steps():
    growths = set()
    for condition in (1, 1.3, 10, 1e3):
        gram = of_condition((6, 40), condition, torch.float64)
        steps, growth, _ = bjorck._iterate(gram @ gram.mT, EPS, torch.float64, waits=True)
        growths.add((len(steps), growth))
    assert len(growths) == 4
    assert (4, 1.5**11) in growths


def test_values_stay_torchlips_where_a_gram_matrix_in_single_precision_loses_them():
    weight = of_condition((6, 40), 300)
    exact = torchlips(weight.double())
    assert distance(on_gram(weight).double(), exact) < 1e-5
    single = weight @ weight.mT
    _, _, product = bjorck._iterate(single, EPS, torch.float32, waits=True)
    assert distance((product @ weight).double(), exact) > 1e-4


def test_a_wrong_end_is_found():
    weight = of_condition((6, 40), 1.3, torch.float64)
    _, expected = value_and_gradient(torchlips, weight)
    _, result = value_and_gradient(
        lambda raw: bjorck._Orthonormalised.apply(raw, EPS / 1e6, True).view(raw.shape), weight
    )
    assert distance(result, expected) > 0.1


def trained(layer, steps=4):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(2)
    size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    shape = [8, size] + [9] * (layer.weight.ndim - 2)
    inputs, weights, losses = torch.randn(shape, generator=generator), None, []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = layer(inputs)
        weights = torch.randn(outputs.shape, generator=generator) if weights is None else weights
        loss = (outputs * weights).sum() / 8
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers_train_as_torchlips(make):
    torch.manual_seed(0)
    slow = make()
    fast = speed_up(copy.deepcopy(slow))
    assert type(fast) is type(slow)
    assert [type(step) for step in fast.parametrizations.weight][1] is GramBjorck
    expected, losses = trained(slow), trained(fast)
    assert abs(expected[-1] - expected[0]) > 0.01
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert list(fast.state_dict()) == list(slow.state_dict())
    for name, tensor in slow.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_state_of_torchlips_layer_is_loaded_and_used_in_eval_mode():
    torch.manual_seed(0)
    slow, fast = LAYERS["linear"](), speed_up(LAYERS["linear"]())
    trained(slow)
    fast.load_state_dict(slow.state_dict())
    inputs = torch.randn(3, 48)
    assert torch.equal(fast.eval()(inputs), slow.eval()(inputs))


def test_what_is_not_torchlips_is_left_alone():
    plain, orthogonal = nn.Linear(2, 2), nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))
    before = type(orthogonal.parametrizations.weight[0])
    assert speed_up(plain) is plain
    assert type(speed_up(orthogonal).parametrizations.weight[0]) is before


def small_network():
    torch.manual_seed(0)
    return hkr_convnet((1, 8, 8), 3, channels=(2, 4), hidden=6)


def as_torchlip(network):
    for layer in network:
        steps = layer.parametrizations.weight if hasattr(layer, "parametrizations") else []
        for index, step in enumerate(steps):
            if isinstance(step, GramBjorck):
                steps[index] = _BjorckNorm(step._w_bjorck, step.eps)
    return network


# Adam enlarges rounding: what single precision leaves open, double precision decides.
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=["single", "double"])
def test_the_network_follows_torchlips_losses_and_export(dtype, near):
    fast, slow = small_network().to(dtype), as_torchlip(small_network()).to(dtype)
    inputs = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    losses = []
    for network in (fast, slow):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        losses.append([])
        for _ in range(8):
            optimizer.zero_grad()
            loss = -network(inputs).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=near)
    assert losses[0][-1] < 1.1 * losses[0][0]
    assert list(fast.state_dict()) == list(slow.state_dict())
    for (name, tensor), (other, expected) in zip(
        export(fast).state_dict().items(), export(slow).state_dict().items(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(tensor, expected, rtol=10 * near, atol=near)
