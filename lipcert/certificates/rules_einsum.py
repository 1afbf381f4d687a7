"""Products with constant tensors: matrices, batches of matrices, any Einstein sum of one tensor and one constant."""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipcert.certificates.call import Call
from lipcert.certificates.norms import block_norm_upper_bound, scale_back, scale_to_one
from lipcert.certificates.rounding import product_up, sqrt_up
from lipcert.certificates.rules_linear import CHOLESKY
from lipcert.certificates.signal import BATCH, Signal, Term, Value


def matmul(call: Call) -> Signal:
    """Products with a constant vector, matrix or batch of matrices, on either side."""
    given = call.bind("input", "other")
    if call.name == "rmatmul":
        given = {"input": given["other"], "other": given["input"]}
    left, right = given["input"], given["other"]
    signal, other = (left, right) if isinstance(left, Signal) else (right, left)
    value, fixed = call.value(signal), call.constant(other)
    if fixed.ndim > len(value.shape) or fixed.ndim < 1:
        call.refuse("expected a product that keeps the samples of a batch apart")
    fixed = _without_batch(call, fixed, value)
    letters = list(string.ascii_uppercase[: len(value.shape)])
    side, inner = (-1, fixed.ndim - 2) if signal is left else (-2, fixed.ndim - 1)
    if -side >= len(value.shape):
        call.refuse("expected a product that keeps the samples of a batch apart")
    call.fits(value.shape[side], fixed.shape[max(inner, 0)])
    letters[side] = "z"
    leading = letters[-fixed.ndim : -2] if fixed.ndim > 2 else []
    fresh = ["y"] if fixed.ndim > 1 else []
    output = list(letters)
    output[len(letters) + side : len(letters) + side + 1] = fresh
    constant = [*leading, *(("z", *fresh) if signal is left else (*fresh, "z"))]
    return _product(call, value, fixed, letters, constant, output)


def _without_batch(call: Call, fixed: Tensor, value: Value) -> Tensor:
    """A constant with one slice for each sample: all have to be the same."""
    if fixed.ndim != len(value.shape) or fixed.ndim < 3:
        return fixed
    if len(fixed) not in (1, BATCH) or not bool((fixed == fixed[:1]).all()):
        call.refuse("expected the same constant for all samples")
    return fixed[0]


def einsum(call: Call) -> Signal:
    """``einsum`` of one tensor, or of one tensor and one constant."""
    equation, *operands = call.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    signals = [item for item in operands if isinstance(item, Signal)]
    if not isinstance(equation, str) or "->" not in equation or len(signals) != 1 or len(operands) > 2 or call.kwargs:
        call.refuse("expected an equation with an arrow, of one tensor and at most one constant")
    value = call.value(signals[0])
    fixed = [call.constant(item) for item in operands if item is not signals[0]]
    ranks = [len(value.shape) if item is signals[0] else item.ndim for item in operands]
    *terms, output = _spelled_out(call, equation, ranks)
    at = next(place for place, item in enumerate(operands) if item is signals[0])
    if not fixed:
        fixed, terms = [torch.ones((), dtype=torch.float64)], [*terms, []]
    return _product(call, value, fixed[0], terms[at], terms[1 - at], output)


def _spelled_out(call: Call, equation: str, ranks: Sequence[int]) -> list[list[str]]:
    """The letters of each operand and of the result, with letters in place of an ellipsis."""
    left, _, right = equation.replace(" ", "").partition("->")
    parts = [*left.split(","), right]
    spare = [letter for letter in string.ascii_letters if letter not in equation][:8]
    spelled = []
    for part, rank in zip(parts, [*ranks, None], strict=False):
        letters = list(part.replace("...", ""))
        if "..." in part:
            widest = max(n - len(p.replace("...", "")) for p, n in zip(parts[:-1], ranks, strict=True) if "..." in p)
            count = widest if rank is None else rank - len(letters)
            at = part.index("...")
            letters[at:at] = spare[len(spare) - count :]
        spelled.append(letters)
    if len(parts) != len(ranks) + 1 or any(len(own) != n for own, n in zip(spelled, ranks, strict=False)):
        call.refuse(f"expected operands that fit {equation!r}")
    return spelled


def tensordot(call: Call) -> Signal:
    """``tensordot`` with a constant."""
    given = call.bind("a", "b", dims=2, out=None)
    first, second, dims = given["a"], given["b"], given["dims"]
    if isinstance(dims, int):
        dims = (list(range(first.ndim - dims, first.ndim)), list(range(dims)))
    if not (isinstance(dims, list | tuple) and len(dims) == 2):
        call.refuse("expected dims as a number or two lists")
    one, two = list(string.ascii_uppercase[: first.ndim]), list(string.ascii_lowercase[: second.ndim])
    pairs = [(one[i], two[j]) for i, j in zip(*map(_listed, dims), strict=True)]
    output = [letter for letter in (*one, *two) if letter not in {letter for pair in pairs for letter in pair}]
    names = {b: a for a, b in pairs}
    two = [names.get(letter, letter) for letter in two]
    if isinstance(first, Signal):
        return _product(call, call.value(first), call.constant(second), one, two, output)
    return _product(call, call.value(second), call.constant(first), two, one, output)


