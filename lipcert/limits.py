"""Keeping what a small file says from filling the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lipcert.errors import InputError

FACTOR = 256  # constraints are computed in several tensors of the size of their weight, or of its spectrum
SMALL = 1 << 22  # numbers that any network may take: grids, identities, masks
OPERATIONS = 1 << 18  # a network has so many only if its depth was made up


class _Sized(TorchDispatchMode):
    """Refuses operations whose result would be larger than a limit, before they are carried out where sizes say so."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._limit, self._what, self._left = limit, what, OPERATIONS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._left -= 1
        sizes = [
            math.prod(each) for each in args if isinstance(each, list | tuple) and all(type(n) is int for n in each)
        ]
        if self._left < 0 or max(sizes, default=0) > self._limit:
            self._refuse()
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, list | tuple) else (found,):
            if isinstance(tensor, Tensor) and tensor.numel() > self._limit:
                self._refuse()
        return found

    def _refuse(self) -> None:
        raise InputError(f"expected a network of about the size of {self._what}, got the recipe of a far larger one")


@contextmanager
def no_larger_than(numbers: int, *, what: str) -> Iterator[None]:
    """Let no tensor be made that is far larger than all that a file holds.

    Args:
        numbers: how many numbers that is.
        what: its name in a complaint.

    Raises:
        InputError: one would be.

    Example:
        >>> import torch
        >>> with no_larger_than(10, what="the file"):
        ...     torch.nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        lipcert.errors.InputError: expected a network of about the size of the file, got the recipe of a far larger one
    """
    with _Sized(FACTOR * numbers + SMALL, what):
        yield
