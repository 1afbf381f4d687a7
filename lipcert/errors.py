"""The one exception that a command turns into one clear line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_UNUSABLE = 2


class InputError(ValueError):
    """What the user handed in cannot be used: a file, a value, a configuration, a tensor.

    The message is one line and says what was expected and what was found. Anything else that is raised inside lipcert
    is a bug and keeps its traceback.
    """


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turn unusable input, a failing file system and Ctrl-C into one line on stderr and exit code 2.

    Args:
        command: name printed before the message, for example ``"lipcert audit"``.
    """
    try:
        yield
    except InputError as error:
        message = str(error)
    except OSError as error:  # a full disk, a missing or unreadable file
        message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    except KeyboardInterrupt:
        message = "interrupted"
    else:
        return
    print(f"{command}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(EXIT_UNUSABLE)
