"""Several values side by side, as one long vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lipcert.certificates.rounding import product_up, root_sum_squares_up, sum_up
from lipcert.certificates.signal import Value


def joined(values: Sequence[Value], join: Callable[[list[Tensor]], Tensor], *origin: object) -> Value:
    """Return the value that an operation such as concatenation makes of values: exact where they share their anchor."""
    if len({id(value.anchor) for value in values}) == 1:
        anchor, exact = values[0].anchor, all(value.exact for value in values)
        index = join([value.index for value in values])
        uniform = {value.scale for value in values if isinstance(value.scale, float)}
        if len(uniform) == 1 and all(isinstance(value.scale, float) for value in values):
            return Value(anchor, index, uniform.pop(), exact)
        scales = [torch.as_tensor(value.scale, dtype=torch.float64).expand(value.shape) for value in values]
        return Value(anchor, index, join(scales), exact)
    shape = join([value.index for value in values]).shape
    return Value.fresh(joint_bound(values), shape, *origin)


def joint_bound(values: Sequence[Value]) -> float:
    r"""Return an upper bound of the Lipschitz constant of all values together, as one long vector.

    Values of one anchor count element by element, the others by the root of the sum of squares. Where values of
    several anchors come from one earlier result, a and b through operations of constants g and h, the same follows from

    .. math:: \|v_1 - v_1'\|^2 + \|v_2 - v_2'\|^2 \le g^2 \|a - a'\|^2 + h^2 \|b - b'\|^2,

    which for a and b without a common element is at most the larger of both.
    """
    bound = _bound_by_anchor(values)
    earlier = _from_common_anchor(values)
    return bound if earlier is None else min(bound, _bound_by_anchor(earlier))


def _bound_by_anchor(values: Sequence[Value]) -> float:
    by_anchor: dict[int, list[Value]] = {}
    for value in values:
        by_anchor.setdefault(id(value.anchor), []).append(value)
    bounds = []
    for group in by_anchor.values():
        flat = group[0] if len(group) == 1 else joined(group, lambda parts: torch.cat([p.flatten() for p in parts]))
        bounds.append(flat.bound)
    return root_sum_squares_up(*bounds)


def _from_common_anchor(values: Sequence[Value]) -> list[Value] | None:
    """What the values come from, scaled by what happened to it since, if that is parts of one anchor."""
    if len({id(value.anchor) for value in values}) == 1:
        return None
    ancestries = [_ancestry(value) for value in values]
    for anchor in ancestries[0]:
        if all(anchor in ancestry for ancestry in ancestries):
            return [ancestry[anchor] for ancestry in ancestries]
    return None


def _ancestry(value: Value) -> dict[int, Value]:
    """By anchor, latest first: earlier results that change at least as much as the value."""
    found: dict[int, Value] = {}
    while True:
        found[id(value.anchor)] = value
        if value.anchor.source is None:
            return found
        source, gain = value.anchor.source
        value = source.scaled(product_up(value.gain, gain))


def side_by_side(values: Sequence[Value]) -> Value | None:
    """Return the values as one long vector, None if they are not parts of one anchor."""
    if len({id(value.anchor) for value in values}) > 1:
        return None
    return joined(values, lambda parts: torch.cat([part.flatten() for part in parts]))


def source_of_sum(first: Value, second: Value, factor: float) -> tuple[Value, float] | None:
    """Return what two values are both functions of, and the constant of their sum, if it is the same elements."""
    earlier = _from_common_anchor([first, second]) or [first, second]
    one, two = earlier
    if one.anchor is not two.anchor or not torch.equal(one.index, two.index):
        return None
    if not (isinstance(one.scale, float) and isinstance(two.scale, float)):
        return None
    return Value(one.anchor, one.index), sum_up(one.scale, product_up(factor, two.scale))
