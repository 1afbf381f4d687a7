"""Reading ``.npz`` files without pickles, and without making room for what they only claim to hold."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from lipcert.data.deflate import check_member


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name; what a member claims to hold is compared with its size first.

    Args:
        path: the file.

    Raises:
        ValueError: a pickled object, or an array that claims another size than its member has.
        Exception: whatever damaged archives make their reader raise.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "x.npz"
        >>> np.savez_compressed(path, labels=np.arange(3, dtype=np.uint8))
        >>> read_npz(path)
        {'labels': array([0, 1, 2], dtype=uint8)}
    """
    found: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            check_member(member, path.stat().st_size)
            if name in found:
                raise ValueError(f"{name} is there twice")
            with archive.open(member) as stream:
                _check_size(stream, member.file_size, name)
            with archive.open(member) as stream:
                found[name] = npy.read_array(stream, allow_pickle=False)
                if stream.read(1):  # which also compares the checksum
                    raise ValueError(f"{name} is followed by something else")
    return found


def _check_size(stream: IO[bytes], size: int, name: str) -> None:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is in format {version}, expected 1.0 or 2.0")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    claimed = stream.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or claimed != size or min(shape, default=0) < 0:
        raise ValueError(f"{name} claims to be {dtype} of shape {shape} in {size} bytes")
