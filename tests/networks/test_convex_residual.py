"""Convex combinations with the identity: values, the learned share, and the constant."""

import pytest
import torch
from torch import nn

from lipcert import export
from lipcert.certificates import lipschitz_upper_bound
from lipcert.errors import InputError
from lipcert.layers import OrthogonalConv2d, OrthogonalLinear
from lipcert.networks import ConvexResidual, residual_network


@pytest.mark.parametrize("learned", [True, False], ids=["learned", "fixed"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_values_and_gradients(share, learned):
    torch.manual_seed(0)
    layer = ConvexResidual(nn.Linear(4, 4), share, learned=learned).double()
    assert layer.share.item() == pytest.approx(share, rel=1e-6)
    inputs = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    expected = (1 - layer.share) * inputs + layer.share * layer.branch(inputs)
    torch.testing.assert_close(layer(inputs), expected, rtol=0, atol=1e-12)
    parameters = tuple(layer.parameters())
    assert len(parameters) == 2 + learned
    assert torch.autograd.gradcheck(lambda *_: layer(inputs), (inputs, *parameters))


def test_a_learned_share_stays_between_zero_and_one():
    layer = ConvexResidual(OrthogonalLinear(4, 4), learned=True)
    for raw in (-200.0, -3.0, 3.0, 200.0):
        layer.parametrizations.share.original.data.fill_(raw)
        plain = export(layer)
        assert 0 <= plain.share.item() <= 1
        assert lipschitz_upper_bound(plain, (4,)).value <= 1 + 1e-6


def test_the_export_has_the_shares_value():
    layer = ConvexResidual(nn.Identity(), 0.25, learned=True)
    layer.parametrizations.share.original.data.fill_(1.0)
    plain = export(layer)
    assert dict(plain.named_parameters())["share"].item() == torch.tensor(1.0).sigmoid().item()
    assert list(export(ConvexResidual(nn.Identity(), 0.25)).state_dict()) == ["share"]


def test_half_precision_keeps_its_type():
    layer = ConvexResidual(nn.Conv2d(2, 2, 1), 0.5, learned=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(torch.rand(1, 2, 3, 3, dtype=torch.bfloat16))
    assert outputs.dtype == torch.bfloat16


def test_rescaled_kernels_start_orthogonal():
    """Rescaling must leave them as they are assigned, or the stem would lose pixels before training begins."""
    torch.manual_seed(0)
    network = export(residual_network((1, 8, 8), 3, channels=(6, 8), blocks=1, widths=()))
    stem, block = network[0], network[2].branch[0]
    assert torch.equal(block.weight, nn.init.dirac_(torch.empty(6, 6, 3, 3)))
    inputs = torch.rand(4, 1, 8, 8)
    # as many outputs as pixels in a patch, or more: norms are kept
    torch.testing.assert_close(stem(inputs).flatten(1).norm(dim=1), inputs.flatten(1).norm(dim=1))


def test_a_planted_share_is_caught():
    plain = export(ConvexResidual(OrthogonalConv2d(4, 4), 0.5, learned=True))
    with torch.no_grad():
        plain.share.fill_(1.5)
    assert lipschitz_upper_bound(plain, (4, 3, 3)).value > 1.9


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_shares_outside_are_refused(share):
    with pytest.raises(InputError, match=r"expected a share in \(0, 1\)"):
        ConvexResidual(nn.Identity(), share)
