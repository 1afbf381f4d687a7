"""Bounds of whole networks: random graphs against their Jacobians, exact operations, rows, heads, planted errors."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from deel import torchlip
from reference import steepest_slope
from torch import Tensor, nn

from lipcert.certificates import conv, norms, rules_conv, rules_pointwise, signal
from lipcert.certificates.activations import ELEMENTWISE, Elementwise
from lipcert.certificates.graph import body_and_head, lipschitz_upper_bound
from lipcert.errors import InputError


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class RandomGraph(nn.Module):
    """Layers, branches and joins drawn at random; images stay images."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        draw = random.Random(seed)
        self.steps = [draw.choice(["layer", "layer", "residual", "concat", "split", "difference"]) for _ in range(4)]
        layers, channels = [], 2
        for step in self.steps:
            wider = {"concat": 3, "split": 2}.get(step, channels)
            layers.append(self._layer(draw, channels, wider if step == "concat" else channels))
            channels = channels + wider if step == "concat" else channels
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(channels, 3)

    @staticmethod
    def _layer(draw: random.Random, inputs: int, outputs: int) -> nn.Module:
        weighted = draw.choice(
            [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.Conv2d(inputs, outputs, 3, padding="same", padding_mode="circular"),
                nn.Conv2d(inputs, outputs, 1),
                nn.ConvTranspose2d(inputs, outputs, 3, padding=1),
            ]
        )
        activation = draw.choice([nn.ReLU(), nn.GELU(), nn.Tanh(), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)])
        return nn.Sequential(weighted, activation)

    def forward(self, x: Tensor) -> Tensor:
        for step, layer in zip(self.steps, self.layers, strict=True):
            if step == "residual":
                x = 0.5 * x + layer(x) * 2
            elif step == "concat":
                x = torch.cat([x, layer(x)], dim=1)
            elif step == "split":
                first, rest = layer(x).split([1, x.shape[1] - 1], dim=1)
                x = torch.cat([first.abs(), rest * 3], dim=1)
            elif step == "difference":
                x = layer(x) - x.flip(-1)
            else:
                x = layer(x)
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("seed", range(20))
def test_bound_of_a_random_graph_is_above_its_slopes(seed: int) -> None:
    network = RandomGraph(seed).eval()
    bound = lipschitz_upper_bound(network, (2, 4, 4))
    assert steepest_slope(network, (2, 4, 4)) <= bound.value < math.inf


CONTRACTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "amax": lambda x: x.amax(dim=(1, 2)),
    "max of a dimension": lambda x: x.max(dim=1)[0] - 1,
    "min of a dimension": lambda x: torch.min(x, dim=2).values,
    "log-sum-exp": lambda x: torch.logsumexp(x, dim=1),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=(1, 2)),
    "sort": lambda x: x.sort(dim=1, descending=True)[0],
    "log-softmax": lambda x: x.flatten(1).log_softmax(1),
    "larger of two": lambda x: torch.maximum(x[:, 0], 3 * x[:, 1]),
    "larger of two, in another spelling": lambda x: torch.max(x[:, :1], 3 * x[:, 1:]) - x[:, :1].min(x[:, 1:]),
    "larger than a constant": lambda x: torch.minimum(x, torch.tensor(0.1)).clamp(-1, 1),
    "group norm": lambda x: F.group_norm(x, 2, eps=0.1),
    "instance norm": lambda x: F.instance_norm(x, eps=0.1),
    "global max pool": lambda x: F.adaptive_max_pool2d(x, 1),
}


@pytest.mark.parametrize("function", CONTRACTIONS.values(), ids=CONTRACTIONS)
def test_other_operations_are_bounded_above_their_slopes(function: Callable[[Tensor], Tensor]) -> None:
    network = Function(function).eval()
    assert steepest_slope(network, (2, 4, 4)) * (1 - 1e-12) <= lipschitz_upper_bound(network, (2, 4, 4)).value


PARAMETERS = {
    "hardtanh": (-0.5, 2.0),
    "clamp": (-1.0, 1.0),
    "clip": (-1.0, 1.0),
    "clamp_min": (0.2,),
    "clamp_max": (0.2,),
}
SHARP = set(ELEMENTWISE) - {"selu"}


@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) - {"threshold"}))
def test_slope_of_the_table_is_the_largest_slope(name: str) -> None:
    function = getattr(F, name, None) or getattr(torch, name)
    arguments = PARAMETERS.get(name, ())
    bound = lipschitz_upper_bound(Function(lambda x: function(x, *arguments)).eval(), (1,)).value
    points = torch.linspace(-12, 12, 240_001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(function(points, *arguments).sum(), points)
    assert float(slopes.abs().max()) * (1 - 1e-9) <= bound <= float(slopes.abs().max()) * 1.001


@pytest.mark.parametrize(
    ("layer", "slope"),
    [
        (nn.ELU(alpha=3.0), 3.0),
        (nn.LeakyReLU(-2.0), 2.0),
        (nn.GELU("tanh"), 1.12900),
        (nn.Threshold(0.5, 0.5), 1.0),
        (nn.CELU(0.1), 1.0),
        (nn.Hardtanh(-3, 3), 1.0),
    ],
    ids=str,
)
def test_slope_follows_the_parameters(layer: nn.Module, slope: float) -> None:
    assert lipschitz_upper_bound(layer.eval(), (3,)).value == slope


@pytest.mark.parametrize(
    "layer", [nn.CELU(-1.0), nn.Softplus(beta=1.0, threshold=1.0), nn.Softplus(beta=-1.0)], ids=str
)
def test_parameters_without_a_known_slope_are_refused(layer: nn.Module) -> None:
    with pytest.raises(InputError, match="expected"):
        lipschitz_upper_bound(layer.eval(), (3,))


def test_rows_name_the_layers_in_order() -> None:
    body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), torchlip.GroupSort2())
    network = nn.Sequential(body, nn.Flatten(), nn.Linear(50, 3)).eval()
    rows = lipschitz_upper_bound(network, (1, 5, 5)).layers
    assert [(row.name, row.kind) for row in rows] == [
        ("0.0", "Conv2d"),
        ("0.1", "GroupSort2"),
        ("1", "Flatten"),
        ("2", "Linear"),
    ]
    assert all(row.method for row in rows)


