"""Bounds of rounding errors against the errors of real executions, in several orders of summation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reference_sums import OneByOne
from test_zoo_bounded import BOUNDED
from torch import Tensor, nn
from zoo import Forward

from lipcert.certificates import float_error, float_walk, logit_errors, norms_upper_bound
from lipcert.certificates.execution import check_execution, float64_copy
from lipcert.certificates.float_error import LogitErrors
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.layers.blocked import BlockedConv2d, BlockedLinear
from lipcert.networks import hkr_convnet

GRID = (1, 8, 8)
BN = nn.BatchNorm2d(4)
BN.running_mean.data = torch.tensor([3.0, -2.0, 0.1, 0.0])
BN.running_var.data = torch.tensor([0.2, 4.0, 1e-3, 1.0])

NETWORKS = {
    "linear-chain": lambda: nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64) for _ in range(5)), nn.Linear(64, 5)),
    "relu-chain": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 5, bias=False)),
    "hkr": lambda: export(hkr_convnet(GRID, 5, channels=(4, 8), hidden=16)),
    "conv-paddings": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5),
    ),
    "pools": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2, stride=1),
        nn.LPPool2d(2, 2, stride=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ),
    "batch-norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), BN, nn.PReLU(4), nn.Flatten(), nn.Linear(144, 5)),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(450, 5)
    ),
    "residual": lambda: Forward(
        lambda self, x: self.head((x + self.conv(x).abs() * 0.3 - x.mean((2, 3), keepdim=True)).flatten(1)),
        conv=nn.Conv2d(1, 1, 3, padding=1),
        head=nn.Linear(64, 5),
    ),
    "normalised": lambda: Forward(
        lambda self, x: self.head(((x - 0.1307) / 0.3081).flatten(1).sort(dim=1)[0]) - 100.0, head=nn.Linear(64, 5)
    ),
    "norms": lambda: Forward(
        lambda self, x: torch.cat([self.f(x.flatten(1)), x.flatten(1).norm(dim=1, keepdim=True) + 3], 1),
        f=nn.Linear(64, 4),
    ),
    "in-blocks": lambda: nn.Sequential(
        nn.Conv2d(1, 43, 3, padding=1),
        nn.ReLU(),
        BlockedConv2d(43, 33, 3, stride=2, padding=1),
        nn.Flatten(),
        BlockedLinear(528, 300),
        nn.ReLU(),
        BlockedLinear(300, 5, bias=False),
    ),
    "no-linear-head": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU()),
}


def prepared(name: str, *, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        parameter.data *= scale
    return network.requires_grad_(False).eval()


def inputs_of_all_sizes() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    bright = torch.rand(40, *GRID, generator=generator)
    sparse = bright * (torch.rand(40, *GRID, generator=generator) < 0.1)
    return torch.cat([bright, bright * 1e-4, bright.round(), sparse, torch.zeros(1, *GRID), torch.ones(1, *GRID)])


def measured(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Differences between computed and float64 logits: by torch in a batch and alone, and with sums in two orders."""
    with torch.no_grad():
        exact = float64_copy(network)(inputs.double())
        runs = [network(inputs), torch.cat([network(one[None]) for one in inputs])]
        for seed in (None, 0):
            with OneByOne(seed):
                runs.append(network(inputs))
    return [(run.double() - exact) for run in runs]


def bound_at(errors: LogitErrors, inputs: Tensor) -> Tensor:
    return errors.constant + errors.coefficient * norms_upper_bound(inputs)[:, None, None]


def covers(errors: LogitErrors, network: nn.Module, inputs: Tensor) -> bool:
    bounds = bound_at(errors, inputs)
    return all(
        bool(((error[:, :, None] - error[:, None]).abs() <= bounds * (1 + 1e-7)).all())
        for error in measured(network, inputs)
    )


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-3])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_execution_is_further_off_than_the_bound(name, scale):
    network, inputs = prepared(name, scale=scale), inputs_of_all_sizes()
    assert covers(logit_errors(network, GRID), network, inputs)


@pytest.mark.parametrize("name", ["relu-chain", "hkr", "pools"])
def test_inputs_that_are_searched_for_are_within_the_bound(name):
    """Random search for the largest rounding error: the best neighbours of the best so far, over and over."""
    network = prepared(name)
    errors, exact = logit_errors(network, GRID), float64_copy(network)
    generator = torch.Generator().manual_seed(2)
    best = torch.rand(8, *GRID, generator=generator)
    for step in range(20):
        noise = torch.rand(8, 16, *GRID, generator=generator) * 0.5**step
        tried = (best[:, None] + noise - noise.flip(1)).clamp(0, 1)
        flat = tried.flatten(0, 1)
        with torch.no_grad():
            size = (network(flat).double() - exact(flat.double())).abs().amax(1).view(8, 16)
        best = tried[torch.arange(8), size.argmax(1)]
    assert covers(errors, network, best)


NO_KNOWN_ERROR = "an operation whose rounding error has a known bound"
REFUSED = {  # bounded in real arithmetic; how far float32 may be off is not known
    "forward replaced on the instance": "runs in float64",
    "spectral norm of a kernel is not the operator's": "some that forward computes",
    "layer normalisation": NO_KNOWN_ERROR,
    "a constant with a huge scale": "no conversion from",
    "softmax": NO_KNOWN_ERROR,
    "bilinear upsampling": NO_KNOWN_ERROR,
    "nearest upsampling": NO_KNOWN_ERROR,
}


