"""Weights kept on the Stiefel manifold from outside."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lipcert.errors import InputError
from lipcert.layers import OrthogonalConv2d, OrthogonalLinear, keep_orthogonal, project_, project_gradients_, retract_
from lipcert.layers.polar import newton_schulz, norm_squared_upper_bound, polar_factor
from lipcert.layers.stiefel import kept_weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrthogonalConv2d(2, 6, 2, groups=2),
        OrthogonalConv2d(6, 6),
        OrthogonalConv2d(6, 4, 3, stride=1, padding=1, constraint="rko"),
        nn.Flatten(),
        OrthogonalLinear(36, 6),
        OrthogonalLinear(6, 6),
        OrthogonalLinear(6, 9),
        nn.Linear(9, 2),
    )


def drift(module: nn.Module, size: float) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight, _ in kept_weights(module):
            weight.add_(size * torch.randn(weight.shape))


def departure(module: nn.Module) -> float:
    """The largest distance of a kept matrix's singular values from 1."""
    worst = 0.0
    for weight, groups in kept_weights(module):
        values = torch.linalg.svdvals(weight.detach().double().reshape(groups, len(weight) // groups, -1))
        worst = max(worst, float((values - 1).abs().max()))
    return worst


def test_all_kept_weights_are_found_once():
    model = network()
    model.append(model[5])
    shapes = [(tuple(weight.shape), groups) for weight, groups in kept_weights(model)]
    assert shapes == [((6, 1, 2, 2), 2), ((6, 6, 1, 1), 1), ((4, 6, 3, 3), 1), ((6, 36), 1), ((6, 6), 1), ((9, 6), 1)]


def test_every_matrix_of_a_composed_kernel_is_kept():
    layer = OrthogonalConv2d(4, 6, 3, stride=2, padding=1, constraint="aoc")
    assert [tuple(weight.shape) for weight, _ in kept_weights(layer)] == [(6, 4, 2, 2), (2, 4), (2, 4)]
    drift(layer, 0.02)
    project_(layer)
    assert departure(layer) < 1e-6


def test_one_step_squares_the_departure():
    model = network()
    drift(model, 0.005)
    before = departure(model)
    assert before > 0.005
    retract_(model)
    # 3/2 d^2 + 1/2 |d|^3, and float32
    assert departure(model) <= 1.5 * before**2 + 0.5 * before**3 + 1e-6


@pytest.mark.parametrize("size", [0.5, 5.0, 1e4, 1e15])
def test_steps_converge_from_afar(size):
    model = network()
    drift(model, size)
    for _ in range(60):
        retract_(model)
    assert departure(model) < 1e-5


def test_a_step_follows_the_polar_factor():
    """The limit is the nearest orthonormal matrix, not just any."""
    torch.manual_seed(0)
    start = torch.eye(8) + 0.2 * torch.randn(8, 8)
    layer = OrthogonalLinear(8, 8)
    layer.weight.data = start.clone()
    for _ in range(30):
        retract_(layer)
    left, _, right = torch.linalg.svd(start.double())
    torch.testing.assert_close(layer.weight.detach().double(), left @ right, rtol=0, atol=1e-5)


def test_weights_near_the_manifold_are_not_scaled():
    torch.manual_seed(0)
    weight = torch.linalg.qr(torch.randn(300, 300, dtype=torch.float64))[0]
    near = weight + 0.01 * torch.randn_like(weight) / 300**0.5
    plain = 1.5 * near - 0.5 * near @ near.T @ near
    torch.testing.assert_close(newton_schulz(near[None])[0], plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (40, 40)], ids=str)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_polar_factor_is_the_singular_vectors_product(shape, size):
    torch.manual_seed(0)
    matrix = (size * torch.randn(shape, dtype=torch.float64)).float()
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close(polar_factor(matrix), left @ right, rtol=0, atol=1e-9)


def test_projection_is_exact_and_deterministic():
    first, second = network(), network()
    for model in (first, second):
        drift(model, 0.1)
        project_(model)
    assert departure(first) < 5e-7
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    before = [weight.detach().clone() for weight, _ in kept_weights(first)]
    project_(first)
    assert all(torch.equal(old, new) for old, (new, _) in zip(before, kept_weights(first), strict=True))


def test_projection_of_deficient_and_broken_weights():
    layer = OrthogonalLinear(4, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0] = 2.0
    project_(layer)
    assert torch.linalg.svdvals(layer.weight.detach()).max() <= 1 + 1e-6
    torch.testing.assert_close(layer.weight.detach()[0], torch.full((4,), 0.5), rtol=0, atol=1e-6)
    with torch.no_grad():
        layer.weight[1, 1] = torch.nan
    broken = layer.weight.detach().clone()
    project_(layer)
    torch.testing.assert_close(layer.weight.detach(), broken, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(5, 5), (3, 6), (6, 3)], ids=str)
