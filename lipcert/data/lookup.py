"""Where data sets are looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

from lipcert.errors import InputError

SYSTEM_FOLDER = Path("/usr/share/datasets")


@dataclass(frozen=True, slots=True)
class Download:
    """One file of an official mirror.

    Attributes:
        url: where it is.
        checksum: of the file as it is sent, for example ``"md5:0123..."``.
    """

    url: str
    checksum: str

    @property
    def file(self) -> str:
        """Last part of the address."""
        return self.url.rpartition("/")[2]


def cache_folder() -> Path:
    """The user's cache of this package, for example ``~/.cache/lipcert``."""
    return Path(pooch.os_cache("lipcert"))


def places(name: str, explicit: Path | str | None = None) -> tuple[Path, ...]:
    """The folders where a data set may lie, in the order in which they are tried.

    Args:
        name: folder name of the data set, for example ``"mnist"``.
        explicit: folder given by the user; no other place is tried then.

    Example:
        >>> [str(place) for place in places("mnist", "/data")]
        ['/data', '/data/mnist']
    """
    if explicit is not None:
        folder = Path(explicit).expanduser()
        return folder, folder / name
    return tuple(root / name for root in _roots())


def find_path(path: Path | str) -> Path:
    """An existing file or folder: the path itself, or else the first below the places where data sets lie.

    Args:
        path: as the user gave it; relative to the working folder or to one of the places.

    Raises:
        InputError: found nowhere; the message names all places.
    """
    given = Path(path).expanduser()
    candidates = (given, *(root / given for root in _roots()))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    tried = ", ".join(map(str, dict.fromkeys(candidates)))
    raise InputError(f"expected a file or folder {path}, found none of {tried}; set LIPCERT_DATA or correct the path")


def _roots() -> tuple[Path, ...]:
    variable = os.environ.get("LIPCERT_DATA")
    return *((Path(variable).expanduser(),) if variable else ()), SYSTEM_FOLDER, cache_folder()


def find(
    name: str,
    layouts: Sequence[Sequence[str]],
    explicit: Path | str | None = None,
    *,
    downloads: Sequence[Download] = (),
) -> tuple[Path, ...]:
    """The files of a data set in the first place that has all files of one layout.

    Places are tried in the order explicit path, ``$LIPCERT_DATA/<name>``, ``/usr/share/datasets/<name>``, user cache;
    what is in none of them is downloaded to the cache. A download that is interrupted or has another checksum leaves
    nothing behind.

    Args:
        name: folder name of the data set.
        layouts: alternative lists of file names, best first; each file may also have ``.gz`` appended.
        explicit: folder given by the user; no other place is tried and nothing is downloaded then.
        downloads: files that make up one of the layouts.

    Returns:
        One path for each file of the layout that was found, in its order.

    Raises:
        InputError: found nowhere; the message names all places.
    """
    tried = places(name, explicit)
    problem = ""
    found = _first_in(tried, layouts)
    if not found and explicit is None and downloads:
        problem = _download(name, downloads)
        found = _first_in([cache_folder() / name], layouts)
    if found:
        return found
    wanted = " or ".join(", ".join(layout if len(layout) < 5 else (layout[0], "...", layout[-1])) for layout in layouts)
    remedy = "pass the right folder" if explicit is not None else "put them there, set LIPCERT_DATA or pass a folder"
    raise InputError(f"expected the {name} files ({wanted}) in {', '.join(map(str, tried))}{problem}; {remedy}")


def _first_in(folders: Sequence[Path], layouts: Sequence[Sequence[str]]) -> tuple[Path, ...]:
    candidates = (_files_in(folder, layout) for folder in folders for layout in layouts)
    return next((found for found in candidates if found), ())


def _files_in(folder: Path, layout: Sequence[str]) -> tuple[Path, ...]:
    found = []
    for file in layout:
        candidates = (folder / file, folder / f"{file}.gz")
        hit = next((path for path in candidates if path.is_file()), None)
        if hit is None:
            return ()
        found.append(hit)
    return tuple(found)


def _download(name: str, downloads: Sequence[Download]) -> str:
    """Fetch into the cache what is missing there; returns what went wrong, for the message, or nothing."""
    for download in downloads:
        try:
            pooch.retrieve(
                download.url,
                known_hash=download.checksum,
                fname=download.file,
                path=cache_folder() / name,
                downloader=pooch.HTTPDownloader(progressbar=True),
            )
        except OSError as error:  # no network, no space
            return f", and downloading {download.url} failed ({error.strerror or type(error).__name__})"
        except ValueError as error:  # another checksum
            return f", and downloading {download.url} failed ({' '.join(str(error).split())})"
    return ""