def _listed(dims: Any) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims)


def inner(call: Call) -> Signal:
    """``inner`` with a constant: sums over the last dimension of both."""
    given = call.bind("input", "other")
    first, second = given["input"], given["other"]
    one = [*string.ascii_uppercase[: first.ndim - 1], "z"]
    two = [*string.ascii_lowercase[: second.ndim - 1], "z"]
    output = [*one[:-1], *two[:-1]]
    if isinstance(first, Signal):
        return _product(call, call.value(first), call.constant(second), one, two, output)
    return _product(call, call.value(second), call.constant(first), two, one, output)


def _product(
    call: Call, value: Value, fixed: Tensor, varying: Sequence[str], constant: Sequence[str], output: Sequence[str]
) -> Signal:
    r"""The Einstein sum of a value and a constant, as a block-diagonal matrix.

    Letters in both and the result number the blocks, letters in both and not in the result are summed over, letters of
    the constant alone are new dimensions, those of the value alone stay or are summed up: a factor of
    :math:`\sqrt n`.
    """
    for axis in [at for at, size in enumerate(fixed.shape) if size == 1]:  # a size of 1 may stand for any other
        constant = [*constant[:axis], "", *constant[axis + 1 :]]
    kept = [letter for letter in constant if letter]
    fixed = fixed.reshape([size for size, letter in zip(fixed.shape, constant, strict=True) if letter])
    sizes = {**dict(zip(kept, fixed.shape, strict=True))}
    _check(call, value, varying, kept, output, sizes)
    sizes |= dict(zip(varying, value.shape, strict=True))
    blocks = [letter for letter in kept if letter in varying and letter in output]
    rows = [letter for letter in kept if letter not in varying]
    columns = [letter for letter in kept if letter in varying and letter not in output]
    order = [kept.index(letter) for letter in (*blocks, *rows, *columns)]
    matrices = fixed.permute(order).reshape([math.prod(sizes[x] for x in part) for part in (blocks, rows, columns)])
    summed = [letter for letter in varying if letter not in kept and letter not in output]
    count = math.prod(sizes[letter] for letter in summed)
    gain = product_up(_largest_norm(matrices), sqrt_up(float(count)))
    equation = f"{''.join(varying)},{''.join(kept)}->{''.join(x for x in output if x in sizes)}"
    shape = [sizes.get(letter, 1) for letter in output]
    apply, absolute = (functools.partial(_apply, equation, shape, weight) for weight in (fixed, fixed.abs()))
    terms = (Term(value, apply, absolute, count * matrices.shape[2] + 1),)
    origin = ("linear", value, fixed.T if rows == kept[1:] else fixed) if _is_head(value, fixed, blocks, summed) else ()
    return call.fresh(value, gain, shape, CHOLESKY, *origin, terms=terms)


def _is_head(value: Value, fixed: Tensor, blocks: Sequence[str], summed: Sequence[str]) -> bool:
    return len(value.shape) == 2 and fixed.ndim == 2 and not blocks and not summed


def _apply(equation: str, shape: Sequence[int], weight: Tensor, inputs: Tensor) -> Tensor:
    return torch.einsum(equation, inputs, weight).reshape(-1, *shape[1:])


def _largest_norm(matrices: Tensor) -> float:
    scaled, exponent = scale_to_one(matrices)
    return 0.0 if scaled is None else scale_back(block_norm_upper_bound(scaled), exponent)


def _check(
    call: Call, value: Value, varying: Sequence[str], kept: Sequence[str], output: Sequence[str], sizes: dict[str, int]
) -> None:
    """Refuse sums that mix samples, diagonals, sizes that do not fit and sums over the constant alone."""
    if not varying or not output or varying[0] != output[0] or varying[0] in kept:
        call.refuse("expected a product that keeps the samples of a batch apart, along the first dimension")
    repeated = any(len(set(letters)) != len(letters) for letters in (varying, kept, output))
    if repeated or len(varying) != len(value.shape):
        call.refuse("expected no letter twice in an operand")
    if any(letter not in output and letter not in varying for letter in kept):
        call.refuse("expected a constant that is not summed up by itself")
    for letter, size in zip(varying, value.shape, strict=True):
        call.fits(size, sizes.get(letter, size))
