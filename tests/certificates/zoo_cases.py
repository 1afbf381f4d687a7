"""One network with a bound, and what is checked of each: the bound against slopes, the rounding against executions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from reference import steepest_slope
from torch import nn
from zoo import IMAGE

from lipcert.certificates import logit_errors, norms_upper_bound
from lipcert.certificates.execution import check_execution, float64_copy
from lipcert.certificates.graph import lipschitz_upper_bound
from lipcert.errors import InputError
from lipcert.parametrized import frozen_copy


@dataclass(frozen=True)
class Case:
    """A network with a bound; `tight` is how far above the steepest slope it may be, `float32` why it is refused."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE
    tight: float = 1.001
    float32: str = ""

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()


def check_bound(case: Case) -> None:
    network = case.network()
    bound = lipschitz_upper_bound(network, case.shape)
    slope = steepest_slope(frozen_copy(network), case.shape)
    assert slope * (1 - 1e-12) <= bound.value <= slope * case.tight
    assert bound.layers


def check_rounding(case: Case) -> None:
    network = case.network()
    inputs = torch.rand(12, *case.shape, generator=torch.Generator().manual_seed(3))
    if case.float32:
        with pytest.raises(InputError, match=case.float32):
            check_execution(network, inputs.to(logit_errors(network, case.shape).dtype))
        return
    errors = logit_errors(network, case.shape)
    check_execution(network, inputs)
    executed, exact = frozen_copy(network), float64_copy(network)
    with torch.no_grad():
        error = (executed(inputs).double() - exact(inputs.double())).flatten(1)
    bounds = errors.constant + errors.coefficient * norms_upper_bound(inputs)[:, None, None]
    if len(error[0]) != len(errors.constant):  # no classifier: the table has root 2 times the error of the whole
        assert (error.norm(dim=1) <= bounds[:, 0, 0] / math.sqrt(2) * (1 + 1e-6)).all()
        return
    assert ((error[:, :, None] - error[:, None]).abs() <= bounds * (1 + 1e-6)).all()
