"""Orthogonal layers: what is exported has norm 1, by the proof and by the singular values."""

import pytest
import torch
from reference import dense_matrix
from torch import nn

from lipcert.certificates import lipschitz_upper_bound
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.layers import NormalizedLinear, OrthogonalConv2d, OrthogonalLinear, project_
from lipcert.layers.constraints import ENGINES

ORTHOGONAL = ["projection", "bjorck", "polar_express", "cholesky", "cayley", "bro"]
SHAPES = [(6, 6), (9, 4), (3, 8), (33, 1), (64, 48)]
PATCHES = {
    "1x1": {"in_channels": 6, "out_channels": 6},
    "1x1-wide": {"in_channels": 8, "out_channels": 3},
    "1x1-grouped": {"in_channels": 6, "out_channels": 4, "groups": 2},
    "patch": {"in_channels": 3, "out_channels": 12, "kernel_size": 2},
    "patch-tall": {"in_channels": 1, "out_channels": 7, "kernel_size": 2},
    "patch-grouped": {"in_channels": 4, "out_channels": 6, "kernel_size": (1, 2), "groups": 2},
    "patch-padded": {"in_channels": 2, "out_channels": 4, "kernel_size": 2, "padding": 1},
    "holes": {"in_channels": 4, "out_channels": 3, "stride": 2},
}
OVERLAPPING = {
    "3x3": {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 1, "padding": 1},
    "3x3-unpadded": {"in_channels": 3, "out_channels": 2, "kernel_size": 3, "stride": 1},
    "3x3-expanding": {"in_channels": 1, "out_channels": 5, "kernel_size": 3, "stride": 1, "padding": 1},
    "3x3-strided": {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1},
    "3x3-strided-expanding": {"in_channels": 1, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1},
    "5x2-uneven": {"in_channels": 1, "out_channels": 9, "kernel_size": (5, 2), "stride": (2, 1), "padding": 2},
    "3x3-grouped": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 1, "groups": 2, "padding": 1},
    "3x3-grouped-expanding": {
        "in_channels": 2,
        "out_channels": 8,
        "kernel_size": 3,
        "stride": 1,
        "groups": 2,
        "padding": 1,
    },
    "patch": {"in_channels": 2, "out_channels": 3, "kernel_size": 2},
}


