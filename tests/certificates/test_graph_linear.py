"""Linear operations, one by one or in a row, are bounded as tightly as their dense matrix."""

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


LINEAR_AND_EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda x: x.transpose(1, 2).mT.permute(0, 3, 1, 2),
    "reshape": lambda x: x.reshape(x.size(0), -1, 2).unflatten(1, (2, -1)).unsqueeze(1).squeeze(),
    "crop": lambda x: x[:, :, 1:-1, ::2][..., None, 0],
    "select": lambda x: x.select(2, 1).narrow(1, 0, 1),
    "roll and flip": lambda x: torch.roll(x, (1, 2), (2, 3)).flip(2).rot90(1, (2, 3)),
    "repeat": lambda x: x.repeat(1, 3, 1, 2),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 5, -1, -1, -1),
    "repeat interleave": lambda x: torch.repeat_interleave(x, 3, dim=1),
    "index select": lambda x: x.index_select(1, torch.tensor([1, 1, 0])),
    "zero pad": lambda x: F.pad(x, (1, 2, 0, 1), value=3.0),
    "reflect pad": lambda x: F.pad(x, (2, 1, 3, 0), mode="reflect"),
    "replicate pad": lambda x: F.pad(x, (2, 1, 3, 0), mode="replicate"),
    "circular pad": lambda x: F.pad(x, (3, 1, 3, 0), mode="circular"),
    "unfold": lambda x: F.unfold(x, (2, 3), padding=1, stride=2),
    "unfold one dimension": lambda x: x.unfold(2, 3, 1),
    "stack of a tensor with a part of itself": lambda x: torch.stack([x, x * 2, torch.zeros_like(x)], dim=1),
    "chunks joined again": lambda x: torch.cat([part * 3 for part in x.chunk(2, dim=1)][::-1], dim=1),
    "unbind": lambda x: torch.cat(x.unbind(2), dim=2),
    "constant choice": lambda x: torch.where(torch.eye(4, dtype=torch.bool), x, 5 * x),
    "masked": lambda x: x.masked_fill(torch.eye(4, dtype=torch.bool), 7.0).tril(),
    "product with a tensor": lambda x: x * torch.arange(16.0).reshape(4, 4) / torch.tensor([0.5, -4.0])[:, None, None],
    "reversed arithmetic": lambda x: 5 - (-3 * x) + torch.ones(4),
    "sum over a dimension": lambda x: x.sum(dim=(1, 3)),
    "mean over a dimension": lambda x: x.mean(-1, keepdim=True),
    "matrix on the right": lambda x: x @ (torch.arange(12.0).reshape(4, 3) - 5),
    "matrix on the left": lambda x: (torch.arange(12.0).reshape(3, 4) - 5) @ x,
    "matrix of another type": lambda x: torch.matmul(x.double(), torch.eye(4, dtype=torch.float64) * 2),
    "patches": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    "average pool": lambda x: F.avg_pool2d(x, (2, 3), 1, 1),
    "bilinear": lambda x: F.interpolate(x, size=(7, 3), mode="bilinear", align_corners=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=(2.0, 1.5)),
    "views of one memory": lambda x: x.view_as(x).reshape_as(x).expand_as(x).contiguous().clone().detach(),
}


@pytest.mark.parametrize("function", LINEAR_AND_EXACT.values(), ids=LINEAR_AND_EXACT)
def test_linear_operations_are_bounded_exactly(function: Callable[[Tensor], Tensor]) -> None:
    bound = lipschitz_upper_bound(Forward(lambda self, x: function(x)).eval(), (2, 4, 4)).value
    torch.set_default_dtype(torch.float64)
    try:
        exact = dense_norm(function, (2, 4, 4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert exact * (1 - 1e-12) <= bound <= exact * (1 + 1e-6)


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
