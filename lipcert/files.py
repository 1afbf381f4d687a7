"""Writing files so that a full disk or a kill leaves the last good one intact."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def write_json(path: Path, document: Any, *, allow_nan: bool = False) -> None:
    """Write a document for people and programs to read, in one step, see :func:`write_atomically`.

    Args:
        path: destination; its folder is created.
        document: what JSON can hold.
        allow_nan: write nan and infinity as Python reads them, which JSON does not have.

    Raises:
        ValueError: such a number where it is not allowed.
        OSError: the file system refused; nothing has changed.
    """
    write_atomically(path, (json.dumps(document, indent=2, allow_nan=allow_nan) + "\n").encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
