"""The second implementation's norms and bounds against singular values of dense matrices."""

import math

import pytest
import torch
from deel import torchlip
from reference import dense_norm, operator_norm
from torch import nn

from lipcert import InputError
from lipcert.layers import HalfAbs, HouseHolder, MaxMin
from lipcert.layers.activations import PairReflections
from lipcert.layers.centering import Translation
from lipcert.verification import dense
from lipcert.verification.norm import eigenvalue_norm_bound, nonnegative_norm_upper_bound, rational_norm_bound
from lipcert.verification.recompute import dense_bounds

BOUNDS = [rational_norm_bound, eigenvalue_norm_bound]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (8, 3), (8, 8)], ids=str)
@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200], ids=str)
def test_norms_are_bounded_from_above_and_closely(bound, shape, size):
    for seed in range(5):
        matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        norm = operator_norm(matrix)
        assert norm * (1 - 1e-14) <= bound(matrix * size) / size <= norm * (1 + 1e-8)


@pytest.mark.parametrize("bound", BOUNDS)
def test_norms_that_are_known_exactly(bound):
    pythagorean = torch.tensor([[3.0, 4.0], [-4.0, 3.0]], dtype=torch.float64)
    assert 5.0 <= bound(pythagorean) <= 5.0 * (1 + 1e-8)
    assert bound(torch.zeros(3, 2, dtype=torch.float64)) == 0


@pytest.mark.parametrize("shape", [(9, 30), (30, 9), (20, 20)], ids=str)
@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200], ids=str)
def test_norms_of_matrices_without_negative_entries(shape, size):
    matrix = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for kept in (1.0, 0.1):
        sparse = matrix * (matrix < kept)
        norm = operator_norm(sparse)
        assert norm * (1 - 1e-14) <= nonnegative_norm_upper_bound(sparse * size) / size <= norm * (1 + 1e-8)


def test_norms_of_blocks_that_do_not_communicate():
    """The positive vector of the method fades out on the weaker block and on what is zero."""
    matrix = torch.zeros(60, 60, dtype=torch.float64)
    matrix[:20, :20] = 1e-3 * torch.rand(20, 20, dtype=torch.float64)
    matrix[20:50, 20:50] = torch.rand(30, 30, dtype=torch.float64)
    norm = operator_norm(matrix)
    assert norm * (1 - 1e-14) <= nonnegative_norm_upper_bound(matrix) <= norm * (1 + 1e-8)
    assert nonnegative_norm_upper_bound(torch.zeros(60, 60)) == 0


def test_the_norm_is_bounded_after_any_number_of_iterations(monkeypatch):
    """A path's norm is that of its adjacency matrix; the power method needs long for it."""
    path = torch.eye(80, dtype=torch.float64) + torch.eye(80, dtype=torch.float64).roll(1, 0).tril()
    norm = operator_norm(path)
    bounds = []
    for count in (1, 3, 30, 1000):
        monkeypatch.setattr("lipcert.verification.norm._ITERATIONS", count)
        bounds.append(nonnegative_norm_upper_bound(path))
    assert bounds == sorted(bounds, reverse=True)
    assert norm * (1 - 1e-14) <= bounds[-1] <= norm * 1.001


def layers():
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor([0.04, 3.0]))
        norm.running_mean.fill_(2.0)
        norm.weight.copy_(torch.tensor([-2.0, 0.5]))
    return {
        "zero padding": nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)),
        "circular padding": nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")),
        "reflect padding": nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")),
        "stride and groups": nn.Sequential(nn.Conv2d(2, 4, 2, stride=2, groups=2)),
        "transposed": nn.Sequential(nn.ConvTranspose2d(2, 3, 2, stride=2)),
        "mean pool": nn.Sequential(nn.AvgPool2d(3, stride=1)),
        "batch norm": nn.Sequential(norm),
        "translation": nn.Sequential(Translation(torch.tensor([3.0, -4.0])), nn.Conv2d(2, 3, 3)),
        "together": nn.Sequential(nn.Conv2d(2, 3, 3), nn.Dropout(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)),
    }


