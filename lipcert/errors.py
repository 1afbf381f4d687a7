"""The one exception that a command turns into one clear line and exit code 2."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_UNUSABLE = 2
_LONGEST_LINE = 1000


class InputError(ValueError):
    """What the user handed in cannot be used: a file, a value, a configuration, a tensor.

    The message is one line and says what was expected and what was found. Anything else that is raised inside lipcert
    is a bug and keeps its traceback.
    """


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turn unusable input, a failing file system, Ctrl-C and SIGTERM into one line on stderr and exit code 2.

    Args:
        command: name printed before the message, for example ``"lipcert audit"``.
    """
    try:
        with sigterm_interrupts():
            yield
    except InputError as error:
        message = str(error)
    except OSError as error:  # a full disk, a missing or unreadable file
        message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    except KeyboardInterrupt:
        message = "interrupted"
    else:
        return
    print(f"{command}: error: {in_one_line(message)}", file=sys.stderr)
    raise SystemExit(EXIT_UNUSABLE)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, with which schedulers and containers end a process, raise KeyboardInterrupt as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal as Python handles Ctrl-C.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt


def in_one_line(message: str) -> str:
    r"""Return a message as one line of at most 1,000 characters, all of which can be printed.

    What a message quotes was found in a file: it may be long, and it may be made to steer a terminal.

    Example:
        >>> in_one_line("expected a name,\n  got \x1b[2J")
        'expected a name, got \\x1b[2J'
    """
    line = " ".join(message.split())
    shown = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in shown)
