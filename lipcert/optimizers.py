"""Optimizers for weights that are kept orthogonal by projection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lipcert.errors import InputError
from lipcert.sharding import whole, write_

_FIRST_REFRESHES = (1, 2, 4, 8)
_NEARLY = 0.01  # largest entry of W Wᵀ - I
_SMALLEST_EIGENVALUE = 1e-6  # of the largest one: directions that no gradient has had yet are not blown up further


class OneSidedShampoo(Optimizer):
    r"""Momentum whose matrices are whitened on their smaller side, for weights that are kept orthogonal.

    For an orthonormal weight W of m rows and at least as many columns, with gradient G,

    .. math::
        T_t &= G_t - \tfrac12 (G_t W^\top + W G_t^\top) W \\
        M_t &= \mu M_{t-1} + T_t, \qquad C_t = \beta C_{t-1} + (1 - \beta)\, T_t T_t^\top \\
        D_t &= (C_t + \epsilon I)^{-1/2} (T_t + \mu M_t), \qquad
        W \leftarrow W - \eta \sqrt{m}\, D_t / \|D_t\|_F

    and the same on columns where there are more rows. T is the part of the gradient along the manifold. A step turns
    the
    weight by a root mean square angle of :math:`\eta`, whatever the scale of the loss: 0.02 is a good largest one. What
    it does *not* do is to keep W orthonormal: that is left to the retraction, see :func:`lipcert.layers.retract_`.

    A parameter with at least two dimensions is such a matrix ``(O, I k1 k2)`` if it is orthonormal when it is first
    stepped. All others, biases among them, follow plain stochastic gradient descent with Nesterov momentum and the
    learning rate ``lr * other_lr``.

    A step costs about 9 m m n floating-point operations a matrix, against 6 m n a sample of the passes: let batches be
    as large as the layers are wide. It keeps one number a weight, and two a pair of rows.

    Args:
        params: parameters or groups of them, as for every optimizer of torch.
        lr: :math:`\eta`, in radians.
        momentum: :math:`\mu`, in [0, 1).
        beta: decay of the covariance, in [0, 1).
        refresh_every: steps between two computations of the inverse root, an eigendecomposition in the weight's type.
        other_lr: learning rate of the parameters that are no orthonormal matrices, over ``lr``.

    Raises:
        InputError: a setting is out of range.

    Source: Gupta, Koren & Singer (2018), arXiv 1802.09568, with the one-sided preconditioner of An et al. (2025), arXiv
        2503.20762; the scale of a step and the projection of gradients are made for the Stiefel manifold here.

    Example:
        >>> from lipcert.layers import OrthogonalLinear, retract_
        >>> layer, target = OrthogonalLinear(2, 2, bias=False), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> _ = layer.weight.data.copy_(torch.eye(2))
        >>> optimizer = OneSidedShampoo(layer.parameters(), lr=0.1)
        >>> for step in range(100):
        ...     optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 100)
        ...     ((layer.weight - target) ** 2).sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     retract_(layer)
        >>> bool((layer.weight - target).abs().max() < 0.01)
        True
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        *,
        momentum: float = 0.9,
        beta: float = 0.95,
        refresh_every: int = 10,
        other_lr: float = 5.0,
    ) -> None:
        for name, value in (("lr", lr), ("other_lr", other_lr)):
            if not 0 <= value < math.inf:
                raise InputError(f"expected a finite {name} >= 0, got {value}")
        for name, value in (("momentum", momentum), ("beta", beta)):
            if not 0 <= value < 1:
                raise InputError(f"expected {name} in [0, 1), got {value}")
        if refresh_every < 1:
            raise InputError(f"expected refresh_every >= 1, got {refresh_every}")
        settings = {"momentum": momentum, "beta": beta, "refresh_every": refresh_every, "other_lr": other_lr}
        super().__init__(params, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; see :class:`OneSidedShampoo`.

        Args:
            closure: computes the gradients anew and returns the loss.

        Returns:
            What the closure returned, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            # Plain numbers, which a checkpoint keeps as they are: a resumed run must not decide anew.
            state.update(step=0, kept=_nearly_orthonormal(whole(parameter)), momentum=torch.zeros_like(parameter))
        state["step"] += 1
        if not state["kept"]:
            momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
            parameter.sub_(gradient + group["momentum"] * momentum, alpha=group["lr"] * group["other_lr"])
            return
        wide = _is_wide(parameter)
        kept = (parameter, state["momentum"])
        moved = [whole(tensor) for tensor in kept]  # they themselves, unless they are split over processes
        weight, momentum = (_as_matrix(tensor, wide) for tensor in moved)
        tangent = _tangent(weight, _as_matrix(whole(gradient), wide))
        momentum.mul_(group["momentum"]).add_(tangent)
        direction = _whitener(state, tangent, group) @ (tangent + group["momentum"] * momentum)
        length = direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)
        weight.sub_(direction * (math.sqrt(len(direction)) / length), alpha=group["lr"])
        for tensor, value in zip(kept, moved, strict=True):
            if value is not tensor:
                write_(tensor, value)


def _whitener(state: dict[str, Any], tangent: Tensor, group: dict[str, Any]) -> Tensor:
    """Take a gradient ``(m, n)`` into the covariance; return its inverse root ``(m, m)`` as it was last refreshed."""
    step, beta = state["step"], group["beta"]
    if step == 1:
        state["covariance"] = tangent.new_zeros(len(tangent), len(tangent))
    # a checkpoint splits what has the shape of a split parameter, as this has where that is square
    covariance: Tensor = whole(state["covariance"])
    state["covariance"] = covariance
    covariance.mul_(beta).addmm_(tangent, tangent.mT, alpha=1 - beta)
    if step % group["refresh_every"] == 0 or step in _FIRST_REFRESHES:
        values, vectors = torch.linalg.eigh(covariance)
        floor = values[-1:].clamp_min(torch.finfo(values.dtype).tiny) * _SMALLEST_EIGENVALUE
        state["whitener"] = (vectors * (values.clamp_min(0) + floor).rsqrt()) @ vectors.mT
    whitener: Tensor = whole(state["whitener"])
    return whitener


def _tangent(weight: Tensor, gradient: Tensor) -> Tensor:
    """The part of a gradient along the manifold of orthonormal rows, at a weight that is near it."""
    mixed = gradient @ weight.mT
    return torch.addmm(gradient, mixed + mixed.mT, weight, alpha=-0.5)


def _is_wide(parameter: Tensor) -> bool:
    return parameter.shape[0] <= math.prod(parameter.shape[1:])


def _as_matrix(tensor: Tensor, wide: bool) -> Tensor:
    """A view ``(m, n)`` with no more rows than columns."""
    matrix = tensor.view(tensor.shape[0], -1)
    return matrix if wide else matrix.mT


def _nearly_orthonormal(parameter: Tensor) -> bool:
    if parameter.ndim < 2:
        return False
    matrix = _as_matrix(parameter, _is_wide(parameter))
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return bool((matrix @ matrix.mT - identity).abs().max() < _NEARLY)
