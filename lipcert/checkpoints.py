"""Checkpoints that survive a kill and are read without pickles."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lipcert.errors import InputError
from lipcert.files import write_atomically

_ARCHIVE = b"PK\x03\x04"  # how the archives begin that torch.save writes


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
        checkpoint: dict[str, Any] = load_plain(path)
    except InputError:
        raise
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError on a file that is not its own
        raise InputError(
            f"expected a checkpoint at {path}, found a file that is none ({type(error).__name__})"
        ) from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(f"expected a checkpoint at {path}, found a file without a state_dict")
    return checkpoint


def load_plain(path: Path) -> Any:
    """Return the tensors and plain values that ``torch.save`` wrote; nothing in the file is executed.

    The checksums of its archive are compared first, which torch does not do: a flipped bit would be another weight.
    Files from before PyTorch 1.6 are no archives and have none.

    Args:
        path: an existing file.

    Raises:
        InputError: a damaged archive, or one that is not laid out as torch does it.
        Exception: whatever torch raises of a file that is not its own; ``pickle.UnpicklingError`` where reading it
            would run code.
    """
    with path.open("rb") as file:
        archived = file.read(len(_ARCHIVE)) == _ARCHIVE
    if archived:
        _check_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the protocol of a pickle that is refused anyway
        # of a file, an unpickler would ask for as many bytes as the pickle says before it finds them missing
        source = path if archived else io.BytesIO(path.read_bytes())
        return torch.load(source, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type or member.file_size != member.compress_size for member in members)
            broken = None if packed else archive.testzip()
    except Exception as error:  # a damaged directory raises more than BadZipFile
        raise InputError(f"expected a whole archive at {path}, found a damaged one: {error}") from error
    names = [member.filename for member in members]
    if packed or len(names) > len(set(names)):
        raise InputError(f"expected an archive as torch.save writes it at {path}, found compressed or double members")
    if broken is not None:
        raise InputError(f"expected a whole archive at {path}, found {broken} damaged")
