"""The spellings in which people write Lipschitz networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class With(nn.Module):
    """A forward with parameters drawn at random, by name and shape."""

    def __init__(self, forward: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = forward
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def shifts_by_group(self: nn.Module, x: Tensor) -> Tensor:
    left, right, up, down = x.chunk(4, dim=1)
    return torch.cat([left.roll(1, 3), right.roll(-1, 3), torch.roll(up, (1, 1), (2, 3)), down.roll(-1, 2)], dim=1)


def max_min_of_neighbours(self: nn.Module, x: Tensor) -> Tensor:
    a, b = x[:, ::2], x[:, 1::2]
    return torch.stack([torch.maximum(a, b), torch.minimum(a, b)], dim=2).flatten(1, 2)


def max_min_in_a_view(self: nn.Module, x: Tensor) -> Tensor:
    pairs = x.view(x.shape[0], -1, 2, *x.shape[2:])
    return torch.cat([pairs.max(dim=2).values, pairs.min(dim=2).values], dim=1)


def absolute_slice_in_place(self: nn.Module, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :1] = x[:, :1].abs()
    return y


def channels_exchanged(self: nn.Module, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, [0, 1]] = x[:, [1, 0]]
    return y


def written_over(self: nn.Module, x: Tensor) -> Tensor:
    y = 9 * x
    y[:, 0] = x.mean(dim=1)
    return y


def written_twice(self: nn.Module, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, [0, 0]] = x[:, :2]
    return y


def patches(self: nn.Module, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    flat = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, c * 4)
    return flat @ self.weight


def unfolded_and_folded(self: nn.Module, x: Tensor) -> Tensor:
    return F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1)


def gated_residual(self: nn.Module, x: Tensor) -> Tensor:
    gate = torch.sigmoid(self.gate)
    return gate * x + (1 - gate) * F.linear(x, torch.linalg.qr(self.weight)[0]).relu()


def normalised_head(self: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, F.normalize(self.weight, dim=1))


def cayley(self: nn.Module, x: Tensor) -> Tensor:
    skew = self.weight - self.weight.T
    identity = torch.eye(len(skew), dtype=skew.dtype)
    return F.linear(x, torch.linalg.solve(identity + skew, identity - skew))


def convex_layer(self: nn.Module, x: Tensor) -> Tensor:
    """x - 2 / |W|^2 W^T relu(W x + b)."""
    hidden = F.relu(F.linear(x, self.weight, self.bias))
    return x - 2 / torch.linalg.matrix_norm(self.weight, 2) ** 2 * F.linear(hidden, self.weight.T)


def sandwich(factor: float, activation: Callable[[Tensor], Tensor] = F.relu, **other: int) -> Callable[..., Tensor]:
    """x - factor K^T activation(K x), with another padding on the way back if so wished."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        weight = self.weight / 6
        hidden = activation(F.conv2d(x, weight, padding=1))
        return x - factor * F.conv_transpose2d(hidden, weight, **{"padding": 1, **other})

    return forward


def other_weight_back(self: nn.Module, x: Tensor) -> Tensor:
    weight = self.weight / 12
    return x - 2 * F.conv_transpose2d(F.relu(F.conv2d(x, weight, padding=1)), weight.flip(0), padding=1)


def ascent(self: nn.Module, x: Tensor) -> Tensor:
    return x + 2 * F.linear(F.relu(F.linear(x, self.weight)), self.weight.T)


def scaled_step(self: nn.Module, x: Tensor) -> Tensor:
    hidden = self.scale.abs() * F.relu(F.linear(x, self.weight))
    return x - F.linear(hidden, self.weight.T)


def other_skip(self: nn.Module, x: Tensor) -> Tensor:
    weight = self.weight / 8
    return x.flip(1) - 2 * F.linear(F.relu(F.linear(x, weight)), weight.T)


def linear_residual(**settings: object) -> Callable[..., Tensor]:
    """x + conv(x): one convolution."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x + F.conv2d(x, self.weight / 4, **settings)

    return forward


def circular_residual(self: nn.Module, x: Tensor) -> Tensor:
    return x - 0.5 * F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), self.weight)


def shifted_residual(self: nn.Module, x: Tensor) -> Tensor:
    return x - F.conv2d(F.pad(x, (2, 0, 1, 1), mode="circular"), self.weight)


def one_half_changed(self: nn.Module, x: Tensor) -> Tensor:
    kept, changed = x.chunk(2, dim=1)
    changed = changed + F.conv2d(changed, self.weight, padding=1).relu()
    return torch.cat([kept, changed], dim=1)


def coupled_halves(self: nn.Module, x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return torch.cat([3 * F.conv2d(first, self.one).tanh(), F.conv2d(second, self.two).relu()], dim=1)


def overlapping_halves(self: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([F.conv2d(x[:, :2], self.weight).relu(), F.conv2d(x[:, 1:3], self.weight).relu()], dim=1)


def root_of_squares(self: nn.Module, x: Tensor) -> Tensor:
    return torch.sqrt(x.pow(2).sum(dim=(2, 3)) + 1e-6)


def pooled_squares(self: nn.Module, x: Tensor) -> Tensor:
    return torch.sqrt(4 * F.avg_pool2d(x**2, 2))


def squares_of_overlapping_windows(self: nn.Module, x: Tensor) -> Tensor:
    return F.avg_pool2d(x * x, 3, stride=1).sqrt()


def mixed_squares(self: nn.Module, x: Tensor) -> Tensor:
    return (0.5 * x**2 + 0.5 * F.conv2d(x, self.weight).square() + 1e-6) ** 0.5


def squares_used_again(self: nn.Module, x: Tensor) -> Tensor:
    squares = x**2
    return torch.cat([squares, squares[:, :1] * 9], dim=1).sum(dim=1).sqrt()


def view_of_squares_written_to(self: nn.Module, x: Tensor) -> Tensor:
    squares = x**2
    squares[:, :1].mul_(100)
    return squares.sum(dim=1).sqrt()


def split_by_comparison(self: nn.Module, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.where(a > b, a, b), torch.where(a > b, b, a)], dim=1)


def angle_for_other_channels(self: nn.Module, x: Tensor) -> Tensor:
    return self.reflections(x[:, :2])


def samples_mixed_by_a_matrix(self: nn.Module, x: Tensor) -> Tensor:
    return torch.ones(2, 2, dtype=x.dtype) @ x
