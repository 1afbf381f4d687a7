"""Linear operations in a row are bounded together, as tightly as their dense matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from reference import dense_norm
from torch import Tensor, nn
from zoo import Forward

from lipcert.certificates import segment
from lipcert.certificates.graph import lipschitz_upper_bound

IMAGE = (2, 6, 6)


def batch_norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(2)
    with torch.no_grad():
        layer.running_var.copy_(torch.tensor([0.5, 4.0]))
        layer.weight.copy_(torch.tensor([-3.0, 0.5]))
    return layer


def conv() -> nn.Conv2d:
    return nn.Conv2d(2, 2, 3, padding=1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "stacked linear layers": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 9), nn.Linear(9, 40), nn.Linear(40, 5)),
    "convolution, then mean": lambda: nn.Sequential(conv(), nn.AvgPool2d(2)),
    "convolution, then global mean": lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "linear residual": lambda: Forward(lambda self, x: x - 2 * self.f(x) + 0.5, f=conv()),
    "negated residual": lambda: Forward(lambda self, x: 1 - self.f(x) + x, f=conv()),
    "normalised, then convolved": lambda: Forward(
        lambda self, x: self.f((x - 0.5) / torch.tensor([0.25, 2.0])[:, None, None]), f=conv()
    ),
    "convolution, then batch norm": lambda: nn.Sequential(conv(), batch_norm(), conv()),
    "centred twice": lambda: Forward(lambda self, x: self.f(x - x.mean((2, 3), keepdim=True)).flip(3), f=conv()),
    "branches joined and added": lambda: Forward(
        lambda self, x: self.f(x).sum(1, keepdim=True) + self.g(x.roll(1, 2))[:, 1:], f=conv(), g=conv()
    ),
    "a factor that float32 rounds": lambda: Forward(lambda self, x: x + 0.1 * self.f(x), f=conv()),
    "padded by reflection between": lambda: nn.Sequential(
        conv(), nn.Conv2d(2, 2, 3, padding=2, padding_mode="reflect")
    ),
    "down and up": lambda: nn.Sequential(nn.Conv2d(2, 3, 2, 2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.AvgPool2d(3)),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_linear_networks_are_bounded_exactly(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = build().eval()
    bound = lipschitz_upper_bound(network, IMAGE).value
    torch.set_default_dtype(torch.float64)
    try:
        exact = dense_norm(network.double(), IMAGE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert exact * (1 - 1e-7 * ("rounds" in str(build))) * (1 - 1e-12) <= bound <= exact * (1 + 1e-5)


def test_segment_starts_anew_after_an_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval() for _ in range(2)]
    together = lipschitz_upper_bound(nn.Sequential(parts[0], nn.Tanh(), parts[1]).eval(), (8,)).value
    first, second = (lipschitz_upper_bound(part, (8,)).value for part in parts)
    assert together == pytest.approx(first * second, rel=1e-12)
    monkeypatch.setattr(segment, "_LARGEST_INPUT", 0)
    assert lipschitz_upper_bound(parts[0], (8,)).value > first * 1.01


def activated(self: nn.Module, x: Tensor) -> Tensor:
    return x - F.relu(2 * x).mean(1, keepdim=True) * 3 - F.relu(-x)


def test_nonlinear_branches_are_not_taken_for_linear_ones() -> None:
    bound = lipschitz_upper_bound(Forward(activated).eval(), (4,)).value
    jacobian = torch.autograd.functional.jacobian(lambda x: activated(None, x), torch.ones(1, 4)).reshape(4, 4)
    assert bound >= float(torch.linalg.matrix_norm(jacobian, 2))
    assert bound >= 1 + 1 + 2 * 3 / 2


def test_tiny_weights_do_not_vanish_in_a_product() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double().eval()
    with torch.no_grad():
        for layer in network:
            layer.weight.copy_(1e-170 * torch.eye(3, dtype=torch.float64))
    assert lipschitz_upper_bound(network, (3,)).value > 0
