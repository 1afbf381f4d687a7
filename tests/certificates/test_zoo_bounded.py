"""Networks whose constant is easily got wrong are bounded at or above the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from deel import torchlip
from reference import steepest_slope
from torch import nn
from zoo import (
    IMAGE,
    VECTOR,
    DoublingConv,
    Forward,
    batch_norm,
    channels_last,
    conv,
    half_absolute,
    hooked,
    hooked_before,
    huge_biases,
    huge_constant,
    in_place_arithmetic,
    in_place_slice_assignment,
    loud_group,
    max_min,
    modified_after_tracing,
    old_hook_spectral_norm,
    other_dimensions,
    other_pairs,
    parametrised_conv,
    patched,
    patched_whole_layer,
    same_part,
    scaled_max_min,
    scaled_weights,
    shape_dependent,
    shifted_negative,
    shifted_operand,
    shifted_part,
    shifted_parts,
    stale_spectral_norm,
    stale_torchlip,
    tied,
    unfolded,
    weight_norm,
)

from lipcert.certificates.graph import lipschitz_upper_bound


@dataclass(frozen=True)
class Bounded:
    """A network with a bound; `tight` is how far above the steepest slope it may be."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE
    tight: float = 1e9


BOUNDED = [
    Bounded("grouped convolution with one loud group", loud_group, tight=2.5),
    Bounded(
        "normalisation by std",
        lambda: Forward(lambda self, x: (x - 0.5) / torch.tensor([0.2, 0.05])[:, None, None]),
        tight=1.0001,
    ),
    Bounded(
        "scaled residual 2 f(x) + x", lambda: Forward(lambda self, x: 2 * self.f(x) + x, f=nn.Linear(6, 6)), VECTOR
    ),
    Bounded("shared layer used twice", tied, VECTOR),
    Bounded("overlapping max pooling", lambda: nn.MaxPool2d(3, 1, 1)),
    Bounded("dilated max pooling", lambda: nn.MaxPool2d(2, 1, dilation=2)),
    Bounded("overlapping average pooling", lambda: nn.AvgPool2d(3, 1, 1), tight=1.001),
    Bounded(
        "average pooling that skips the padding", lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), tight=1.001
    ),
    Bounded("average pooling in ceil mode", lambda: nn.AvgPool2d(4, 4, ceil_mode=True), tight=1.001),
    Bounded("average pooling with another divisor", lambda: nn.AvgPool2d(2, divisor_override=1), tight=1.001),
    Bounded("overlapping L2 pooling", lambda: nn.LPPool2d(2, 3, 1)),
    Bounded("L2 pooling in ceil mode", lambda: nn.LPPool2d(2, 4, 4, ceil_mode=True), tight=1.001),
    Bounded("adaptive average pooling with overlap", lambda: nn.AdaptiveAvgPool2d(4), tight=1.001),
    Bounded("adaptive max pooling with overlap", lambda: nn.AdaptiveMaxPool2d(4)),
    Bounded("global average pooling", lambda: nn.AdaptiveAvgPool2d(1), tight=1.001),
    Bounded("even kernel, same padding", lambda: conv(kernel_size=4, padding="same")),
    Bounded("even kernel, circular padding", lambda: conv(kernel_size=2, padding=1, padding_mode="circular")),
    Bounded(
        "even kernel, circular same padding",
        lambda: conv(kernel_size=4, padding="same", padding_mode="circular"),
        tight=1.001,
    ),
    Bounded("wide circular padding", lambda: conv(padding=5, padding_mode="circular")),
    Bounded("strided circular convolution", lambda: conv(stride=3, padding=1, padding_mode="circular"), tight=1.001),
    Bounded("stride that does not divide", lambda: conv(stride=4, padding=1, padding_mode="circular")),
    Bounded("reflected padding", lambda: conv(padding=2, padding_mode="reflect")),
    Bounded("replicated padding", lambda: conv(padding=3, padding_mode="replicate")),
    Bounded(
        "symmetric padding of torchlip", lambda: torchlip.SpectralConv2d(2, 4, 5, padding=2, padding_mode="symmetric")
    ),
    Bounded("padding wider than the kernel", lambda: conv(padding=4)),
    Bounded("strided dilated convolution", lambda: conv(stride=2, dilation=2, padding=2)),
    Bounded("transposed convolution", lambda: nn.ConvTranspose2d(2, 3, 3, 2, padding=1, output_padding=1)),
    Bounded("grouped transposed convolution", lambda: nn.ConvTranspose2d(2, 4, 3, 2, groups=2, dilation=2)),
    Bounded("subclass with another forward", lambda: DoublingConv(2, 4, 3)),
    Bounded("hook that scales the output", hooked, tight=1.001),
    Bounded("hook that scales the input", hooked_before, tight=1.001),
    Bounded("forward replaced on the instance", patched, tight=1.001),
    Bounded("forward of a known layer replaced", patched_whole_layer, tight=1.001),
    Bounded("torchlip layer, stale after a step", stale_torchlip, tight=1.001),
    Bounded("power iteration that has not converged", stale_spectral_norm, tight=1.001),
    Bounded("spectral norm of a kernel is not the operator's", old_hook_spectral_norm),
    Bounded("weight normalisation", weight_norm, tight=1.001),
    Bounded("parametrised convolution", parametrised_conv),
    Bounded("weights of 1e-30", lambda: scaled_weights(1e-30)),
    Bounded("weights of 1e30", lambda: scaled_weights(1e30)),
    Bounded("weights of zero", lambda: scaled_weights(0.0)),
    Bounded("huge biases", huge_biases, VECTOR),
    Bounded("weights changed after tracing", modified_after_tracing),
    Bounded("batch normalisation", batch_norm, tight=1.001),
    Bounded("batch normalisation of a tiny variance", lambda: batch_norm(small_variance=True), tight=1.001),
    Bounded("layer normalisation", lambda: nn.LayerNorm(6), VECTOR),
    Bounded("centring", lambda: Forward(lambda self, x: x - x.mean(dim=(1, 2), keepdim=True)), tight=1.001),
    Bounded(
        "centring over other dimensions is not one",
        lambda: Forward(lambda self, x: x - x.mean(dim=1, keepdim=True).transpose(2, 3)),
    ),
    Bounded(
        "almost centring: ReLU of the mean", lambda: Forward(lambda self, x: x - x.mean(1, keepdim=True).relu()), VECTOR
    ),
    Bounded(
        "the mean added, not subtracted",
        lambda: Forward(lambda self, x: x - (-x.mean(1, keepdim=True))),
        VECTOR,
        tight=1.01,
    ),
    Bounded("mean of another tensor", lambda: Forward(lambda self, x: x - (3 * x).mean(1, keepdim=True)), VECTOR),
    Bounded("almost MaxMin: maxima of other pairs", lambda: Forward(other_pairs), VECTOR),
    Bounded("almost MaxMin: other dimensions", lambda: Forward(other_dimensions), (2, 2)),
    Bounded("a constant with a huge scale", lambda: Forward(huge_constant), VECTOR, tight=1.001),
    Bounded("almost CReLU: shifted parts", lambda: Forward(shifted_parts), VECTOR),
    Bounded("almost CReLU: one shift", lambda: Forward(shifted_part), VECTOR),
    Bounded("almost CReLU: shift of the negative", lambda: Forward(shifted_negative), VECTOR),
    Bounded("almost MaxMin: shifted operand", lambda: Forward(shifted_operand), VECTOR),
    Bounded("almost CReLU: twice the same part", lambda: Forward(same_part), VECTOR, tight=1.001),
    Bounded("almost MaxMin: maxima scaled", lambda: Forward(scaled_max_min), VECTOR),
    Bounded("centring of torchlip", lambda: torchlip.LayerCentering(2), tight=1.001),
    Bounded("batch centring of torchlip", lambda: torchlip.BatchCentering(2), tight=1.001),
    Bounded("MaxMin of torchlip", lambda: torchlip.MaxMin(), tight=1.001),
    Bounded("GroupSort with a coefficient", lambda: torchlip.GroupSort(3, k_coef_lip=4.0), VECTOR, tight=1.001),
    Bounded(
        "Householder reflections of torchlip", lambda: torchlip.HouseHolder(2, theta_initializer="normal"), tight=1.001
    ),
    Bounded("full sort", lambda: torchlip.FullSort(), VECTOR, tight=1.001),
    Bounded("PReLU steeper than one", lambda: nn.PReLU(init=-5.0), tight=1.001),
    Bounded("leaky ReLU steeper than one", lambda: nn.LeakyReLU(-3.0), tight=1.001),
    Bounded("maximum and minimum side by side", lambda: Forward(max_min), VECTOR, tight=1.001),
    Bounded("absolute value of one half", lambda: Forward(half_absolute), VECTOR, tight=1.001),
    Bounded("in-place arithmetic", lambda: Forward(in_place_arithmetic), VECTOR, tight=1.001),
    Bounded("in-place assignment to a slice", lambda: Forward(in_place_slice_assignment), VECTOR, tight=1.001),
    Bounded(
        "in-place ReLU of a flattened view",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.ReLU(inplace=True)),
    ),
    Bounded("element used many times", lambda: Forward(lambda self, x: x[:, [0, 0, 0, 0, 1]]), VECTOR, tight=1.001),
    Bounded(
        "broadcast against a constant",
        lambda: Forward(lambda self, x: x[:, :, None] * torch.arange(1.0, 5.0)),
        VECTOR,
        tight=1.001,
    ),
    Bounded(
        "concatenation of a tensor with itself",
        lambda: Forward(lambda self, x: torch.cat([x, 2 * x, torch.ones_like(x)], 1)),
        VECTOR,
        tight=1.001,
    ),
    Bounded("patches that overlap", lambda: Forward(unfolded), tight=1.001),
    Bounded(
        "pixel shuffles and a split",
        lambda: Forward(lambda self, x: torch.cat(F.pixel_unshuffle(x, 2).split([3, 5], 1), 1)),
        tight=1.001,
    ),
    Bounded("channels last", lambda: Forward(channels_last, linear=nn.Linear(2, 3)), tight=1.001),
    Bounded("control flow on shapes", lambda: Forward(shape_dependent), tight=1.001),
    Bounded(
        "convex combination of torchlip",
        lambda: Forward(lambda self, x: self.mix(x, x.relu()), mix=torchlip.LipResidual()),
        tight=1.6,
    ),
    Bounded("softmax", lambda: nn.Softmax(1), VECTOR),
    Bounded(
        "temperature", lambda: nn.Sequential(nn.Linear(6, 3), Forward(lambda self, x: x / 0.01)), VECTOR, tight=1.001
    ),
    Bounded("dropout in eval mode", lambda: nn.Sequential(nn.Dropout(0.9), nn.Dropout2d()), tight=1.001),
    Bounded("bilinear upsampling", lambda: nn.Upsample(scale_factor=2, mode="bilinear"), tight=1.001),
    Bounded("nearest upsampling", lambda: nn.Upsample(scale_factor=3), tight=1.001),
    Bounded("three-dimensional convolution", lambda: nn.Conv3d(1, 2, 2, stride=(1, 2, 1), padding=1), (1, 4, 4, 3)),
    Bounded("one-dimensional convolution", lambda: nn.Conv1d(2, 3, 4, padding=2, dilation=2), (2, 9)),
]


@pytest.mark.parametrize("case", BOUNDED, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_bound_is_never_below_the_slope(case: Bounded) -> None:
    torch.manual_seed(0)
    network = case.build().eval()
    bound = lipschitz_upper_bound(network, case.shape)
    slope = steepest_slope(network, case.shape)
    assert slope * (1 - 1e-12) <= bound.value <= slope * case.tight
    assert bound.layers
