"""Convolution norms: above the dense operator's singular value, and as close as promised."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from reference import dense_norm
from torch import Tensor, nn

from lipcert.certificates.conv import grid_norm_upper_bound, zero_padded_norm_upper_bound
from lipcert.certificates.graph import lipschitz_upper_bound
from lipcert.errors import InputError

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@dataclass(frozen=True)
class Layer:
    module: nn.Module
    size: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.module} on {self.size}".replace("(", "[").replace(")", "]")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.module.in_channels, *self.size)


def random_layer(seed: int) -> Layer | None:
    """A convolution of random shape, padding mode, stride, dilation and groups; None where torch would refuse it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dims = draw.choice([1, 2, 2, 2, 3])
    size = tuple(draw.randint(3, 7 if dims < 3 else 4) for _ in range(dims))
    kernel = tuple(draw.randint(1, 4 if dims < 3 else 2) for _ in range(dims))
    groups = draw.choice([1, 1, 2])
    channels = groups * draw.randint(1, 2), groups * draw.randint(1, 3)
    stride, dilation = draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2])
    mode = draw.choice(["zeros", "circular", "reflect", "replicate"])
    padding: object = tuple(draw.randint(0, 3) for _ in range(dims))
    if stride == 1 and draw.random() < 0.3:
        padding = "same"
    try:
        with warnings.catch_warnings(action="ignore"):
            module = CONVOLUTIONS[dims](
                *channels, kernel, stride, padding, dilation=dilation, groups=groups, padding_mode=mode
            )
            module(torch.zeros(1, channels[0], *size))
    except (RuntimeError, AssertionError):
        return None
    return Layer(module.eval(), size)


LAYERS = [layer for layer in map(random_layer, range(140)) if layer is not None]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_bound_of_random_convolution_is_nearly_its_dense_norm(layer: Layer) -> None:
    bound = lipschitz_upper_bound(layer.module, layer.shape).value
    exact = dense_norm(layer.module.double(), layer.shape)
    assert exact * (1 - 1e-12) <= bound <= exact * 1.001


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.module.padding_mode == "zeros"], ids=str)
def test_frequency_bound_alone_is_never_below_the_dense_norm(layer: Layer) -> None:
    module = layer.module.double()
    width = module._reversed_padding_repeated_twice
    padding = [(width[2 * axis], width[2 * axis + 1]) for axis in reversed(range(len(layer.size)))]
    bound = zero_padded_norm_upper_bound(
        module.weight,
        layer.size,
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        groups=module.groups,
    )
    assert bound >= dense_norm(module, layer.shape) * (1 - 1e-12)


def random_transposed(seed: int) -> Layer:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dims, groups = draw.choice([1, 2, 2, 3]), draw.choice([1, 2])
    stride, dilation = draw.choice([1, 2, 3]), draw.choice([1, 2])
    kernel = draw.randint(2, 3)
    module = TRANSPOSED[dims](
        *(groups * draw.randint(1, 2), groups * draw.randint(1, 2), kernel, stride),
        padding=draw.randint(0, 1),
        output_padding=draw.randint(0, max(stride, dilation) - 1),
        groups=groups,
        dilation=dilation,
    )
    return Layer(module.eval(), tuple(draw.randint(3, 5 if dims < 3 else 3) for _ in range(dims)))


@pytest.mark.parametrize("layer", [random_transposed(seed) for seed in range(24)], ids=str)
def test_bound_of_random_transposed_convolution_is_above_its_dense_norm(layer: Layer) -> None:
    bound = lipschitz_upper_bound(layer.module, layer.shape).value
    exact = dense_norm(layer.module.double(), layer.shape)
    assert exact * (1 - 1e-12) <= bound <= exact * 1.4


def smooth(shape: tuple[int, ...]) -> Tensor:
    """Weights of one sign, for which padding matters most."""
    return torch.rand(shape)


