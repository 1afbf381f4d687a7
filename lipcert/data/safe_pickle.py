"""Reading pickled dictionaries of plain values and byte arrays without running what a pickle says."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIZED = {"FRAME", "PUT", "BINPUT", "LONG_BINPUT"}  # frames, and places in the memo; genops checks other lengths itself


class _Array:
    """Keeps the state that a pickle gives an array, and does nothing with it."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Type:
    """Keeps the code that a pickle gives a data type."""

    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, _: Any) -> None:
        """Byte order and alignment; a byte has neither."""


class _StandIn:
    """What a pickle gets in place of a function or class of numpy: it cannot be changed and calls nothing."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> _Array | _Type:
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "dtype" and arguments:
            return _Type(arguments[0])
        raise pickle.UnpicklingError(f"calls {self._name}")

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError(f"changes {self._name}")


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the three names that make up a pickled array, by stand-ins, and no other."""

    _KNOWN = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return _StandIn(name)


def load_byte_arrays(content: bytes) -> dict[Any, Any]:
    """Unpickle a dictionary whose values are plain Python values or numpy arrays of unsigned bytes.

    No name is imported and no code of the pickle's choosing is called: the names of numpy that an array consists of are
    replaced by inert stand-ins, and any other name is refused.

    Args:
        content: the pickle; Python 2 strings become bytes.

    Returns:
        The dictionary, with arrays as uint8.

    Raises:
        pickle.UnpicklingError: the pickle is damaged, holds something else, or asks for anything else.

    Example:
        >>> import numpy, pickle
        >>> load_byte_arrays(pickle.dumps({b"data": numpy.array([1, 2], numpy.uint8)}))
        {b'data': array([1, 2], dtype=uint8)}
    """
    try:
        _check_sizes(content)
        loaded = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # damaged pickles raise anything: the instructions are carried out as they come
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None
    if type(loaded) is not dict:
        raise pickle.UnpicklingError(f"holds a {type(loaded).__name__} instead of a dictionary")
    return {key: _array(value) if isinstance(value, _Array) else value for key, value in loaded.items()}


def _check_sizes(content: bytes) -> None:
    """Refuse a pickle whose instructions name sizes beyond its own, for which the unpickler would make room first."""
    for instruction, argument, _ in pickletools.genops(content):
        if instruction.name in _SIZED and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"claims a size of {argument} in {len(content)} bytes")


def _array(value: _Array) -> NDArray[np.uint8]:
    try:
        _, shape, kind, fortran, content = value.state
        code, size = kind.code, math.prod(shape)
    except (AttributeError, TypeError, ValueError):
        raise pickle.UnpicklingError("holds an incomplete array") from None
    if code not in ("u1", b"u1") or not isinstance(content, bytes) or len(content) != size:
        raise pickle.UnpicklingError("holds an array that is not of unsigned bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
