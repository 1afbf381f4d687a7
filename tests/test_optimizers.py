"""The one-sided Shampoo of weights that are kept orthogonal, against its formula written out."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from lipcert.errors import InputError
from lipcert.layers import OrthogonalConv2d, OrthogonalLinear, retract_
from lipcert.optimizers import OneSidedShampoo


def written_out(weights: Tensor, gradients: list[Tensor], *, lr: float, momentum: float, beta: float) -> Tensor:
    """Float64, by eigenvectors of the covariance at every step."""
    tall = weights.shape[0] > weights.shape[1]
    w = (weights.mT if tall else weights).double()
    covariance, moving = torch.zeros(len(w), len(w), dtype=torch.float64), torch.zeros_like(w)
    for gradient in gradients:
        g = (gradient.mT if tall else gradient).double()
        tangent = g - (g @ w.mT + w @ g.mT) @ w / 2
        moving = momentum * moving + tangent
        covariance = beta * covariance + (1 - beta) * tangent @ tangent.mT
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors @ torch.diag((values + 1e-6 * values.max()) ** -0.5) @ vectors.mT
        direction = root @ (tangent + momentum * moving)
        w = w - lr * math.sqrt(len(w)) * direction / direction.norm()
    return w.mT if tall else w


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)], ids=str)
def test_steps_are_those_of_the_formula(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(nn.init.orthogonal_(torch.empty(shape)))
    gradients = [torch.randn(shape) for _ in range(5)]
    expected = written_out(weight.detach(), gradients, lr=0.01, momentum=0.8, beta=0.9)
    optimizer = OneSidedShampoo([weight], lr=0.01, momentum=0.8, beta=0.9, refresh_every=1)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    # a covariance of condition 1e6 is inverted in float32
    torch.testing.assert_close(weight.detach().double(), expected, rtol=0, atol=2e-4)


def test_a_step_turns_by_the_learning_rate_whatever_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    start = nn.init.orthogonal_(torch.empty(8, 12))
    gradient, moved = torch.randn(8, 12), []
    for scale in (1e-4, 1.0, 1e4):
        weight = nn.Parameter(start.clone())
        weight.grad = gradient * scale
        OneSidedShampoo([weight], lr=0.03).step()
        moved.append(weight.detach() - start)
        assert moved[-1].norm().item() == pytest.approx(0.03 * math.sqrt(8), rel=1e-4)
    torch.testing.assert_close(moved[0], moved[2], rtol=0, atol=1e-4)


def test_a_convolution_is_the_matrix_of_its_kernel() -> None:
    torch.manual_seed(0)
    conv = OrthogonalConv2d(3, 8, 2, bias=False)
    linear = OrthogonalLinear(12, 8, bias=False)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
    gradient = torch.randn(8, 12)
    conv.weight.grad, linear.weight.grad = gradient.view_as(conv.weight).clone(), gradient.clone()
    for layer in (conv, linear):
        OneSidedShampoo(layer.parameters()).step()
    assert torch.equal(conv.weight.flatten(1), linear.weight)


def test_other_parameters_follow_nesterov_momentum() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.tensor(2.0))]
    theirs = copy.deepcopy(ours)
    optimizers = (
        OneSidedShampoo(ours, lr=0.02, other_lr=5.0, momentum=0.9),
        torch.optim.SGD(theirs, lr=0.1, momentum=0.9, nesterov=True),
    )
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_it_finds_the_nearest_rotation() -> None:
    torch.manual_seed(0)
    target = nn.init.orthogonal_(torch.empty(16, 16))
    layer = OrthogonalLinear(16, 16, bias=False)
    with torch.no_grad():  # rotations and reflections are not connected
        if layer.weight.det() * target.det() < 0:
            layer.weight[0].neg_()
    optimizer = OneSidedShampoo(layer.parameters(), lr=0.1)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        loss = (layer.weight - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        retract_(layer)
    assert (layer.weight - target).norm() < 0.02 * target.norm()


def test_a_restored_optimizer_goes_on_as_the_unbroken_one() -> None:
    torch.manual_seed(0)
    layer = OrthogonalLinear(6, 4)
    gradients = [[torch.randn_like(p) for p in layer.parameters()] for _ in range(8)]

    def run(subject: nn.Module, optimizer: OneSidedShampoo, steps: list[list[Tensor]]) -> None:
        for step in steps:
            for parameter, gradient in zip(subject.parameters(), step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
            retract_(subject)

    unbroken, broken = copy.deepcopy(layer), copy.deepcopy(layer)
    run(unbroken, OneSidedShampoo(unbroken.parameters(), refresh_every=3), gradients)
    first = OneSidedShampoo(broken.parameters(), refresh_every=3)
    run(broken, first, gradients[:5])
    second = OneSidedShampoo(broken.parameters(), refresh_every=3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(broken, second, gradients[5:])
    assert torch.equal(broken.weight, unbroken.weight)
    assert torch.equal(broken.bias, unbroken.bias)


def test_what_is_kept_is_decided_once() -> None:
    layer = OrthogonalLinear(6, 4, bias=False)
    optimizer = OneSidedShampoo(layer.parameters())
    for scale in (1.0, 1.1):  # further off the manifold than a first step would accept
        with torch.no_grad():
            layer.weight.mul_(scale)
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
    assert optimizer.state[layer.weight]["kept"] is True


def test_no_gradient_no_step_and_zero_gradients_stand_still() -> None:
    layer = OrthogonalLinear(6, 4)
    before = layer.weight.detach().clone()
    optimizer = OneSidedShampoo(layer.parameters())
    optimizer.step()
    assert not optimizer.state
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    assert torch.equal(layer.weight, before)


def test_the_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    layer = OrthogonalLinear(3, 3, bias=False)
    optimizer = OneSidedShampoo(layer.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer.weight.square().sum() * layer.weight[0, 0]
        loss.backward()
        return loss

    before = layer.weight.detach().clone()
    assert isinstance(optimizer.step(closure), Tensor)
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr >= 0"),
        ({"lr": math.nan}, "lr >= 0"),
        ({"other_lr": math.inf}, "other_lr >= 0"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"beta": -0.1}, r"beta in \[0, 1\)"),
        ({"refresh_every": 0}, "refresh_every >= 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OneSidedShampoo([nn.Parameter(torch.zeros(1))], **settings)  # type: ignore[arg-type]
