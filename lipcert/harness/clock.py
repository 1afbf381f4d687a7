"""How long an audit takes, and Ctrl-C while it does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lipcert.errors import interrupt


class TimeUp(BaseException):
    """The time is over in the middle of an attack; no attack that survives its own failures may survive this."""


class Clock:
    """Counts the seconds of an audit, those before it was killed included.

    Args:
        limit: seconds that the audit may take; None for as long as it takes.

    Attributes:
        before: seconds that earlier runs of the same audit have taken.

    Example:
        >>> clock = Clock(limit=100.0)
        >>> clock.before = 70.0
        >>> clock.is_over(20.0), clock.is_over(40.0), 70 <= clock.elapsed < 71
        (False, True, True)
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.before = 0.0
        self._begun = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self.before + time.monotonic() - self._begun

    def is_over(self, more: float = 0.0) -> bool:
        """Return whether the limit would be passed in so many more seconds."""
        return self.limit is not None and self.elapsed + more > self.limit

    def check(self, *_: Any) -> None:
        """Break off what is at work if the time is over.

        Raises:
            TimeUp: it is.
        """
        if self.is_over():
            raise TimeUp


class Interrupts:
    """Ctrl-C that breaks off an attack, but never an exchange between processes or an entry in the book.

    Outside of :meth:`breakable` the first Ctrl-C is only remembered; a second one is as sharp as ever. Processes that
    follow another one leave it to that one.

    Args:
        ignore: whether this process follows another one.

    Attributes:
        requested: whether there was one.
    """

    def __init__(self, *, ignore: bool = False) -> None:
        self.requested = False
        self._ignore = ignore
        self._breakable = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM over, where that is possible: in the main thread, and where they are not ignored."""
        old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if threading.current_thread() is not threading.main_thread() or old[signal.SIGINT] in (signal.SIG_IGN, None):
            yield
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN if self._ignore else self._handle)
        if old[signal.SIGTERM] is interrupt and not self._ignore:  # a command has said that they are the same
            signal.signal(signal.SIGTERM, self._handle)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Let Ctrl-C break off what is inside.

        Raises:
            KeyboardInterrupt: there was one.
        """
        self._breakable = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._breakable = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if self._breakable or again:
            raise KeyboardInterrupt