@pytest.mark.parametrize("draw", [torch.randn, smooth], ids=["signed", "smooth"])
@pytest.mark.parametrize(("kernel", "size", "limit"), [(3, 28, 1.01), (5, 28, 1.03), (3, 8, 1.10), (5, 10, 1.20)])
def test_frequency_bound_of_zero_padding_is_tight(kernel: int, size: int, limit: float, draw) -> None:
    torch.manual_seed(1)
    weight = draw((2, 1, kernel, kernel))
    settings = {"padding": [(kernel // 2, kernel // 2)] * 2, "stride": [1, 1], "dilation": [1, 1]}
    bound = zero_padded_norm_upper_bound(weight, [size, size], **settings)
    exact = dense_norm(lambda x: F.conv2d(x, weight.double(), padding=kernel // 2), (1, size, size))
    assert exact * (1 - 1e-12) <= bound <= exact * limit


@pytest.mark.parametrize(("kernel", "size", "channels"), [(3, 8, 8), (5, 10, 6), (3, 6, 16)])
def test_small_grids_are_bounded_by_their_dense_matrix(kernel: int, size: int, channels: int) -> None:
    torch.manual_seed(1)
    module = nn.Conv2d(channels, channels, kernel, padding=kernel // 2).eval()
    bound = lipschitz_upper_bound(module, (channels, size, size))
    assert bound.layers[0].method == "singular value of the dense matrix"
    exact = dense_norm(module.double(), (channels, size, size))
    assert exact * (1 - 1e-12) <= bound.value <= exact * (1 + 1e-6)


@pytest.mark.parametrize("stride", [2, 3])
def test_frequency_bound_of_strides_is_tight(stride: int) -> None:
    torch.manual_seed(1)
    weight = torch.randn(3, 2, 3, 3)
    settings = {"padding": [(1, 1)] * 2, "stride": [stride] * 2, "dilation": [1, 1]}
    bound = zero_padded_norm_upper_bound(weight, [16, 16], **settings)
    exact = dense_norm(lambda x: F.conv2d(x, weight.double(), padding=1, stride=stride), (2, 16, 16))
    assert exact * (1 - 1e-12) <= bound <= exact * 1.05


def test_circular_bound_is_exact() -> None:
    torch.manual_seed(1)
    weight = torch.randn(3, 4, 3, 4)
    bound = grid_norm_upper_bound(weight, [9, 10], stride=[1, 1], dilation=[1, 1])
    exact = dense_norm(lambda x: F.conv2d(F.pad(x, (1, 2, 1, 1), mode="circular"), weight.double()), (4, 9, 10))
    assert exact * (1 - 1e-12) <= bound <= exact * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_bound_scales_with_the_weights(scale: float) -> None:
    settings = {"padding": [(1, 1)] * 2, "stride": [1, 1], "dilation": [1, 1]}
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    ratio = zero_padded_norm_upper_bound(weight * scale, [6, 6], **settings) / scale
    assert ratio == pytest.approx(zero_padded_norm_upper_bound(weight, [6, 6], **settings), rel=1e-9)


def test_zero_kernel_has_norm_zero() -> None:
    assert grid_norm_upper_bound(torch.zeros(2, 2, 3, 3), [6, 6], stride=[1, 1], dilation=[1, 1]) == 0.0


def test_groups_count_by_the_loudest() -> None:
    weight = torch.zeros(4, 1, 1, 1)
    weight[:, 0, 0, 0] = torch.tensor([0.1, 7.0, 0.2, 0.3])
    bound = grid_norm_upper_bound(weight, [4, 4], stride=[1, 1], dilation=[1, 1], groups=4)
    assert 7.0 <= bound <= 7.0 * (1 + 1e-6)


def test_weights_that_are_not_finite_are_refused_by_layer() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 3)).eval()
    with torch.no_grad():
        network[1].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(InputError, match=r"infinity.*layer '1'"):
        lipschitz_upper_bound(network, (1, 5, 5))