def trained(layer: nn.Module, steps: int = 5) -> nn.Module:
    """A layer after a few steps that drive its weight off where it started."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    parameter = next(layer.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    project_(layer)
    return layer


def singular_values(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight.detach().double()
    return torch.linalg.svdvals(weight.reshape(getattr(layer, "groups", 1), -1, weight[0].numel()))


def norm_of_convolution(plain: nn.Conv2d, size: int = 7) -> float:
    double = plain.double()
    matrix = dense_matrix(double, (plain.in_channels, size, size))
    plain.float()
    return float(torch.linalg.svdvals(matrix)[0])


@pytest.mark.parametrize("constraint", ORTHOGONAL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_layers_stay_orthogonal(constraint, shape):
    torch.manual_seed(0)
    layer = OrthogonalLinear(*shape, constraint=constraint)
    for network in (layer, trained(layer)):
        plain = export(network)
        assert type(plain) is nn.Linear
        values = singular_values(plain)
        assert values.min() >= 1 - 1e-5
        assert values.max() <= 1 + 1e-6
        # the proof is within 1e-6 of the largest singular value
        assert lipschitz_upper_bound(plain, (shape[0],)).value <= 1 + 2e-6


@pytest.mark.parametrize("constraint", ORTHOGONAL)
@pytest.mark.parametrize("settings", PATCHES.values(), ids=PATCHES)
def test_convolutions_on_patches_stay_orthogonal(constraint, settings):
    torch.manual_seed(0)
    layer = OrthogonalConv2d(**settings, constraint=constraint)
    plain = export(trained(layer))
    assert type(plain) is nn.Conv2d
    values = singular_values(plain)
    assert values.min() >= 1 - 1e-5
    assert values.max() <= 1 + 1e-6
    assert lipschitz_upper_bound(plain, (settings["in_channels"], 6, 6)).value <= 1 + 2e-6
    assert norm_of_convolution(plain, 6) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("constraint", ["aol", "rko"])
@pytest.mark.parametrize("settings", OVERLAPPING.values(), ids=OVERLAPPING)
def test_overlapping_convolutions_are_contractions(constraint, settings):
    torch.manual_seed(0)
    layer = OrthogonalConv2d(**settings, constraint=constraint)
    plain = export(trained(layer))
    assert norm_of_convolution(plain) <= 1 + 1e-6
    assert lipschitz_upper_bound(plain, (settings["in_channels"], 7, 7)).value <= 1.2


COMPOSED = {name: settings for name, settings in OVERLAPPING.items() if "groups" not in settings}


@pytest.mark.parametrize("settings", COMPOSED.values(), ids=COMPOSED)
def test_composed_kernels_are_orthogonal(settings):
    """On an image that wraps around, where nothing leaves it, every singular value is 1."""
    torch.manual_seed(0)
    settings = settings | {"padding": 0, "bias": False}
    layer = OrthogonalConv2d(**settings, constraint="aoc")
    with torch.no_grad():
        for raw in layer.parameters():
            raw.add_(0.02 * torch.randn_like(raw))
    project_(layer)
    plain = export(layer).double()
    below, right = (size - 1 for size in plain.kernel_size)
    wrapped = dense_matrix(
        lambda inputs: plain(nn.functional.pad(inputs, (0, right, 0, below), mode="circular")),
        (plain.in_channels, 8, 8),
    )
    values = torch.linalg.svdvals(wrapped)
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=2e-6)


@pytest.mark.parametrize("settings", COMPOSED.values(), ids=COMPOSED)
def test_composed_kernels_have_norm_one_on_an_image(settings):
    torch.manual_seed(0)
    plain = export(OrthogonalConv2d(**settings, constraint="aoc"))
    assert 0.9 < norm_of_convolution(plain) <= 1 + 1e-6
    assert lipschitz_upper_bound(plain, (settings["in_channels"], 7, 7)).value <= 1 + 2e-6


def test_composing_a_kernel_is_convolving_with_its_blocks():
    """One block after another, each a convolution with two taps, and the matrix at the end."""
    torch.manual_seed(0)
    layer = OrthogonalConv2d(4, 6, (3, 4), stride=(2, 2), constraint="aoc").double()
    matrix, *projectors = (raw.detach() for raw in layer.parametrizations.weight.parameters())
    inputs = found = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    axes = layer.parametrizations.weight[0].axes
    assert axes == [2, 3, 3]
    # the block that is composed last is the first that an image meets
    for axis, rows in reversed(list(zip(axes, projectors, strict=True))):
        kept = rows.T @ rows
        taps = torch.stack([kept, torch.eye(4, dtype=torch.float64) - kept], dim=-1)
        found = nn.functional.conv2d(found, taps.unsqueeze(5 - axis))
    expected = nn.functional.conv2d(found, matrix, layer.bias, stride=2)
    torch.testing.assert_close(layer(inputs), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rescaled_matrices_are_contractions(shape):
    torch.manual_seed(0)
    plain = export(trained(OrthogonalLinear(*shape, constraint="aol")))
    assert 0.3 < singular_values(plain).max() <= 1 + 1e-6
    assert lipschitz_upper_bound(plain, (shape[0],)).value <= 1 + 2e-6


def test_rescaling_bounds_kernels_that_attain_the_bound():
    """Equal weights of one sign add up at frequency zero: the bound is attained on a large image."""
    layer = OrthogonalConv2d(2, 2, 3, stride=1, constraint="aol", bias=False)
    with torch.no_grad():
        layer.parametrizations.weight.original.fill_(0.3)
    response = export(layer).weight.sum(dim=(2, 3))
    assert torch.linalg.matrix_norm(response, 2).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["zeros", "tiny", "huge"])
@pytest.mark.parametrize("constraint", ["projection", "bjorck", "polar_express", "aol"])
def test_odd_weights_end_as_contractions(kind, constraint):
    torch.manual_seed(0)
    layer = OrthogonalLinear(5, 4, constraint=constraint)
    raw = next(parameter for parameter in layer.parameters() if parameter.ndim == 2)
    with torch.no_grad():
        raw.mul_({"zeros": 0.0, "tiny": 1e-12, "huge": 1e12}[kind])
    project_(layer)
    values = singular_values(export(layer))
    assert torch.isfinite(values).all()
    assert values.max() <= 1 + 1e-6


@pytest.mark.parametrize("constraint", ["projection", *ENGINES])
def test_export_gives_the_layers_own_logits(constraint):
    torch.manual_seed(0)
    network = nn.Sequential(
        OrthogonalConv2d(2, 10, 2, constraint=constraint),
        nn.Flatten(),
        OrthogonalLinear(90, 5, constraint=constraint),
        NormalizedLinear(5, 3),
    )
    project_(network)
    inputs = torch.randn(4, 2, 6, 6)
    assert torch.equal(network.eval()(inputs), export(network)(inputs))


@pytest.mark.parametrize("constraint", ["bjorck", "polar_express", "cholesky", "bro", "aol"])
def test_an_orthogonal_weight_can_be_assigned(constraint):
    torch.manual_seed(0)
    for layer in (OrthogonalLinear(6, 4, constraint=constraint), OrthogonalConv2d(2, 4, 2, constraint=constraint)):
        weight = OrthogonalLinear(layer.weight[0].numel(), 4).weight.detach().reshape(layer.weight.shape)
        layer.weight = weight
        torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("constraint", ENGINES)
def test_gradients_by_finite_differences(constraint):
    torch.manual_seed(0)
    engine = ENGINES[constraint]()
    raw = engine.right_inverse(torch.randn(2, 4, 3, dtype=torch.float64)).clone().requires_grad_()
    assert torch.autograd.gradcheck(engine, (raw,), atol=1e-6)


def test_states_reload_into_fresh_layers():
    for constraint in ENGINES:
        first, second = (OrthogonalLinear(4, 6, constraint=constraint) for _ in range(2))
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.weight, second.weight)


def test_export_draws_no_random_numbers():
    layer = OrthogonalConv2d(2, 4, 2)
    before = torch.get_rng_state()
    export(layer)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrthogonalLinear(2, 2, constraint="rko"), "expected a constraint among projection"),
        (lambda: OrthogonalConv2d(2, 2, constraint="spectral"), "expected a constraint among projection"),
        (lambda: OrthogonalConv2d(2, 2, 3, stride=1), "windows that overlap, got projection"),
        (lambda: OrthogonalConv2d(2, 2, (1, 3), stride=(1, 2), constraint="cayley"), "windows that overlap"),
        (lambda: OrthogonalConv2d(2, 2, 3, stride=1, groups=2, constraint="aoc"), "expected one group and no stride"),
        (lambda: OrthogonalConv2d(2, 2, 2, stride=3, constraint="aoc"), "expected one group and no stride"),
    ],
)
def test_what_guarantees_nothing_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_head_rows_have_norm_one():
    torch.manual_seed(0)
    plain = export(trained(NormalizedLinear(7, 3)))
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain.weight.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
