"""The fast layers against torchlip's own: the same values, the same gradients, the same deployed network."""

import pytest
import torch
from deel import torchlip

from lipcert.deployment import export
from lipcert.layers import GroupSort2, L2NormPool2d

PAIRS = [
    pytest.param(GroupSort2(), torchlip.GroupSort2(), (4, 6, 8, 8), id="groupsort-images"),
    pytest.param(GroupSort2(), torchlip.GroupSort2(), (4, 6), id="groupsort-vectors"),
    pytest.param(GroupSort2(k_coef_lip=0.5), torchlip.GroupSort2(k_coef_lip=0.5), (4, 6), id="groupsort-half"),
    pytest.param(L2NormPool2d((2, 2)), torchlip.ScaledL2NormPool2d((2, 2)), (4, 3, 8, 6), id="pool-2x2"),
    pytest.param(L2NormPool2d(2), torchlip.ScaledL2NormPool2d(2), (4, 3, 8, 6), id="pool-2"),
    pytest.param(L2NormPool2d((3, 2)), torchlip.ScaledL2NormPool2d((3, 2)), (4, 3, 9, 6), id="pool-3x2"),
    pytest.param(L2NormPool2d((2, 2)), torchlip.ScaledL2NormPool2d((2, 2)), (4, 3, 7, 5), id="pool-odd"),
    pytest.param(
        L2NormPool2d((2, 2), k_coef_lip=2.0),
        torchlip.ScaledL2NormPool2d((2, 2), k_coef_lip=2.0),
        (2, 3, 4, 4),
        id="pool-twice",
    ),
]


@pytest.mark.parametrize(("fast", "slow", "shape"), PAIRS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_values_and_gradients_are_torchlips(fast, slow, shape, training):
    fast.train(training)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(slow(inputs).shape, generator=torch.Generator().manual_seed(1))
    gradients, values = [], []
    for layer in (fast, slow):
        variable = inputs.clone().requires_grad_()
        output = layer(variable)
        (output * weights).sum().backward()
        values.append(output.detach())
        gradients.append(variable.grad)
    assert torch.equal(*values)
    # two orders of the same few float32 operations
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [GroupSort2(), L2NormPool2d((2, 2))], ids=["groupsort", "pool"])
def test_gradients_by_finite_differences(layer):
    inputs = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(layer.train(), (inputs,))


def test_a_window_of_zeros_has_gradient_zero():
    inputs = torch.zeros(1, 1, 4, 4, requires_grad=True)
    L2NormPool2d((2, 2)).train()(inputs).sum().backward()
    assert torch.equal(inputs.grad, torch.zeros(1, 1, 4, 4))


def test_odd_channels_are_refused():
    with pytest.raises(ValueError, match="multiple of the group size"):
        GroupSort2().train()(torch.zeros(2, 3))


def test_the_export_is_plain():
    network = torchlip.Sequential(GroupSort2(), L2NormPool2d((2, 2)))
    plain = export(network)
    assert [type(layer) for layer in plain] == [torchlip.GroupSort2, torch.nn.LPPool2d]
    inputs = torch.randn(3, 4, 8, 8)
    assert torch.equal(network(inputs), plain(inputs))
