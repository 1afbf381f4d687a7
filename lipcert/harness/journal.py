"""The records of an audit on disk: each is there as a whole or not at all, so that a killed audit can go on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from lipcert.documents import parsed_json
from lipcert.errors import InputError
from lipcert.harness.records import ChunkRecord, Examples, record_of

FORMAT = "lipcert/partial/1"
PARTIAL = "partial"  # the folder of a journal, beside the report that it is for
ROWS, EXAMPLES = "rows.jsonl", "examples.bin"


class Journal:
    """Records in the order in which they came, and their adversarial examples, read again from where they lie.

    In a folder, ``rows.jsonl`` holds one JSON line a record below a header that says whose they are, and
    ``examples.bin`` the bytes of the examples. A line counts if it is whole by its checksum and so are its examples;
    the first that is not, and what follows it, is cut off. Without a folder there are examples only, in a temporary
    file without a name.

    Args:
        directory: the folder; None for a journal that ends with the process.
        header: what the records belong to, as JSON values. A folder with another header is set aside.
        shape: ``(C, H, W)`` of an example.
        dtype: its type.

    Attributes:
        records: those that were found, each with the place of its first example.
        set_aside: in what the journal that was found differs from the header; empty if it does not.

    Raises:
        InputError: another process is writing to the folder.
        OSError: the file system refused.
    """

    def __init__(
        self, directory: Path | None, header: Mapping[str, Any], *, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.directory = directory
        self.records: list[tuple[ChunkRecord, int]] = []
        self.set_aside: tuple[str, ...] = ()
        self._shape, self._dtype = shape, dtype
        self._size = int(np.prod(shape)) * dtype.itemsize
        self._rows: IO[bytes] | None = None
        if directory is None:
            self._examples: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            return
        expected = json.loads(json.dumps({"format": FORMAT, **header}))
        found = _header(directory / ROWS)
        if found is not None and found != expected:
            self.set_aside = tuple(name for name in expected if found.get(name) != expected[name]) or ("more",)
            _lock(directory / ROWS).close()
            old = directory.with_name(f"{directory.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            directory.replace(old)
        directory.mkdir(parents=True, exist_ok=True)
        self._rows, self._examples = _lock(directory / ROWS), (directory / EXAMPLES).open("a+b")
        self._read_or_begin(expected)

    def append(self, record: ChunkRecord) -> int:
        """Keep a record; return the place of its first example.

        Raises:
            OSError: the file system refused; what was kept before is still whole.
        """
        payload = np.ascontiguousarray(record.examples, dtype=self._dtype).tobytes()
        place = self._examples.seek(0, os.SEEK_END)
        self._examples.write(payload)
        self._examples.flush()
        if self._rows is not None:
            self._rows.write(_line({**record.document(), "at": place, "examples_crc32": zlib.crc32(payload)}))
            self._rows.flush()
        return place

    def place(self, first: int, number: int) -> int:
        """Return the place of a record's n-th example, given that of its first one."""
        return first + number * self._size

    def example(self, place: int) -> Examples:
        """Return the example ``(C, H, W)`` that lies at a place."""
        example: Examples = self._read(place, 1)[0]
        return example

    def close(self) -> None:
        """Let go of the files."""
        for file in (self._examples, self._rows):
            if file is not None:
                with suppress(OSError):  # what a full disk did not take has been reported already
                    file.close()

    def _read(self, place: int, count: int) -> Examples:
        self._examples.seek(place)
        octets = self._examples.read(count * self._size)
        return np.frombuffer(octets, dtype=self._dtype).reshape(-1, *self._shape)

    def _read_or_begin(self, header: dict[str, Any]) -> None:
        """Take what is whole, cut off the rest, and write the header of a new journal."""
        assert self._rows is not None
        end, end_of_examples = 0, 0
        self._rows.seek(0)
        for number, line in enumerate(self._rows):
            document = _document(line)
            if document is None:
                break
            if number > 0:
                record = self._record(document, end_of_examples)
                if record is None:
                    break
                self.records.append((record, end_of_examples))
                end_of_examples = self.place(end_of_examples, len(record.kept))
            end += len(line)
        self._rows.truncate(end)
        self._examples.truncate(end_of_examples)
        if end == 0:
            self._rows.write(_line(header))
            self._rows.flush()

    def _record(self, document: dict[str, Any], place: int) -> ChunkRecord | None:
        """Return the record with its examples, which lie at this place, None if they are not whole."""
        try:
            record = record_of(document, self._read(place, len(document["kept"])))
        except (ValueError, KeyError, TypeError):
            return None
        whole = document.get("at") == place and document.get("examples_crc32") == zlib.crc32(record.examples.tobytes())
        return record if whole else None


def discard(directory: Path) -> None:
    """Remove a journal's folder, if there is one."""
    shutil.rmtree(directory, ignore_errors=True)


def _line(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, allow_nan=False)
    return f'{{"crc32": {zlib.crc32(text.encode())}, "record": {text}}}\n'.encode()


def _document(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds, None if it is not whole."""
    try:
        document = parsed_json(line.decode()).get("record")
        return document if isinstance(document, dict) and line == _line(document) else None
    except ValueError:
        return None


def _header(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as rows:
            return _document(rows.readline())
    except FileNotFoundError:
        return None


def _lock(path: Path) -> IO[bytes]:
    """Open a file to append to that no other process of lipcert writes to."""
    file = path.open("a+b")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise InputError(f"expected no other audit to be at work in {path.parent}, found one") from error
        except OSError:  # a file system without locks
            pass
    return file
