"""The image files of a folder or a zip archive, read in place."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from lipcert.data.deflate import check_member
from lipcert.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_LARGEST_FILE = 1 << 28  # bytes; no image below Pillow's limit of pixels is larger


class FileTree:
    """PNG and JPEG files below a folder or inside a zip archive; nothing is ever extracted.

    Hidden files, resource forks of macOS archives and files of other kinds are passed over.

    Args:
        path: the folder or archive.

    Raises:
        InputError: ``path`` is neither, or the archive is damaged or has names that lead out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            return
        try:
            self._archive = zipfile.ZipFile(path)
        except Exception as error:  # a damaged directory raises more than BadZipFile
            raise InputError(f"expected a folder or a zip archive of images, got {path}: {error}") from None

    def __enter__(self) -> FileTree:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._archive is not None:
            self._archive.close()

    def names(self) -> list[str]:
        """Names of the image files relative to the top, with forward slashes, sorted."""
        return self._names(_is_image)

    def named(self, *files: str) -> list[str]:
        """Names of the files that are called one of ``files``, wherever they are, as :meth:`names` has them."""
        return self._names(lambda name: name.rpartition("/")[2] in files and not _is_hidden(name))

    def _names(self, wanted: Callable[[str], bool]) -> list[str]:
        if self._archive is None:
            found = [
                (Path(folder) / file).relative_to(self.path).as_posix()
                for folder, _, files in os.walk(self.path)
                for file in files
            ]
        else:
            found = self._archive.namelist()
        chosen = sorted({name for name in found if wanted(name)})
        for name in chosen:
            if name.startswith("/") or ".." in name.split("/"):
                raise InputError(f"expected names inside the archive, got {name} in {self.path}")
        return chosen

    def read(self, name: str) -> bytes:
        """Content of one file; safe to call from several threads.

        Raises:
            InputError: the file is unreadable, encrypted or far too large.
        """
        try:
            size = (self.path / name).stat().st_size if self._archive is None else self._archive.getinfo(name).file_size
            if size > _LARGEST_FILE:
                raise InputError(f"expected a file below {_LARGEST_FILE} bytes, got {size} in {name}")
            if self._archive is None:
                return (self.path / name).read_bytes()
            check_member(self._archive.getinfo(name), self.path.stat().st_size)
            return self._archive.read(name)
        except InputError:
            raise
        except Exception as error:  # encrypted, another method, a damaged stream
            raise InputError(f"expected a readable image, got {name} in {self.path}: {error}") from None


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.split("/"))