@pytest.mark.parametrize("case", BOUNDED, ids=lambda case: case.name)
def test_awkward_graphs_are_covered_or_refused(case):
    torch.manual_seed(0)
    network = case.build().eval()
    if case.name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[case.name]):
            check_execution(network, torch.rand(12, *case.shape).to(logit_errors(network, case.shape).dtype))
        return
    errors = logit_errors(network, case.shape)
    inputs = torch.rand(12, *case.shape, generator=torch.Generator().manual_seed(3)).to(errors.dtype)
    check_execution(network, inputs)
    with torch.no_grad():
        error = (network(inputs).double() - float64_copy(network)(inputs.double())).flatten(1)
    if len(error[0]) != len(errors.constant):  # no classifier: the table has root 2 times the error of the whole
        assert (error.norm(dim=1) <= bound_at(errors, inputs)[:, 0, 0] / math.sqrt(2) * (1 + 1e-6)).all()
        return
    bounds = bound_at(errors, inputs)
    assert ((error[:, :, None] - error[:, None]).abs() <= bounds * (1 + 1e-6)).all()


def one_product() -> tuple[nn.Module, Tensor]:
    """1 + 2^-12 squared is half-way between two float32 numbers: nearly the largest relative error of one product."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False)).eval().requires_grad_(False)
    network[0].weight.data = torch.tensor([[1 + 2.0**-12], [0.0]])
    return network, torch.tensor([[(1 + 2.0**-12) / 2]])


def one_bias() -> tuple[nn.Module, Tensor]:
    """A small product added to a bias of 1 is lost: the error is relative to the bias alone."""
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU()).eval().requires_grad_(False)
    network[0].weight.data, network[0].bias.data = torch.tensor([[2.0**-24], [0.0]]), torch.tensor([1.0, 0.0])
    return network, torch.tensor([[1.0]])


def test_the_bound_is_nearly_reached():
    network, inputs = one_product()
    error = measured(network, inputs)[0]
    bound = bound_at(logit_errors(network, (1,)), inputs)[0, 0, 1]
    assert 0.999 * bound < (error[0, 0] - error[0, 1]).abs() <= bound


def half_gamma(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (float_walk, float_error):
        monkeypatch.setattr(module, "gamma", lambda count, unit=2.0**-53: count * unit / 2)


def no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_walk.Rounding, "at_zero", lambda self: 0.0)


@pytest.mark.parametrize(("mutate", "case"), [(half_gamma, one_product), (no_bias, one_bias)])
def test_planted_mistakes_in_the_bound_are_caught(monkeypatch, mutate, case):
    network, inputs = case()
    assert covers(logit_errors(network, (1,)), network, inputs)
    mutate(monkeypatch)
    assert not covers(logit_errors(network, (1,)), network, inputs)


def test_underflow_is_counted():
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU()).eval().requires_grad_(False)
    network[0].weight.data = torch.tensor([[1e-38], [0.0]])
    inputs = torch.tensor([[1e-8]])  # the product is below the smallest float32
    assert network(inputs).abs().max() == 0
    assert covers(logit_errors(network, (1,)), network, inputs)
    assert measured(network, inputs)[0].abs().max() > 0


def test_errors_of_float64_are_smaller_by_the_ratio_of_the_unit_roundoffs():
    network = prepared("hkr")
    single, double = logit_errors(network, GRID), logit_errors(float64_copy(network), GRID)
    assert (double.constant <= single.constant * 2.0**-29).all()
    assert (double.coefficient <= single.coefficient * 2.0**-29).all()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh()), "rounding error has a known bound.*tanh of layer '1'"),
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "rounding error has a known bound.*softmax"),
        (nn.Linear(4, 3).half(), "float32 or float64, got float16"),
        (nn.Linear(4, 3).bfloat16(), "float32 or float64, got bfloat16"),
        (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).double()), "one floating-point type.*float32, float64"),
        (Forward(lambda self, x: x.clamp(0, 0.1)), "constants that the arithmetic holds exactly"),
        (Forward(lambda self, x: x.clamp(0, 2**24 + 1)), "constants that the arithmetic holds exactly"),
        (Forward(lambda self, x: x * 1e-60), "constants within the range"),
        (Forward(lambda self, x: torch.add(x, x, alpha=1e-60)), "constants within the range"),
        (Forward(lambda self, x: x * x), "at most one factor"),
        (Forward(lambda self, x: x @ x.mT), "expected"),
        (Forward(lambda self, x: F.linear(x, x)), "expected"),
        (Forward(lambda self, x: x.double()), "no conversion from torch.float32 to torch.float64"),
        (
            nn.Sequential(nn.Linear(4, 3), Forward(lambda self, x: x.float())).double(),
            "no conversion from torch.float64",
        ),
        (
            Forward(lambda self, x: x + torch.ones(4, dtype=torch.float64)),
            "tensors of one floating-point type.*in add of",
        ),
    ],
    ids=[
        "tanh",
        "softmax",
        "half",
        "bfloat16",
        "mixed",
        "clamp",
        "clamp-whole",
        "tiny-factor",
        "tiny-alpha",
        "square",
        "gram",
        "input-as-weight",
        "to-float64",
        "to-float32",
        "finer-constant",
    ],
)
def test_what_has_no_known_accuracy_is_refused_by_name(network, message):
    with pytest.raises(InputError, match=message):
        logit_errors(network.eval(), (4,))


def test_numbers_that_may_overflow_are_refused():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    for parameter in network.parameters():
        parameter.data = torch.full_like(parameter, 1e30)
    with pytest.raises(InputError, match=r"overflow.*layer '1'"):
        logit_errors(network, (4,))


def test_squares_that_may_overflow_are_refused():
    network = Forward(lambda self, x: F.lp_pool2d(x * 1e25, 2.0, 2).flatten(1)).eval()
    with pytest.raises(InputError, match="overflow"):
        logit_errors(network, GRID)