@pytest.mark.parametrize("name", layers())
def test_linear_layers_have_the_norm_of_their_dense_matrix(name):
    torch.manual_seed(0)
    network = nn.Sequential(layers()[name], nn.Flatten()).eval()
    probe = torch.rand(2, 2, 6, 6)
    bounds = dense_bounds(network, probe)
    assert bounds.disagreement < 1e-12
    norm = dense_norm(network.double(), (2, 6, 6))
    assert norm <= bounds.whole <= norm * (1 + 1e-8)


@pytest.mark.parametrize(
    ("layer", "constant"),
    [
        (torchlip.GroupSort2(k_coef_lip=3.0), 3.0),
        (torchlip.MaxMin(), 1.0),
        (torchlip.FullSort(), 1.0),
        (nn.LeakyReLU(-2.0), 2.0),
        (nn.Sigmoid(), 0.25),
        (nn.PReLU(init=1.5), 1.5),
        (MaxMin(), 1.0),
        (HalfAbs(0.3), 1.0),
        (PairReflections(torch.tensor([[3.0, -4.0], [4.0, 3.0]] * 3)[:, :, None]), 25.0),
    ],
    ids=lambda case: type(case).__name__,
)
def test_nonlinear_layers_have_their_constants(layer, constant):
    bounds = dense_bounds(nn.Sequential(layer).eval(), torch.rand(2, 6))
    assert bounds.whole == pytest.approx(constant, rel=1e-12)
    assert float(bounds.pairs[0, 1]) == pytest.approx(constant * math.sqrt(2), rel=1e-12)


def test_differences_of_logits_have_the_norms_of_their_rows():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5), nn.Linear(5, 3)).eval()
    pairs = dense_bounds(network, torch.rand(2, 6)).pairs
    first, *last = (network[place].weight.detach().double() for place in (0, 2, 3))
    head = last[1] @ last[0]
    expected = operator_norm(first) * torch.linalg.vector_norm(head[:, None] - head, dim=2)
    off = ~torch.eye(3, dtype=torch.bool)
    assert bool((pairs >= expected)[off].all())
    torch.testing.assert_close(pairs[off], expected[off], rtol=1e-8, atol=0)


def test_reflections_that_are_none_are_bounded_by_their_turns():
    """Turned by a shear and back: the constant is at least the norm of the reflection that is done."""
    torch.manual_seed(0)
    turns = torch.randn(6, 2, 1)
    bound = dense_bounds(nn.Sequential(PairReflections(turns)).eval(), torch.rand(2, 6)).whole
    largest = max(operator_norm(pair) ** 2 for pair in turns.double().view(3, 2, 2))
    assert largest <= bound <= 2 * largest
    exported = nn.Sequential(HouseHolder(6).vanilla_export()).eval()
    assert 1 - 1e-6 <= dense_bounds(exported, torch.rand(2, 6)).whole <= 1 + 1e-6


class Doubling(nn.Linear):
    """Says that it is linear, and is not the layer that it derives from."""

    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    network = nn.Sequential(nn.Linear(6, 3))
    network[0].register_forward_hook(lambda module, args, output: 3 * output)
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(Doubling(6, 3)), "got Doubling at '0'"),
        (nn.Sequential(nn.Sequential(nn.GELU())), "got GELU at '0.0'"),
        (hooked(), "layer '0' has a hook"),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.MaxPool2d(2, stride=1)), "do not overlap"),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.LPPool2d(1, 2)), "norm 2"),
        (nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False)), "running statistics"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_what_is_not_known_is_refused_by_name(network, message):
    with pytest.raises(InputError, match=message):
        dense_bounds(network.eval(), torch.rand(2, 6))


@pytest.mark.parametrize("limit", ["LARGEST_MATRIX", "LARGEST_ORDER"])
def test_a_matrix_that_is_too_large_is_refused_before_it_is_built(monkeypatch, limit):
    monkeypatch.setattr(dense, limit, 2)
    with pytest.raises(InputError, match="got 3 x 6 for layer 1-2"):
        dense_bounds(nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)).eval(), torch.rand(2, 6))


def test_train_mode_is_refused():
    with pytest.raises(InputError, match="eval mode"):
        dense_bounds(nn.Sequential(nn.Linear(6, 3)), torch.rand(2, 6))
