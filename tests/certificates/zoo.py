"""Networks whose Lipschitz constant is easily got wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from deel import torchlip
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

IMAGE = (2, 6, 6)
VECTOR = (6,)


class Forward(nn.Module):
    """A network that is nothing but a forward."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class DoublingConv(nn.Conv2d):
    """A subclass that does not do what its parent does."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def conv(**settings: object) -> nn.Conv2d:
    return nn.Conv2d(2, 4, **{"kernel_size": 3, **settings})  # type: ignore[arg-type]


def loud_group() -> nn.Module:
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    with torch.no_grad():
        layer.weight[:2] *= 20
        layer.weight[2:] *= 0.01
    return nn.Sequential(nn.Conv2d(2, 4, 1), layer)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    network[1].register_forward_hook(lambda module, args, output: 3 * output)
    return network


def hooked_before() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    network[1].register_forward_pre_hook(lambda module, args: (5 * args[0],))
    return network


def patched() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    linear = network[1]
    linear.forward = lambda x: 7 * nn.Linear.forward(linear, x)
    return network


def patched_whole_layer() -> nn.Module:
    layer = torchlip.HouseHolder(2)
    layer.forward = lambda x: 7 * x
    return layer


def stale_torchlip() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), torchlip.SpectralLinear(72, 4))
    network(torch.rand(3, *IMAGE))
    with torch.no_grad():
        network[1].parametrizations.weight.original.mul_(50)
    return network


def stale_spectral_norm() -> nn.Module:
    layer = parametrizations.spectral_norm(nn.Linear(72, 4)).eval()
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.randn(4, 72) * 10)
    return nn.Sequential(nn.Flatten(), layer)


def weight_norm() -> nn.Module:
    layer = parametrizations.weight_norm(nn.Linear(72, 4))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(9)
    return nn.Sequential(nn.Flatten(), layer)


def old_hook_spectral_norm() -> nn.Module:
    layer = torch.nn.utils.spectral_norm(nn.Conv2d(2, 4, 3, padding=1), n_power_iterations=1)
    return nn.Sequential(layer)


class Times(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 11 * weight


def parametrised_conv() -> nn.Module:
    layer = conv(padding=1)
    parametrize.register_parametrization(layer, "weight", Times())
    return layer


def scaled_weights(factor: float) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(factor)
    return network


def modified_after_tracing() -> nn.Module:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.ReLU()).eval())
    with torch.no_grad():
        traced.get_submodule("1").weight.mul_(13)
    return traced


def batch_norm(*, small_variance: bool = False) -> nn.Module:
    layer = nn.BatchNorm2d(2)
    with torch.no_grad():
        layer.running_var.copy_(torch.tensor([1e-4 if small_variance else 0.5, 4.0]))
        layer.weight.copy_(torch.tensor([-3.0, 0.5]))
        layer.running_mean.fill_(1e3)
    return layer


def tied() -> nn.Module:
    layer = nn.Linear(6, 6)
    return Forward(lambda self, x: self.a(self.b(x).relu()), a=layer, b=layer)


def huge_biases() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        network[0].bias.fill_(1e6)
        network[2].bias.fill_(-5e6)
    return network


def in_place_view(self: nn.Module, x: Tensor) -> Tensor:
    y = 3 * x
    y[:, :2].mul_(100)
    return y


def in_place_slice_assignment(self: nn.Module, x: Tensor) -> Tensor:
    y = 3 * x
    y[:, 1:4] = 0.5
    return y


def in_place_arithmetic(self: nn.Module, x: Tensor) -> Tensor:
    y = x.clone()
    y += x
    y *= 4
    y -= 1
    return F.relu_(y)


def max_min(self: nn.Module, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def other_pairs(self: nn.Module, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, 2 * b)], dim=1)


def other_dimensions(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([x.max(dim=1)[0], x.min(dim=2)[0]], dim=1)


def huge_constant(self: nn.Module, x: Tensor) -> Tensor:
    y = x.double() * 1e-170
    y[:, 0] = 3.0
    return y * torch.tensor([1e170, 1.0, 1.0, 1.0, 1.0, 1e160], dtype=torch.float64)


def shifted_parts(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([F.relu(x + 1), F.relu(1 - x)], dim=1)


def shifted_part(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([F.relu(x + 1), F.relu(-x)], dim=1)


def shifted_negative(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([F.relu(x), F.relu(-x + 1)], dim=1)


def shifted_operand(self: nn.Module, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a + 1, b)], dim=1)


def same_part(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([F.relu(x), F.relu(x)], dim=1)


def scaled_max_min(self: nn.Module, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.cat([9 * torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def half_absolute(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([x[:, :2].abs(), x[:, 2:]], dim=1)


def swallowed_error(self: nn.Module, x: Tensor) -> Tensor:
    try:
        return torch.exp(x)
    except ValueError:
        return x


def autocast(self: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.linear(x)


def channels_last(self: nn.Module, x: Tensor) -> Tensor:
    return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).flip(2).roll(1, 3)


def shape_dependent(self: nn.Module, x: Tensor) -> Tensor:
    return x * 6 if x.shape[1] == 2 and x.dim() == 4 else x


def reordered(self: nn.Module, x: Tensor) -> Tensor:
    return torch.batch_norm(x, torch.ones(6), torch.ones(6), torch.ones(6), torch.ones(6), False, 0.1, 1e-5, False)


def compiled() -> nn.Module:
    network = nn.Linear(6, 3)
    network._compiled_call_impl = network.__call__
    return network


def twice_the_batch(self: nn.Module, x: Tensor) -> Tensor:
    return x + x.flip(0)


def unfolded(self: nn.Module, x: Tensor) -> Tensor:
    return F.unfold(x, 3, padding=1)


class Counter(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def not_finite(value: float, name: str = "weight") -> nn.Module:
    layer = nn.Linear(6, 3)
    with torch.no_grad():
        getattr(layer, name).view(-1)[0] = value
    return layer
