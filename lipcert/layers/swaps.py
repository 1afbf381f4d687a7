"""Conditional exchange of two tensors by their bits: exact for every value, and as fast as memory on any device."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_bits(tensor: Tensor) -> Tensor:
    """Return floating-point numbers as integers of the same size, in the same memory.

    Example:
        >>> as_bits(torch.tensor([0.0, -0.0])).tolist()
        [0, -2147483648]
    """
    return tensor.view(_BITS[tensor.dtype.itemsize])


def bits_where_less(first: Tensor, second: Tensor) -> Tensor:
    """Return integers whose bits are all set where ``first`` is less than ``second``, and none elsewhere.

    It is the sign of the difference, which gradual underflow keeps from vanishing: -0 is less than 0 here, and where
    the difference is not a number either answer may come.

    Args:
        first: floating-point numbers of 2, 4 or 8 bytes.
        second: as many of the same type.

    Example:
        >>> bits_where_less(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])).tolist()
        [-1, 0]
    """
    difference = as_bits(torch.sub(first, second))
    return difference.bitwise_right_shift_(8 * difference.dtype.itemsize - 1)


def swap_into(first: Tensor, second: Tensor, mask: Tensor, out: tuple[Tensor, Tensor]) -> None:
    """Write two tensors to ``out``, exchanged where ``mask`` is set: no arithmetic, so that NaN and infinity stay put.

    Args:
        first: of the type that the mask was made of.
        second: likewise.
        mask: from :func:`bits_where_less`.
        out: where ``first`` and ``second`` go; not their own memory.
    """
    one, two = as_bits(first), as_bits(second)
    changed = torch.bitwise_xor(one, two).bitwise_and_(mask)
    torch.bitwise_xor(one, changed, out=as_bits(out[0]))
    torch.bitwise_xor(two, changed, out=as_bits(out[1]))
