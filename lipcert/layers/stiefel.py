"""Weights on the Stiefel manifold, kept there by a cheap step outside the graph, for any optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from lipcert.errors import InputError
from lipcert.layers.polar import is_orthonormal, newton_schulz, polar_factor
from lipcert.sharding import is_split, whole, write_

KEPT = ("projection", "rko", "aoc")
"""Constraints whose weights are kept orthonormal from outside: a layer says so by its attribute ``constraint``."""

_LARGEST_STACKED = 2**18


def kept_weights(module: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Return the weights that are kept on the Stiefel manifold, each once, with its number of groups.

    A weight ``(O, I / groups, ...)`` stands for ``groups`` matrices ``(O / groups, I / groups * ...)``, which have
    orthonormal rows, or columns if there are more rows.

    Args:
        module: any module; layers in it are found by ``layer.constraint in KEPT``.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> layer.constraint = "projection"
        >>> [tuple(weight.shape) for weight, _ in kept_weights(nn.Sequential(layer, nn.ReLU(), layer))]
        [(2, 3)]
    """
    found: dict[int, tuple[nn.Parameter, int]] = {}
    for layer in module.modules():
        if getattr(layer, "constraint", None) in KEPT:
            for raw in _raw_weights(layer):
                found.setdefault(id(raw), (raw, int(getattr(layer, "groups", 1))))
    return list(found.values())


def retract_(module: nn.Module) -> None:
    r"""Pull every kept weight back towards its manifold, in place, by one Newton-Schulz step.

    .. math:: W \leftarrow W \left(\tfrac32 I - \tfrac12 W^\top W\right)

    on the smaller side. A singular value :math:`1 + \delta` becomes :math:`1 - \tfrac32 \delta^2 + O(\delta^3)`.
    Weights that drifted far are scaled down first, so that repeated steps converge from any finite weight of full rank.
    Nothing waits for the device. Certificates need none of this: bounds come from the exported weights.

    Args:
        module: see :func:`kept_weights`.

    Source: Björck & Bowie (1971), SIAM J. Numer. Anal. 8; Higham (2008), Functions of Matrices, section 8.3.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.constraint = "projection"
        >>> _ = nn.init.eye_(layer.weight).data.mul_(1.1)
        >>> retract_(layer)
        >>> round(layer.weight[0, 0].item(), 4)
        0.9845
    """
    with torch.no_grad():
        for weights, groups in _batches(module):
            with torch.autocast(weights[0].device.type, enabled=False):
                stacked = torch.cat([_matrices(weight, groups) for weight in weights])
                moved = newton_schulz(stacked if stacked.dtype.itemsize > 2 else stacked.float())
                parts = [part.reshape(weights[0].shape) for part in moved.split(groups)]
                if not any(map(is_split, weights)):
                    torch._foreach_copy_(weights, parts)
                    continue
                for weight, part in zip(weights, parts, strict=True):
                    write_(weight, part)