def test_projected_gradients_are_tangent(shape):
    torch.manual_seed(0)
    layer = OrthogonalLinear(*shape).double()
    layer.weight.data = polar_factor(layer.weight.detach())
    gradient = torch.randn_like(layer.weight)
    layer.weight.grad = gradient.clone()
    project_gradients_(layer)
    weight, tangent = layer.weight.detach(), layer.weight.grad
    if shape[1] < shape[0]:  # more columns than rows
        weight, tangent, gradient = weight.T, tangent.T, gradient.T
    normal = weight.T @ tangent
    torch.testing.assert_close(normal, -normal.T, rtol=0, atol=1e-12)
    # an orthogonal projection: what was removed is W times a symmetric matrix
    removed = weight.T @ (gradient - tangent)
    torch.testing.assert_close(removed, removed.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(weight @ removed, gradient - tangent, rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_closure", [False, True], ids=["plain", "closure"])
@pytest.mark.parametrize("tangent", [False, True], ids=["gradient", "tangent"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_optimizers_stay_near_the_manifold(make, tangent, with_closure):
    model = network()
    optimizer = make(model.parameters(), lr=0.01)
    keep_orthogonal(optimizer, model, every=2, tangent=tangent)
    inputs = torch.randn(16, 2, 6, 6)

    def closure():
        optimizer.zero_grad()
        loss = model(inputs).square().sum()
        loss.backward()
        return loss

    for _ in range(10):
        if with_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    assert departure(model) < 0.01


def test_tangent_steps_leave_the_manifold_slowly():
    """A gradient across the manifold moves the singular values in first order, its tangent part in second order."""
    departures = []
    for tangent in (False, True):
        torch.manual_seed(0)
        layer = OrthogonalLinear(6, 6)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
        keep_orthogonal(optimizer, layer, every=100, tangent=tangent)
        layer.weight.grad = torch.randn_like(layer.weight)
        optimizer.step()
        departures.append(departure(layer))
    assert departures[1] < departures[0] / 10


def test_steps_are_counted_saved_and_undone():
    layer = OrthogonalLinear(3, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    handle = keep_orthogonal(optimizer, layer, every=3)

    def off_after_a_step() -> bool:
        layer.weight.data = 1.1 * torch.eye(3)
        layer.weight.grad = torch.zeros(3, 3)
        optimizer.step()
        return bool(layer.weight[0, 0] == 1.1)

    assert [off_after_a_step() for _ in range(4)] == [True, True, False, True]
    handle.load_state_dict({"steps": 2})
    assert [off_after_a_step() for _ in range(2)] == [False, True]
    assert handle.state_dict() == {"steps": 4}
    handle.remove()
    assert all(off_after_a_step() for _ in range(4))


def test_settings_without_effect_are_refused():
    layer = OrthogonalLinear(3, 3)
    with pytest.raises(InputError, match="every >= 1, got 0"):
        keep_orthogonal(torch.optim.SGD(layer.parameters()), layer, every=0)
    for other in (nn.Linear(3, 3), OrthogonalLinear(3, 3, constraint="bjorck")):
        with pytest.raises(InputError, match="found none"):
            keep_orthogonal(torch.optim.SGD(other.parameters()), other)


def test_the_memory_format_does_not_matter():
    first, second = network(), network().to(memory_format=torch.channels_last)
    assert not second[2].parametrizations.weight.original.is_contiguous()
    for model in (first, second):
        drift(model, 0.1)
        for weight, _ in kept_weights(model):
            weight.grad = torch.ones_like(weight)
        project_gradients_(model)
        retract_(model)
        project_(model)
    for (a, _), (b, _) in zip(kept_weights(first), kept_weights(second), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-5)


class NothingIsRead(TorchDispatchMode):
    """Refuses to hand a tensor's number to Python, for which a device would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_training_step_waits_for_no_number():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    keep_orthogonal(optimizer, model, every=1, tangent=True)
    model(torch.randn(2, 2, 6, 6)).sum().backward()
    with NothingIsRead():
        optimizer.step()
    with pytest.raises(AssertionError), NothingIsRead():
        project_(model)


def test_low_precision_weights_are_retracted():
    layer = OrthogonalLinear(8, 8).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.mul_(1.2)
    for _ in range(4):
        retract_(layer)
    assert layer.weight.dtype == torch.bfloat16
    assert departure(layer) < 0.02  # three significant digits


@pytest.mark.parametrize("shape", [(4, 4), (30, 4), (4, 30)], ids=str)
def test_bound_of_the_squared_norm(shape):
    torch.manual_seed(0)
    for size in (1e-3, 1.0, 30.0):
        matrices = size * torch.randn(20, *shape, dtype=torch.float64)
        bound = norm_squared_upper_bound(matrices.mT @ matrices).flatten()
        truth = torch.linalg.matrix_norm(matrices, 2).square()
        assert (bound >= truth * (1 - 1e-12)).all()
    orthonormal = polar_factor(matrices[0])[None]
    small = orthonormal if shape[0] >= shape[1] else orthonormal.mT
    assert norm_squared_upper_bound(small.mT @ small).item() == pytest.approx(1, abs=1e-9)
