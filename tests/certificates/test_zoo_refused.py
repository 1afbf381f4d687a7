"""Networks without a finite or known constant are refused, in words that say where and why."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import (
    VECTOR,
    Counter,
    Forward,
    autocast,
    compiled,
    in_place_view,
    not_finite,
    reordered,
    swallowed_error,
    twice_the_batch,
)

from lipcert.certificates.graph import lipschitz_upper_bound
from lipcert.errors import InputError


@dataclass(frozen=True)
class Refused:
    """A network that has to be refused, in words that say where and why."""

    name: str
    build: Callable[[], nn.Module]
    says: str
    shape: tuple[int, ...] = VECTOR


REFUSED = [
    Refused("view written to in place", lambda: Forward(in_place_view), "another view"),
    Refused("product of two branches", lambda: Forward(lambda self, x: x * x.sigmoid()), "mul"),
    Refused("square", lambda: Forward(lambda self, x: x**2), "pow"),
    Refused("division by the input", lambda: Forward(lambda self, x: 1 / x), "div"),
    Refused("normalisation by the norm", lambda: Forward(lambda self, x: F.normalize(x)), "normalize"),
    Refused("exponential", lambda: Forward(lambda self, x: x.exp()), "exp"),
    Refused("square root", lambda: Forward(lambda self, x: x.abs().sqrt()), "sqrt"),
    Refused("sign", lambda: Forward(lambda self, x: torch.sign(x)), "sign"),
    Refused("rounding", lambda: Forward(lambda self, x: x.round()), "round"),
    Refused("hard threshold", lambda: nn.Threshold(0.5, 0.0), "jump"),
    Refused(
        "attention",
        lambda: Forward(lambda self, x: F.scaled_dot_product_attention(x, x, x)),
        "scaled_dot_product_attention",
        (4, 6),
    ),
    Refused("control flow on data", lambda: Forward(lambda self, x: x if x[0, 0] > 0 else 2 * x), "comparison"),
    Refused("way out of torch", lambda: Forward(lambda self, x: torch.from_numpy(x.numpy())), "numpy"),
    Refused("mixed samples", lambda: Forward(twice_the_batch), "batch"),
    Refused("mean over the batch", lambda: Forward(lambda self, x: x - x.mean(0)), "batch"),
    Refused("flattened batch", lambda: Forward(lambda self, x: x.reshape(-1)), "batch"),
    Refused("dropout that still drops", lambda: Forward(lambda self, x: F.dropout(x)), "dropout"),
    Refused("random numbers", lambda: Forward(lambda self, x: x * torch.rand(6)), "random"),
    Refused("random numbers of Python", lambda: Forward(lambda self, x: x * random.random()), "random"),
    Refused("autocast", lambda: Forward(autocast, linear=nn.Linear(6, 3)), "autocast"),
    Refused("half precision", lambda: Forward(lambda self, x: x.half().float()), "expected no conversion"),
    Refused("error that the network swallows", lambda: Forward(swallowed_error), "exp"),
    Refused("counter in a buffer", lambda: Counter(), "change"),
    Refused("batch statistics", lambda: nn.BatchNorm1d(6, track_running_stats=False), "running statistics"),
    Refused("arguments in another order", lambda: Forward(reordered), "batch_norm"),
    Refused("other reading of the same bits", lambda: Forward(lambda self, x: x.view(torch.float64).float()), "bits"),
    Refused("compiled network", lambda: compiled(), "compile"),
    Refused("indices of a maximum", lambda: Forward(lambda self, x: x.max(1)[1].float()), "expected"),
    Refused("weights that are not finite", lambda: not_finite(float("nan")), "nan"),
    Refused("infinite bias", lambda: not_finite(float("inf"), "bias"), "infinity"),
    Refused(
        "recurrent network",
        lambda: Forward(lambda self, x: self.rnn(x)[0], rnn=nn.LSTM(3, 3, batch_first=True)),
        "expected",
        (2, 3),
    ),
    Refused("wrong input shape", lambda: nn.Linear(5, 3), "expected 5 features"),
    Refused("two outputs", lambda: Forward(lambda self, x: (x, x)), "one tensor"),
    Refused("output that ignores the input", lambda: Forward(lambda self, x: torch.ones(2, 3)), "one tensor"),
    Refused("layer still in train mode", lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout()).train(), "train mode"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_has_no_bound_is_refused_by_name(case: Refused) -> None:
    network = case.build()
    network = network if "train mode" in case.says else network.eval()
    with pytest.raises(InputError, match=case.says) as refusal:
        lipschitz_upper_bound(network, case.shape)
    assert "\n" not in str(refusal.value)