def test_rows_of_a_chain_multiply_to_the_bound() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    bound = lipschitz_upper_bound(network, (1, 6, 6))
    assert bound.value == pytest.approx(math.prod(row.upper_bound for row in bound.layers), rel=1e-12)


def test_head_is_the_last_linear_layer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Flatten(), nn.Identity()).eval()
    body, weight = body_and_head(network, (6,))
    assert torch.equal(weight, network[2].weight.detach().double())
    assert body.value == pytest.approx(
        float(torch.linalg.matrix_norm(network[0].weight.detach().double(), 2)), rel=1e-6
    )
    pairs = torch.autograd.functional.jacobian(network.double(), torch.randn(1, 6).double()).reshape(3, 6)
    assert float((pairs[0] - pairs[1]).norm()) <= body.value * float((weight[0] - weight[1]).norm())


@pytest.mark.parametrize(
    "tail",
    [
        nn.ReLU(),
        Function(lambda x: 2 * x),
        Function(lambda x: x[:, :2]),
        Function(lambda x: x.flip(1)),
        Function(lambda x: -x),
        Function(lambda x: 1 - x),
        Function(lambda x: x * torch.tensor([1.0, -1.0, 1.0])),
        Function(lambda x: torch.minimum(x, torch.ones(3))),
        nn.BatchNorm1d(3),
    ],
    ids=["activation", "scaling", "part", "reversal", "negation", "difference", "signs", "limit", "batch norm"],
)
def test_what_follows_the_last_linear_layer_makes_it_no_head(tail: nn.Module) -> None:
    assert body_and_head(nn.Sequential(nn.Linear(6, 3), tail).eval(), (6,))[1] is None


def test_weights_are_read_anew_each_time() -> None:
    network = nn.Sequential(nn.Linear(3, 3)).eval()
    before = lipschitz_upper_bound(network, (3,)).value
    with torch.no_grad():
        network[0].weight.mul_(2)
    assert lipschitz_upper_bound(network, (3,)).value == 2 * before


def test_nothing_of_the_network_is_changed() -> None:
    network = nn.Sequential(torchlip.HouseHolder(2), nn.Dropout(), nn.Flatten(), torchlip.SpectralLinear(8, 2)).eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lipschitz_upper_bound(network, (2, 2, 2))
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert "forward" not in network[0].__dict__
    assert not nn.modules.module._global_forward_hooks
    with pytest.raises(InputError):
        lipschitz_upper_bound(nn.Sequential(network, nn.Linear(3, 3)).eval(), (2, 2, 2))
    assert "forward" not in network[0].__dict__
    assert not nn.modules.module._global_forward_hooks


@pytest.mark.parametrize("shape", [(), (0,), (-1, 3)])
def test_input_shapes_that_make_no_sense_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="positive sizes"):
        lipschitz_upper_bound(nn.ReLU().eval(), shape)


def loud(x: Tensor) -> Tensor:
    return x.repeat(1, 4)


MUTANTS: dict[str, tuple[object, str, object, nn.Module, tuple[int, ...]]] = {
    "a repeated element counted once": (*(signal.Value, "gain", property(lambda self: 1.0), Function(loud), (3,)),),
    "a residual sum by its largest branch": (
        *(rules_pointwise, "sum_up", lambda *bounds: max(bounds), Function(lambda x: x + x), (3,)),
    ),
    "groups by the quietest": (
        *(
            rules_conv,
            "zero_padded_norm_upper_bound",
            lambda weight, *_, **__: float(weight.flatten(1).norm(dim=1).min()),
        ),
        *(nn.Conv2d(2, 2, 1, groups=2), (2, 9, 9)),
    ),
    "a grid of the kernel's size": (
        *(conv, "_multiple", lambda value, of: 3 * of, nn.Conv2d(1, 1, 3, padding=1), (1, 20, 20)),
    ),
    "half of the shift": (
        *(norms, "_proved_shift", lambda gram: float(torch.linalg.eigvalsh(gram).max()) / 2, nn.Linear(4, 4), (4,)),
    ),
    "half of a slope": (ELEMENTWISE, "tanh", Elementwise(0.5), nn.Tanh(), (3,)),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_planted_error_shows(monkeypatch: pytest.MonkeyPatch, mutant) -> None:
    target, name, replacement, network, shape = mutant
    torch.manual_seed(3)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    if isinstance(network, nn.Conv2d):
        monkeypatch.setattr(rules_conv, "dense_norm_upper_bound", lambda *_, **__: None)
    sound = lipschitz_upper_bound(network.eval(), shape).value
    if isinstance(target, dict):
        monkeypatch.setitem(target, name, replacement)
    else:
        monkeypatch.setattr(target, name, replacement)
    wrong = lipschitz_upper_bound(network, shape).value
    slope = steepest_slope(network, shape, size=0.1)
    assert wrong < slope <= sound * (1 + 1e-12)
