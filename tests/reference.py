"""Slow, obvious references: dense matrices by feeding the identity, singular values, Jacobians."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def dense_matrix(linear_map: Callable[[Tensor], Tensor], input_shape: Sequence[int]) -> Tensor:
    """The float64 matrix of an affine map, one basis vector at a time."""
    size = torch.Size(input_shape).numel()
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *input_shape)
    with torch.no_grad():
        return _columns(linear_map, basis, input_shape)


def _columns(linear_map: Callable[[Tensor], Tensor], basis: Tensor, input_shape: Sequence[int]) -> Tensor:
    origin = linear_map(torch.zeros(1, *input_shape, dtype=torch.float64))
    return torch.stack([(linear_map(vector[None]) - origin).flatten() for vector in basis], dim=1)


def operator_norm(matrix: Tensor) -> float:
    """The largest singular value, in float64."""
    return float(torch.linalg.svdvals(matrix.double())[0])


def dense_norm(linear_map: Callable[[Tensor], Tensor], input_shape: Sequence[int]) -> float:
    """The norm of an affine map."""
    return operator_norm(dense_matrix(linear_map, input_shape))


def steepest_slope(network: nn.Module, input_shape: Sequence[int], *, points: int = 2, size: float = 1.0) -> float:
    """The largest norm of the Jacobian at random points: a lower bound of the Lipschitz constant.

    Of the network with the weights that it executes: those that are computed are not computed again in float64.
    """
    for layer in network.modules():
        for name in list(getattr(layer, "parametrizations", ())):
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    double = network.double()
    generator = torch.Generator().manual_seed(0)
    norms = []
    for scale in (size, size * 1e-3, size * 30):
        for _ in range(points):
            point = scale * torch.randn(1, *input_shape, dtype=torch.float64, generator=generator)
            jacobian = torch.autograd.functional.jacobian(double, point)
            norms.append(operator_norm(jacobian.reshape(-1, point.numel())))
    return max(norms)
