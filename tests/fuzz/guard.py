"""A reader at work on a damaged file: what it may do is refuse it in one line, or accept what is no worse than good."""

import contextlib
import io
import re
import resource
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipcert.errors import InputError

SECONDS = 20  # a reader takes milliseconds; the machine may have other work
MEBIBYTE = 1 << 20
LARGEST_GROWTH = 256 * MEBIBYTE  # of the address space over all inputs so far; the files have some kilobytes
LIMIT = 4096 * MEBIBYTE  # of the address space, so that a reader that believes a length does no harm


class Hang(BaseException):
    """The time of one input is over."""


@dataclass(frozen=True)
class Victim:
    """A reader under test.

    Attributes:
        name: for the report and for the seeds.
        make: returns a damaged file's content, from a source of randomness.
        read: writes that content into a folder where it belongs, and reads it as lipcert does.
        complaint: what is wrong with something that was accepted, None if nothing is; gets the content and what was
            read.
        refusals: errors that are this reader's way to refuse.
    """

    name: str
    make: Callable[[Any], bytes]
    read: Callable[[Path, bytes], Any]
    complaint: Callable[[bytes, Any], str | None]
    refusals: tuple[type[Exception], ...] = (InputError,)


@dataclass
class Tally:
    """What became of the inputs of one reader.

    Attributes:
        inputs: how many there were.
        refused: of these, refused with one line.
        accepted: of these, accepted with reason.
        failures: of the others, the number and what happened.
    """

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


def verdict(victim: Victim, folder: Path, content: bytes) -> str:
    """``"refused"``, ``"accepted"``, or what is wrong with how the reader took the content.

    Args:
        victim: the reader.
        folder: an empty one, for its files.
        content: of the file.
    """
    before = peak_of_address_space()
    try:
        with within(SECONDS), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            found = victim.read(folder, content)
            wrong = victim.complaint(content, found)
        said = "accepted" if wrong is None else f"accepted silently: {wrong}"
    except victim.refusals as error:
        said = _refusal(error)
    except Hang:
        said = f"hung for {SECONDS} s"
    except BaseException as error:
        said = f"crashed with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    growth = peak_of_address_space() - before
    return f"allocated {growth // MEBIBYTE} MiB" if growth > LARGEST_GROWTH else said


def _refusal(error: BaseException) -> str:
    """``"refused"``, or what is wrong with the refusal: running out of memory is none, nor is silence."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
            return "ran out of memory"
        cause = cause.__cause__ or cause.__context__
    return "refused" if str(error).strip() else "refused without a word"


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Break off what takes longer, if it comes back to Python at all."""

    def over(number: int, frame: Any) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let no allocation succeed that would take the process far beyond what it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space("VmSize") + LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def peak_of_address_space() -> int:
    """Bytes, the most that this process ever had: what was asked for counts, whether or not it was written to."""
    return address_space("VmPeak")


def address_space(name: str) -> int:
    """A size in bytes from what Linux tells of this process; 0 elsewhere."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """An empty folder, in memory where there is such a place."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        yield Path(name)
