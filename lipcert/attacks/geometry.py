"""Norms, balls and planes, one problem a row: what attacks need to stay within budgets and bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.attacks.task import Norm

DUAL: dict[Norm, Norm] = {"l1": "linf", "l2": "l2", "linf": "l1"}

NEWTON = 50  # cap on the steps towards a plane; about five are taken


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return one number a row ``(N,)`` in a shape that multiplies rows ``(N, ...)``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def lengths(changes: Tensor, norm: Norm) -> Tensor:
    """Return the norms ``(N,)`` of changes ``(N, ...)``, as their own type computes them.

    Example:
        >>> [lengths(torch.tensor([[3.0, -4.0]]), norm).item() for norm in ("l1", "l2", "linf")]
        [7.0, 5.0, 4.0]
    """
    order = {"l1": 1.0, "l2": 2.0, "linf": math.inf}[norm]
    norms: Tensor = torch.linalg.vector_norm(changes.flatten(1), order, dim=1)
    return norms


def steepest(gradients: Tensor, norm: Norm) -> Tensor:
    """Return the changes ``(N, ...)`` of length 1 that raise a linear function most; 0 where its gradient is.

    Of several in L1, the one that moves the first of the steepest coordinates.

    Example:
        >>> steepest(torch.tensor([[3.0, -4.0], [0.0, 0.0]]), "l1").tolist()
        [[0.0, -1.0], [0.0, 0.0]]
    """
    if norm == "linf":
        return gradients.sign()
    rows = gradients.flatten(1)
    if norm == "l2":
        size = lengths(rows, "linf").clamp_min(torch.finfo(rows.dtype).tiny)[:, None]  # squares must not underflow
        directions = rows / size
        directions = directions / lengths(directions, "l2").clamp_min(0.5)[:, None]
    else:
        place = rows.abs().argmax(1, keepdim=True)
        directions = torch.zeros_like(rows).scatter(1, place, rows.gather(1, place).sign())
    return directions.view_as(gradients)


def into_ball(changes: Tensor, sizes: Tensor | float, norm: Norm) -> Tensor:
    r"""Return the points of the balls :math:`\|\delta\| \le s` that are nearest, in L2, to changes.

    Args:
        changes: ``(N, ...)``.
        sizes: ``(N,)`` or one for all, at least 0.
        norm: of the ball.

    Returns:
        ``(N, ...)``.

    Source: for L1, Duchi et al. (2008), Efficient projections onto the l1-ball, figure 1.

    Example:
        >>> into_ball(torch.tensor([[3.0, 1.0]]), torch.tensor([2.0]), "l1").tolist()
        [[2.0, 0.0]]
    """
    limit = column(torch.as_tensor(sizes).to(changes).expand(len(changes)), changes)
    if norm == "linf":
        return changes.clamp(-limit, limit)
    if norm == "l2":
        return changes * (limit / column(lengths(changes, "l2"), changes)).clamp(max=1).nan_to_num(1.0)
    rows, limit = changes.flatten(1).double(), limit.double().view(-1, 1)  # long sums of numbers of any size
    ordered = rows.abs().sort(1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=rows.dtype)
    thresholds = (ordered.cumsum(1) - limit) / counts
    last = (ordered > thresholds).sum(1, keepdim=True).clamp_min(1) - 1
    threshold = thresholds.gather(1, last).clamp_min(0)
    return (rows.sign() * (rows.abs() - threshold).clamp_min(0)).to(changes).view_as(changes)


def safe_size(epsilon: float, inputs: Tensor, bounds: tuple[float, float], norm: Norm) -> float:
    """Return a budget, a little below ``epsilon``, that what is rounded to the inputs' type certainly keeps to.

    A pixel is off by at most half a unit in the last place of the largest value; a length by a relative error that is
    far below the 1e-6 (1e-14 in float64) that are taken off. 0 if nothing is left.

    Example:
        >>> 0.09999 < safe_size(0.1, torch.zeros(1, 3, 32, 32), (0.0, 1.0), "linf") < 0.1
        True
    """
    unit, pixels = torch.finfo(inputs.dtype).eps, inputs[0].numel()
    roundings = {"l1": pixels, "l2": math.sqrt(pixels), "linf": 1.0}[norm]
    return max(0.0, epsilon * (1 - 16 * unit) - unit * max(map(abs, bounds)) * roundings)


def onto_plane(
    inputs: Tensor, normals: Tensor, levels: Tensor, bounds: tuple[float, float], norm: Norm = "l2"
) -> Tensor:
    r"""Return the points of a box that are nearest to inputs among those on or beyond a plane.

    .. math:: \min_z \|z - x\| \quad \text{such that} \quad \langle g, z \rangle \le c, \quad l \le z \le h

    In L2 and Linf the answer is :math:`z(\lambda) = \mathrm{clip}(x - \lambda v)` with v the gradient or its signs, and
    :math:`\langle g, z(\lambda) \rangle` is convex, decreasing and piecewise linear in :math:`\lambda`: Newton's method
    from 0 climbs to the multiplier in finitely many steps. In L1 pixels are moved one after the other, the steepest
    first. Where the box does not reach the plane, its corner nearest to the plane is returned.

    Args:
        inputs: ``(N, D)`` within the bounds.
        normals: ``(N, D)``, the g.
        levels: ``(N,)``, the c.
        bounds: l and h.
        norm: in which to be near.

    Returns:
        ``(N, D)`` within the bounds.

    Source: Croce and Hein (2020), arXiv 1907.02044, section 3 and appendix A, where the multiplier is found by sorting.

    Example:
        >>> x, g = torch.tensor([[0.5, 0.125]]), torch.tensor([[1.0, 1.0]])
        >>> [onto_plane(x, g, torch.tensor([c]), (0.0, 1.0)).tolist() for c in (0.75, 0.25)]
        [[[0.5, 0.125]], [[0.25, 0.0]]]
    """
    low, high = bounds
    if norm == "l1":
        return _onto_plane_l1(inputs, normals, levels, bounds)
    directions = normals if norm == "l2" else normals.sign()
    slopes = normals * directions
    rounding = torch.finfo(normals.dtype).eps * max(abs(low), abs(high)) * normals.abs().sum(1)
    multiplier = torch.zeros_like(levels)
    points = inputs
    for _ in range(NEWTON):
        above = (normals * points).sum(1) - levels
        free = (slopes * ((points > low) | (normals < 0)) * ((points < high) | (normals > 0))).sum(1)
        short = (above > rounding) & (free > 0)
        if not short.any():
            break
        multiplier = torch.where(short, multiplier + above / free, multiplier)
        points = (inputs - multiplier[:, None] * directions).clamp(low, high)
    return points


def _onto_plane_l1(inputs: Tensor, normals: Tensor, levels: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    room = torch.where(normals > 0, low - inputs, high - inputs)  # the whole way to the bound that helps
    order = normals.abs().sort(dim=1, descending=True, stable=True).indices
    gains = (room * normals).gather(1, order)  # at most 0
    missing = (levels - (normals * inputs).sum(1))[:, None]
    before = gains.cumsum(1) - gains
    # of every pixel, the share of its way that is still missing when its turn comes
    shares = ((missing - before) / gains).nan_to_num(0.0).clamp(0, 1)
    shares = torch.where(before > missing, shares, 0.0)
    return (inputs + room * torch.zeros_like(shares).scatter(1, order, shares)).clamp(low, high)
