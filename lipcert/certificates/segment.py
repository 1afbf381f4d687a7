"""Linear operations in a row, bounded together by the dense matrix of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.certificates.norms import block_norm_upper_bound, scale_back, scale_to_one
from lipcert.certificates.rounding import gamma, product_up, sum_up
from lipcert.certificates.signal import Anchor, Term, Value

_LARGEST_INPUT = 1024
_LARGEST_MATRIX = 2_000_000
_MULTIPLICATIONS = 1e9

_FACTOR_ROUNDINGS = 8
_AMBIGUOUS_FACTOR_ROUNDINGS = 2**30  # a constant that float32 and float64 read differently, by less than 2^-23


def segment_upper_bound(terms: Sequence[Term], shape: Sequence[int], otherwise: float) -> float:
    r"""Return an upper bound for the sum of linear terms as a function of the network's input.

    The operations back to the last nonlinear one make up one matrix M, computed by feeding the identity. With N
    roundings on the longest path, and :math:`\bar M` from the absolute values of all weights,

    .. math:: \|M\|_2 \le \|\mathrm{fl}(M)\|_2 + \gamma_N \|\bar M\|_F.

    Args:
        terms: what is added up.
        shape: shape of the sum, batch first.
        otherwise: a bound from the operations one by one.

    Returns:
        The lesser bound; ``otherwise`` for a single operation, more than one nonlinear result before it, or too large a
        matrix.
    """
    roots: dict[int, Value | Anchor] = {}
    visited: dict[int, Value] = {}
    for term in terms:
        _collect_roots(term.source, roots, visited)
    root = next(iter(roots.values()), None)
    if len(roots) != 1 or root is None or (len(terms) == 1 and _root_of(terms[0].source) is root):
        return otherwise
    # What underflows at some point is less than 2^-1022 there, and the rest of the way multiplies it by no more than
    # the bound one by one divided by the bound up to there.
    if min(value.bound for value in visited.values()) < 2.0**-800 * root.bound:
        return otherwise
    size, outputs = root.size, math.prod(shape[1:])
    if size > _LARGEST_INPUT or size * outputs > _LARGEST_MATRIX:
        return otherwise
    if size * outputs * max(*(term.roundings for term in terms), min(size, outputs)) > _MULTIPLICATIONS:
        return otherwise
    underflow = product_up(2.0**-100, otherwise)
    together = product_up(root.bound, _matrix_bound(root, terms, outputs))
    return min(otherwise, sum_up(together, underflow))


def _matrix_bound(root: Value | Anchor, terms: Sequence[Term], outputs: int) -> float:
    basis = torch.eye(root.size, dtype=torch.float64)
    matrix, absolute = (
        _Evaluation(root, basis, absolute=flag).total(terms).reshape(-1, outputs) for flag in (False, True)
    )
    if not bool(torch.isfinite(absolute).all()):
        return math.inf
    scaled, exponent = scale_to_one(matrix)
    norm = 0.0 if scaled is None else scale_back(block_norm_upper_bound(scaled[None]), exponent)
    roundings = _roundings(terms, {})
    relative = product_up(gamma(roundings), 1 + 4 * gamma(roundings + matrix.numel()))
    largest, scale = scale_to_one(absolute)
    size = 0.0 if largest is None else scale_back(float(torch.linalg.vector_norm(largest)), scale)
    return sum_up(norm, product_up(relative, size))


def _root_of(value: Value) -> Value | Anchor | None:
    """The nonlinear result that a value is, at most rearranged; None if linear operations made it."""
    if not _is_linear(value):
        return value
    return None if _is_factor(value) or value.anchor.terms else value.anchor


def _is_linear(value: Value) -> bool:
    return (value.exact or _is_factor(value)) and value.treats_samples_alike


def _is_factor(value: Value) -> bool:
    """Whether this is another value times a constant."""
    return value.origin[:1] in (("times",), ("neg",))


def _collect_roots(value: Value, roots: dict[int, Value | Anchor], visited: dict[int, Value]) -> None:
    if id(value) in visited or len(roots) > 1:
        return
    visited[id(value)] = value
    root = _root_of(value)
    if root is not None:
        roots[id(root)] = root
        return
    sources = [value.origin[1]] if _is_factor(value) else [term.source for term in value.anchor.terms]
    for source in sources:
        _collect_roots(source, roots, visited)


def _roundings(terms: Sequence[Term], known: dict[int, int]) -> int:
    return max(_roundings_of(term.source, known) + term.roundings for term in terms) + len(terms) - 1


def _roundings_of(value: Value, known: dict[int, int]) -> int:
    if _root_of(value) is not None:
        return 0
    if id(value) not in known:
        if value.origin[:1] == ("times",):
            own = _FACTOR_ROUNDINGS if value.origin[3] else _AMBIGUOUS_FACTOR_ROUNDINGS
            known[id(value)] = _roundings_of(value.origin[1], known) + own
        elif value.origin[:1] == ("neg",):
            known[id(value)] = _roundings_of(value.origin[1], known)
        else:
            known[id(value)] = _roundings(value.anchor.terms, known)
    return known[id(value)]


class _Evaluation:
    """Linear operations on a batch of vectors, with the weights or with their absolute values."""

    def __init__(self, root: Value | Anchor, basis: Tensor, *, absolute: bool) -> None:
        self.root, self.basis, self.absolute = root, basis, absolute
        self.known: dict[int, Tensor] = {}

    def total(self, terms: Sequence[Term]) -> Tensor:
        """The sum of the terms, for every vector of the basis."""
        parts = [(term.absolute if self.absolute else term.apply)(self.value(term.source)) for term in terms]
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]

    def value(self, value: Value) -> Tensor:
        """A value, for every vector of the basis."""
        if value is self.root:
            return self.basis.reshape(-1, *value.shape[1:])
        if value.origin[:1] == ("times",):
            factor: Tensor = value.origin[2].abs() if self.absolute else value.origin[2]
            return self.value(value.origin[1]).expand(-1, *value.shape[1:]) * factor
        if value.origin[:1] == ("neg",):
            return self.value(value.origin[1]) * (1 if self.absolute else -1)
        flat = self.anchor(value.anchor)
        padded = torch.cat([torch.zeros(len(flat), 1, dtype=torch.float64), flat], dim=1)
        return padded[:, value.index[0].long()]

    def anchor(self, anchor: Anchor) -> Tensor:
        """An anchor ``(B, size)``, for every vector of the basis."""
        if anchor is self.root:
            return self.basis
        if id(anchor) not in self.known:
            self.known[id(anchor)] = self.total(anchor.terms).flatten(1)
        return self.known[id(anchor)]
