"""Settings that are refused, and copies of networks that go over to float64 on the way."""

from __future__ import annotations

import pytest
import torch
from test_float_error import GRID, NETWORKS, covers, inputs_of_all_sizes, prepared
from torch import nn
from zoo import Forward

from lipcert.certificates import float_walk, logit_errors
from lipcert.certificates.execution import check_execution, check_same_function, float64_copy, float64_linear_copy
from lipcert.certificates.float_error import LogitErrors, centre_evaluation
from lipcert.errors import InputError


def mixed_execution(name: str) -> tuple[nn.Module, LogitErrors]:
    network = prepared(name)
    return centre_evaluation(network, inputs_of_all_sizes(), logit_errors(network, GRID))


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"norms"}))  # which joins float32 and float64 in one tensor
def test_no_execution_that_goes_over_to_float64_is_further_off_than_its_bound(name):
    network, errors = mixed_execution(name)
    assert errors.dtype == torch.float32
    with torch.no_grad():
        assert network(inputs_of_all_sizes()).dtype == torch.float64
    assert covers(errors, network, inputs_of_all_sizes())


@pytest.mark.parametrize("name", ["hkr", "conv-paddings", "pools", "residual", "normalised"])
def test_bounds_count_every_layer_in_the_type_that_it_executes_in(name):
    network, _ = mixed_execution(name)
    seen = []
    for module in network.modules():
        module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    network(torch.rand(1, *GRID))
    executed = seen.copy()
    seen.clear()
    logit_errors(network, GRID, mixed=True)
    assert seen == executed
    assert executed[-1] == torch.float64


@pytest.mark.parametrize("name", ["hkr", "conv-paddings", "pools", "batch-norm", "transposed"])
def test_taking_float32_convolutions_for_float64_is_caught(monkeypatch, name):
    monkeypatch.setattr(float_walk, "unit_roundoff", lambda dtype: 2.0**-53)
    network, errors = mixed_execution(name)
    assert errors.dtype == torch.float32
    assert not covers(errors, network, inputs_of_all_sizes())


FLOAT64_THROUGHOUT = {
    "no-linear-layer": nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()),
    "weights-after-linear-layers": nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)),
    "linear-layers-before-convolutions": nn.Sequential(nn.Linear(8, 8), nn.Conv2d(1, 4, 8), nn.Flatten()),
    "both-types-in-one-sum": Forward(lambda self, x: self.f(x.flatten(1)) + x.flatten(1)[:, :5], f=nn.Linear(64, 5)),
    "back-to-float32": nn.Sequential(nn.Flatten(), nn.Linear(64, 5), Forward(lambda self, x: x.to(torch.float32))),
    "in-place": Forward(lambda self, x: x.flatten(1)[:, :5].clone().add_(self.f(x.flatten(1))), f=nn.Linear(64, 5)),
}


@pytest.mark.parametrize("name", FLOAT64_THROUGHOUT)
def test_what_cannot_go_over_to_float64_is_evaluated_in_it_from_the_start(name):
    network, inputs = FLOAT64_THROUGHOUT[name].requires_grad_(False).eval(), torch.rand(3, *GRID)
    executed = logit_errors(network, GRID)
    exact, errors = centre_evaluation(network, inputs, executed)
    assert errors.dtype == torch.float64
    assert {parameter.dtype for parameter in exact.parameters()} == {torch.float64}
    assert torch.equal(errors.constant, executed.constant * 2.0**-29)


def test_results_in_a_coarser_type_are_refused_as_they_execute():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), Forward(lambda self, x: x.to(torch.float32)))
    first = torch.rand(1, *GRID)
    with pytest.raises(InputError, match=r"float32 throughout, got float32 in aten\._to_copy"):
        check_same_function(float64_linear_copy(network.eval()), first, float64_copy(network), first.double())


@pytest.mark.parametrize("setting", ["conv", "matmul"])
def test_reduced_precision_of_either_kind_of_product_is_refused(setting):
    backend = getattr(torch.backends.mkldnn, setting)
    before, backend.fp32_precision = backend.fp32_precision, "bf16"
    try:
        with pytest.raises(InputError, match=f'full precision, got "bf16" .torch.backends.mkldnn.{setting}'):
            check_execution(prepared("hkr"), torch.rand(1, *GRID))
    finally:
        backend.fp32_precision = before


@pytest.fixture
def no_onednn():
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(True)


@pytest.mark.usefixtures("no_onednn")
def test_winograd_convolutions_are_refused():
    check_execution(prepared("relu-chain"), torch.rand(1, *GRID))
    with torch.backends.nnpack.flags(enabled=False):
        check_execution(prepared("hkr"), torch.rand(1, *GRID))
    with pytest.raises(InputError, match="no Winograd convolutions"):
        check_execution(prepared("hkr"), torch.rand(1, *GRID))
