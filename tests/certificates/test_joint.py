"""Parts, branches and joins drawn at random: several values side by side against the Jacobian of all of them."""

from __future__ import annotations

import random

import pytest
import torch
from reference import steepest_slope
from torch import Tensor, nn
from zoo import Forward

from lipcert.certificates import joint
from lipcert.certificates.graph import lipschitz_upper_bound


class Parts(nn.Module):
    """Parts of a vector go through layers of their own, are added up and joined again, several times."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.seed = seed
        self.matrices = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(20)])

    def forward(self, x: Tensor) -> Tensor:
        draw, matrices = random.Random(self.seed), iter(self.matrices)
        for _ in range(3):
            parts = self._parts(draw, x)
            branches = [self._branch(draw, part, matrices) for part in parts]
            x = torch.cat(branches, dim=1)
        return x

    @staticmethod
    def _parts(draw: random.Random, x: Tensor) -> tuple[Tensor, Tensor]:
        start = draw.choice([4, 4, 4, 2])  # the second part may share elements with the first
        first = x[:, :4] if draw.random() < 0.7 else x[:, [0, 0, 1, 2]]
        return first, x[:, start : start + 4]

    @staticmethod
    def _branch(draw: random.Random, part: Tensor, matrices: object) -> Tensor:
        for _ in range(draw.randint(0, 2)):
            kind = draw.choice(["linear", "residual", "pair", "sort", "scale", "root", "step"])
            weight = next(matrices)  # type: ignore[call-overload]
            if kind == "linear":
                part = (part @ weight).relu()
            elif kind == "residual":
                part = part + 0.5 * (part @ weight).tanh()
            elif kind == "pair":
                a, b = part.chunk(2, dim=1)
                part = torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)
            elif kind == "sort":
                part = part.sort(dim=1)[0]
            elif kind == "scale":
                part = part * torch.tensor([3.0, 0.1, -2.0, 0.0], dtype=part.dtype)
            elif kind == "root":
                part = (part**2 + (part @ weight) ** 2 + 1e-3).sqrt()
            else:
                part = part - 0.2 * nn.functional.linear(nn.functional.linear(part, weight).relu(), weight.T)
        return part


@pytest.mark.parametrize("seed", range(60))
def test_bound_of_random_parts_is_above_their_slopes(seed: int) -> None:
    network = Parts(seed).eval()
    bound = lipschitz_upper_bound(network, (8,)).value
    assert steepest_slope(network, (8,)) * (1 - 1e-12) <= bound


def halves(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([3 * x[:, :2], (x[:, 2:] @ torch.eye(2, dtype=x.dtype)).relu()], dim=1)


def overlapping(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([3 * x[:, :3], (2 * x[:, 1:] @ torch.eye(3, dtype=x.dtype)).relu()], dim=1)


def test_disjoint_parts_count_by_the_steeper_one() -> None:
    assert lipschitz_upper_bound(Forward(halves).eval(), (4,)).value == pytest.approx(3, rel=1e-6)
    assert lipschitz_upper_bound(Forward(overlapping).eval(), (4,)).value == pytest.approx(13**0.5, rel=1e-6)


def test_taking_overlapping_parts_for_disjoint_ones_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "root_sum_squares_up", max)
    monkeypatch.setattr(joint, "_from_common_anchor", lambda values: None)
    wrong = lipschitz_upper_bound(Forward(overlapping).eval(), (4,)).value
    assert wrong < steepest_slope(Forward(overlapping).eval(), (4,))


def test_forgetting_what_happened_to_a_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "product_up", lambda *factors: 1.0)
    five = 5 * torch.eye(2).double()
    network = Forward(lambda self, x: torch.cat([x[:, :2], (x[:, 2:] @ five).sort(1)[0]], 1)).eval()
    assert lipschitz_upper_bound(network, (4,)).value < steepest_slope(network, (4,))
