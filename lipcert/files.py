"""Writing files so that a full disk or a kill leaves the last good one intact."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, payload: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write ``payload`` beside ``path``, flush it to disk, and move it into place in one step.

    Args:
        path: destination; its folder is created.
        payload: the file's bytes.
        check: called with the finished temporary file; what it raises keeps the old file in place.

    Raises:
        OSError: the file system refused; nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
