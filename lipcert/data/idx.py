"""Reading IDX files, the format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from lipcert.data.deflate import DEFLATE_LIMIT
from lipcert.errors import InputError

_UINT8 = 0x08
_CHUNK = 1 << 20


def read_idx(path: Path, *, dimensions: int, sha256: str | None = None) -> Tensor:
    """Read one IDX file of unsigned bytes, plain or, if its name ends in ``.gz``, compressed.

    Nothing is allocated or decompressed beyond what the header announces and the file can hold.

    Args:
        path: the file.
        dimensions: number of dimensions expected: 1 for labels, 3 for images.
        sha256: expected hexadecimal SHA-256 of the uncompressed content; compressed bytes differ between mirrors.

    Returns:
        uint8 tensor with the header's shape.

    Raises:
        InputError: the file is missing, damaged, truncated, too long, of another kind, or has another checksum.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2]) + bytes([7, 9]))
        >>> read_idx(path, dimensions=1)
        tensor([7, 9], dtype=torch.uint8)
    """
    try:
        with _open(path) as stream:
            header, shape = _read_header(stream, path, dimensions)
            payload = _read_payload(stream, path, math.prod(shape))
    except FileNotFoundError:
        raise InputError(f"expected an IDX file, found nothing at {path}") from None
    except gzip.BadGzipFile as error:
        raise InputError(f"expected a gzip file, got {path}: {error}") from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"expected a complete gzip file, got a truncated or damaged {path}: {error}") from None
    if sha256 is not None:
        _check_sha256(path, header, payload, sha256)
    return torch.frombuffer(payload, dtype=torch.uint8).reshape(shape)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_header(stream: BinaryIO, path: Path, dimensions: int) -> tuple[bytes, tuple[int, ...]]:
    magic = stream.read(4)
    expected = bytes([0, 0, _UINT8, dimensions])
    if magic != expected:
        raise InputError(f"expected IDX magic number 0x{expected.hex()}, got 0x{magic.hex()} in {path}")
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise InputError(f"expected {dimensions} dimensions in the IDX header, got a truncated header in {path}")
    shape = struct.unpack(f">{dimensions}I", sizes)
    claimed, stored = math.prod(shape), path.stat().st_size
    if claimed == 0:
        raise InputError(f"expected at least one item, got shape {shape} in {path}")
    if claimed > (stored * DEFLATE_LIMIT if path.suffix == ".gz" else stored):
        raise InputError(f"expected {claimed} bytes for shape {shape}, got a file of only {stored} bytes: {path}")
    return magic + sizes, shape


def _read_payload(stream: BinaryIO, path: Path, size: int) -> bytearray:
    payload = bytearray()
    while len(payload) < size:
        chunk = stream.read(min(_CHUNK, size - len(payload)))
        if not chunk:
            raise InputError(f"expected {size} bytes after the IDX header, got {len(payload)} in the truncated {path}")
        payload += chunk
    if stream.read(1):
        raise InputError(f"expected {size} bytes after the IDX header, got trailing bytes in {path}")
    return payload


def _check_sha256(path: Path, header: bytes, payload: bytearray, expected: str) -> None:
    digest = hashlib.sha256(header)
    digest.update(payload)
    if digest.hexdigest() != expected:
        raise InputError(f"expected content with sha256 {expected}, got {digest.hexdigest()} in {path}")
