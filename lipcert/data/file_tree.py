"""The image files of a folder or a zip archive, read in place."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from types import TracebackType

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
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"expected a folder or a zip archive of images, got {path}: {error}") from None

    def __enter__(self) -> FileTree:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._archive is not None:
            self._archive.close()

    def names(self) -> list[str]:
        """Names of the image files relative to the top, with forward slashes, sorted."""
        if self._archive is None:
            found = [
                (Path(folder) / file).relative_to(self.path).as_posix()
                for folder, _, files in os.walk(self.path)
                for file in files
            ]
        else:
            found = self._archive.namelist()
        images = sorted({name for name in found if _is_image(name)})
        for name in images:
            if name.startswith("/") or ".." in name.split("/"):
                raise InputError(f"expected names inside the archive, got {name} in {self.path}")
        return images

    def read(self, name: str) -> bytes:
        """Content of one file; safe to call from several threads.

        Raises:
            InputError: the file is unreadable, encrypted or far too large.
        """
        try:
            size = (self.path / name).stat().st_size if self._archive is None else self._archive.getinfo(name).file_size
            if size > _LARGEST_FILE:
                raise InputError(f"expected an image file below {_LARGEST_FILE} bytes, got {size} in {name}")
            return (self.path / name).read_bytes() if self._archive is None else self._archive.read(name)
        except (OSError, zipfile.BadZipFile, RuntimeError, EOFError) as error:  # zipfile: encrypted, unknown method
            raise InputError(f"expected a readable image, got {name} in {self.path}: {error}") from None


def _is_image(name: str) -> bool:
    if not name.lower().endswith(_SUFFIXES):
        return False
    return not any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.split("/"))
