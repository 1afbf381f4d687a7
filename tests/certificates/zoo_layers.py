"""The layers of deel-torchlip and orthogonium as they are: parametrised, in eval mode, not exported."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from deel import torchlip
from torch import nn
from zoo_cases import Case

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings have invalid escapes
    from orthogonium import reparametrizers
    from orthogonium.layers import custom_activations as activations
    from orthogonium.layers import linear, normalization, residual
    from orthogonium.layers.channel_shuffle import ChannelShuffle
    from orthogonium.layers.conv.adaptiveSOC import ortho_conv as soc
    from orthogonium.layers.conv.AOC.ortho_conv import AdaptiveOrthoConv2d, AdaptiveOrthoConvTranspose2d
    from orthogonium.layers.conv.AOL import aol
    from orthogonium.layers.conv.SLL import sll_layer

IMAGE = (4, 6, 6)
VECTOR = (6,)
COMPUTED = "some that forward computes"
NO_RULE = "rounding error has a known bound"


def trained(build: Callable[[], nn.Module], *, size: float = 0.1) -> Callable[[], nn.Module]:
    """A layer away from where it was initialised, its scalars at 0.7, its iterations as far on as after training."""

    def built() -> nn.Module:
        layer = build()
        with torch.no_grad():
            for parameter in layer.parameters():
                change = size * torch.randn(parameter.shape) if parameter.ndim else 0.7 - parameter
                parameter.add_(change)
            for module in layer.modules():
                for name in getattr(module, "parametrizations", {}):
                    for _ in range(20):
                        getattr(module, name)
        return layer

    return built


def normalised(*, centering: bool = True, normalize: bool = True) -> nn.Module:
    layer = torchlip.BatchLipNorm(4, centering=centering, normalize=normalize)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        layer.train()(0.3 * torch.randn(5, 4, 6, 6, generator=generator) + 1)
    return layer


def mixed(layer: nn.Module, branch: nn.Module) -> nn.Module:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.branch = layer, branch

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x, self.branch(x))

    return Mixed()


def network_of_torchlip() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchlip.Sequential(
            torchlip.SpectralConv2d(1, 4, 3, padding=1),
            torchlip.GroupSort2(),
            torchlip.ScaledL2NormPool2d(2),
            torchlip.SpectralConv2d(4, 8, 3, padding=1, padding_mode="circular"),
            torchlip.HouseHolder(8),
            torchlip.ScaledAdaptativeL2NormPool2d((1, 1)),
            nn.Flatten(),
            torchlip.FrobeniusLinear(8, 3),
            k_coef_lip=2.0,
        )


TORCHLIP = [
    Case("spectral linear layer", lambda: torchlip.SpectralLinear(6, 4), VECTOR),
    Case("spectral linear layer of constant 3", lambda: torchlip.SpectralLinear(6, 4, k_coef_lip=3.0), VECTOR),
    Case("Frobenius linear layer", lambda: torchlip.FrobeniusLinear(6, 4), VECTOR),
    Case("Frobenius layer, neuron by neuron",
         trained(lambda: torchlip.FrobeniusLinear(6, 4, disjoint_neurons=True)), VECTOR),
    Case("spectral convolution", lambda: torchlip.SpectralConv2d(4, 5, 3, padding=1), IMAGE),
    Case("strided circular convolution",
         lambda: torchlip.SpectralConv2d(4, 5, 3, stride=2, padding=1, padding_mode="circular"), IMAGE),
    Case("symmetrically padded convolution",
         lambda: torchlip.SpectralConv2d(4, 5, 5, padding=2, padding_mode="symmetric"), IMAGE, 1.2),
    Case("convolution in one dimension", lambda: torchlip.SpectralConv1d(4, 5, 3, padding=1), (4, 9)),
    Case("symmetric padding in one dimension",
         lambda: torchlip.SpectralConv1d(4, 5, 5, padding=2, padding_mode="symmetric"), (4, 9), 1.2),
    Case("transposed convolution", lambda: torchlip.SpectralConvTranspose2d(4, 3, 3, stride=2, padding=1), IMAGE),
    Case("Frobenius convolution", lambda: torchlip.FrobeniusConv2d(4, 5, 3, padding=1), IMAGE),
    Case("padded convolution without constraint",
         lambda: torchlip.PadConv2d(4, 5, 3, padding=2, padding_mode="symmetric"), IMAGE, 1.2),
    Case("scaled average pooling", lambda: torchlip.ScaledAvgPool2d(2), IMAGE),
    Case("scaled average pooling, not square", lambda: torchlip.ScaledAvgPool2d((2, 3)), IMAGE),
    Case("scaled global average", lambda: torchlip.ScaledAdaptiveAvgPool2d((1, 1)), IMAGE),
    Case("norm pooling", lambda: torchlip.ScaledL2NormPool2d(3), IMAGE),
    Case("global norm pooling", lambda: torchlip.ScaledAdaptativeL2NormPool2d((1, 1), k_coef_lip=2.0), IMAGE),
    Case("sort in pairs", lambda: torchlip.GroupSort2(), IMAGE),
    Case("sort in threes", lambda: torchlip.GroupSort(3), VECTOR),
    Case("sort in fours of an image", lambda: torchlip.GroupSort(4, k_coef_lip=0.5), IMAGE),
    Case("full sort", lambda: torchlip.FullSort(), IMAGE),
    Case("positive and negative part", lambda: torchlip.MaxMin(), IMAGE),
    Case("Householder", trained(lambda: torchlip.HouseHolder(4), size=0.5), IMAGE),
    Case("clamped PReLU", lambda: torchlip.LPReLU(num_parameters=4, init=7.0, k_coef_lip=2.0), IMAGE),
    Case("layer centring", lambda: torchlip.LayerCentering(4), IMAGE),
    Case("layer centring over channels", lambda: torchlip.LayerCentering(4, dim=(1,), bias=False), IMAGE),
    Case("batch centring", lambda: torchlip.BatchCentering(4), IMAGE),
    Case("batch normalisation", normalised, IMAGE, float32=COMPUTED),
    Case("batch normalisation without centring", lambda: normalised(centering=False), IMAGE, float32=COMPUTED),
    Case("batch centring after some batches", lambda: normalised(normalize=False), IMAGE, float32=COMPUTED),
    Case("scale and bias", lambda: torchlip.ScaleBiasLayer(scalar=0.3, num_features=4), IMAGE),
    Case("invertible downsampling", lambda: torchlip.InvertibleDownSampling(2), IMAGE),
    Case("invertible upsampling", lambda: torchlip.InvertibleUpSampling(2), IMAGE),
    Case("residual", trained(lambda: mixed(torchlip.LipResidual(), torchlip.GroupSort2())), IMAGE, 1.4, COMPUTED),
    Case("network of torchlip", network_of_torchlip, (1, 8, 8), 9),
]  # fmt: skip

CONV, TRANSPOSED = AdaptiveOrthoConv2d, AdaptiveOrthoConvTranspose2d

ORTHOGONIUM = [
    Case("AOC", trained(lambda: CONV(4, 4, 3)), IMAGE),
    Case("AOC with more channels", trained(lambda: CONV(4, 8, 3)), IMAGE),
    Case("AOC with fewer channels", trained(lambda: CONV(4, 2, 5)), IMAGE),
    Case("AOC with zeros around", trained(lambda: CONV(4, 4, 3, padding=1, padding_mode="zeros")), IMAGE),
    Case("AOC in groups", trained(lambda: CONV(4, 8, 3, groups=2)), IMAGE),
    Case("AOC, dilated", trained(lambda: CONV(4, 4, 3, dilation=2, padding=2)), IMAGE),
    Case("AOC with a stride", trained(lambda: CONV(4, 8, 4, stride=2, padding=1)), IMAGE),
    Case("AOC with a stride, odd", trained(lambda: CONV(4, 8, 3, stride=2, padding=1)), IMAGE),
    Case("AOC with a stride of its size", trained(lambda: CONV(4, 8, 2, stride=2, padding=0)), IMAGE),
    Case("AOC, transposed", trained(lambda: TRANSPOSED(4, 4, 3, padding=1)), IMAGE),
    Case("AOC, transposed, with a stride", trained(lambda: TRANSPOSED(4, 2, 4, stride=2, padding=1)), IMAGE),
    Case("AOC, transposed, in groups", trained(lambda: TRANSPOSED(4, 4, 3, groups=2)), IMAGE),
    Case("AOC, transposed, with a stride of its size", trained(lambda: TRANSPOSED(4, 2, 2, stride=2)), IMAGE),
    Case("AOC by exponentials", trained(lambda: CONV(4, 4, 3, ortho_params=reparametrizers.EXP_ORTHO_PARAMS)), IMAGE),
    Case("AOC by Cholesky", trained(lambda: CONV(4, 4, 3, ortho_params=reparametrizers.CHOLESKY_ORTHO_PARAMS)), IMAGE),
    Case("AOC by QR", trained(lambda: CONV(4, 4, 3, ortho_params=reparametrizers.QR_ORTHO_PARAMS)), IMAGE),
    Case("AOL", trained(lambda: aol.AOLConv2D(4, 6, 3, padding=1)), IMAGE),
    Case("AOL, circular with a stride",
         trained(lambda: aol.AOLConv2D(4, 6, 3, padding=1, stride=2, padding_mode="circular", niter=3)), IMAGE),
    Case("AOL, transposed", trained(lambda: aol.AOLConvTranspose2D(4, 6, 3, padding=1, stride=2)), IMAGE),
    Case("SOC", trained(lambda: soc.AdaptiveSOCConv2d(4, 4, 3)), IMAGE),
    Case("SOC with a stride", trained(lambda: soc.AdaptiveSOCConv2d(4, 8, 4, stride=2, padding=3)), IMAGE),
    Case("SOC, transposed", trained(lambda: soc.AdaptiveSOCConvTranspose2d(4, 4, 3)), IMAGE),
    Case("SLL", trained(lambda: sll_layer.SDPBasedLipschitzResBlock(4, 2)), IMAGE),
    Case("SLL, dense", trained(lambda: sll_layer.SDPBasedLipschitzDense(6, 6, 8)), VECTOR, float32=COMPUTED),
    Case("SLL with a stride", trained(lambda: sll_layer.SLLxAOCLipschitzResBlock(4, 8, 2)), IMAGE, 3, COMPUTED),
    Case("SLL of an AOC", trained(lambda: sll_layer.AOCLipschitzResBlock(4, 2, 3)), IMAGE),
    Case("orthogonal linear layer", trained(lambda: linear.OrthoLinear(6, 4)), VECTOR),
    Case("unit rows", trained(lambda: linear.UnitNormLinear(6, 4)), VECTOR),
    Case("MaxMin", lambda: activations.MaxMin(), IMAGE),
    Case("absolute values", lambda: activations.Abs(), IMAGE),
    Case("Huber", lambda: activations.SoftHuber(), IMAGE, float32=NO_RULE),
    Case("Householder, halved", trained(lambda: activations.HouseHolder(4), size=0.5), IMAGE),
    Case("Householder of order 2",
         trained(lambda: activations.HouseHolder_Order_2(4), size=0.5), IMAGE, float32=NO_RULE),
    Case("batch centring", trained(lambda: normalization.BatchCentering2D(4)), IMAGE),
    Case("layer centring", trained(lambda: normalization.LayerCentering2D(4)), IMAGE),
    Case("channel shuffle", lambda: ChannelShuffle(2, 2), IMAGE),
    Case("residual of one half",
         trained(lambda: residual.ConcatResidual(nn.Sequential(CONV(2, 2, 3), activations.MaxMin()))), IMAGE),
    Case("residual by a norm", trained(lambda: residual.L2NormResidual(CONV(4, 4, 3))), IMAGE, float32=NO_RULE),
    Case("convex residual",
         trained(lambda: residual.AdditiveResidual(nn.Sequential(CONV(4, 4, 3), activations.MaxMin()))),
         IMAGE, 1.4, COMPUTED),
    Case("prescaled residual",
         trained(lambda: residual.PrescaledAdditiveResidual(nn.Sequential(CONV(4, 4, 3), activations.Abs()))),
         IMAGE, 1.4, COMPUTED),
    Case(
        "network of orthogonium",
        trained(
            lambda: nn.Sequential(
                *(CONV(1, 8, 3), activations.MaxMin(), CONV(8, 8, 4, stride=2, padding=1), ChannelShuffle(2, 4)),
                *(normalization.BatchCentering2D(8), nn.AvgPool2d(2, divisor_override=2), nn.Flatten()),
                *(linear.OrthoLinear(72, 16), activations.Abs(), linear.UnitNormLinear(16, 5)),
            )
        ),
        (1, 12, 12),
        5,
    ),
]  # fmt: skip