def project_(module: nn.Module) -> None:
    r"""Replace every kept weight, in place, by the nearest matrix with orthonormal rows or columns.

    .. math:: W = U \Sigma V^\top \;\to\; U V^\top

    computed in float64 to convergence, then rounded to the weight's type. A weight of deficient rank gets some nearest
    matrix, a weight of zeros too; one that is not finite stays as it is. The same bits give the same bits, and a second
    projection changes none.

    Args:
        module: see :func:`kept_weights`.

    Source: Higham (2008), Functions of Matrices, theorem 8.4.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.constraint = "projection"
        >>> _ = nn.init.eye_(layer.weight).data.mul_(1.1)
        >>> project_(layer)
        >>> layer.weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    with torch.no_grad():
        for weight, groups in kept_weights(module):
            matrices = _matrices(weight, groups)
            if bool(torch.isfinite(matrices).all()):
                nearest = [matrix.double() if is_orthonormal(matrix) else polar_factor(matrix) for matrix in matrices]
                write_(weight, torch.stack(nearest).reshape(weight.shape))


def project_gradients_(module: nn.Module) -> None:
    r"""Remove from the gradient of every kept weight what would leave the manifold, in place.

    .. math:: G \leftarrow G - W \,\tfrac12 (W^\top G + G^\top W)

    on the smaller side, exact for orthonormal W.

    Args:
        module: see :func:`kept_weights`; weights without a gradient are left out.

    Source: Edelman, Arias & Smith (1998), SIAM J. Matrix Anal. Appl. 20, section 2.
    """
    with torch.no_grad():
        for weight, groups in kept_weights(module):
            if weight.grad is None:
                continue
            matrices, gradients = _matrices(weight, groups), _matrices(weight.grad, groups)
            wide = matrices.shape[1] < matrices.shape[2]
            tall, normal = (matrices.mT, gradients.mT) if wide else (matrices, gradients)
            mixed = tall.mT @ normal
            across = tall @ (0.5 * (mixed + mixed.mT))
            write_(weight.grad, (gradients - (across.mT if wide else across)).reshape(weight.shape))


class OrthogonalityHandle:
    """What :func:`keep_orthogonal` returns: it can be undone, saved and restored.

    Attributes:
        steps: optimizer steps so far.
        every: steps between retractions.
    """

    def __init__(self, optimizer: Optimizer, module: nn.Module, *, every: int, tangent: bool) -> None:
        self.steps, self.every, self._module = 0, every, module
        self._hooks = [optimizer.register_step_post_hook(self._after)]
        if tangent:
            self._hooks.append(optimizer.register_step_pre_hook(self._before))

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, int]:
        """Return the number of steps so far."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved number of steps."""
        self.steps = int(state["steps"])

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            project_gradients_(self._module)
            return None

        def closure_of_projected_gradients() -> Any:
            loss = closure()
            project_gradients_(self._module)
            return loss

        if len(args) > 1:
            return (args[0], closure_of_projected_gradients, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_of_projected_gradients}

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            retract_(self._module)


def keep_orthogonal(
    optimizer: Optimizer, module: nn.Module, *, every: int = 8, tangent: bool = False
) -> OrthogonalityHandle:
    """Let an optimizer keep the weights of a module on their manifold: one :func:`retract_` in so many steps.

    Between retractions the weights drift off by as much as the optimizer moves them; call :func:`project_` before the
    network is exported. The step costs 4 m n min(m, n) floating-point operations a matrix, against 6 m n a sample of
    the forward and backward pass.

    Args:
        optimizer: any; its state is not touched.
        module: see :func:`kept_weights`.
        every: steps between retractions.
        tangent: also apply :func:`project_gradients_` before each step.

    Returns:
        A handle with ``remove()``, ``state_dict()`` and ``load_state_dict()``.

    Raises:
        InputError: ``every`` below 1, or no weight in ``module`` is kept by projection.

    Example:
        >>> from lipcert.layers import OrthogonalLinear
        >>> layer = OrthogonalLinear(4, 4)
        >>> handle = keep_orthogonal(torch.optim.SGD(layer.parameters()), layer, every=4)
        >>> handle.state_dict()
        {'steps': 0}
    """
    if every < 1:
        raise InputError(f"expected every >= 1, got {every}")
    if not kept_weights(module):
        raise InputError(f"expected a layer whose constraint is one of {', '.join(KEPT)}, found none")
    return OrthogonalityHandle(optimizer, module, every=every, tangent=tangent)


def _raw_weights(layer: Any) -> list[nn.Parameter]:
    if parametrize.is_parametrized(layer, "weight"):
        return list(layer.parametrizations.weight.parameters())
    return [layer.weight]


def _matrices(tensor: Tensor, groups: int) -> Tensor:
    """The matrices ``(groups, m, n)`` of a weight, whole ones also where it is split, in its memory or not."""
    return whole(tensor.detach()).reshape(groups, tensor.shape[0] // groups, -1)


def _batches(module: nn.Module) -> Iterator[tuple[list[Tensor], int]]:
    """The kept weights and their number of groups: small ones of equal shape together, large ones alone."""
    alike: dict[Any, list[Tensor]] = {}
    for weight, groups in kept_weights(module):
        if weight.numel() > _LARGEST_STACKED * groups:
            yield [weight], groups
        else:
            alike.setdefault((groups, weight.shape, weight.dtype, weight.device), []).append(weight)
    yield from ((weights, key[0]) for key, weights in alike.items())
