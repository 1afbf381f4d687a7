"""Checkpoints that survive a kill and are read without pickles."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lipcert.errors import InputError
from lipcert.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a full disk or a kill keeps the previous one, and reads them without pickles."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path`` in one step."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return the checkpoint at ``path``; anything but tensors and plain values is refused."""
        return load_checkpoint(Path(path))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing pickles.

    Raises:
        InputError: there is none, or the file is not one.
    """
    if not path.is_file():
        raise InputError(f"expected a checkpoint, found none at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError on a file that is not its own
        raise InputError(
            f"expected a checkpoint at {path}, found a file that is none ({type(error).__name__})"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"expected a checkpoint at {path}, found a file without a state_dict")
    return checkpoint
