"""What the commands tell beside their results: lines on stderr for people, JSON lines in a file for programs."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = "lipcert"
_FIELDS = "lipcert_fields"


def logger_of(command: str) -> logging.Logger:
    """Return the logger of a command, for example ``"audit"``; remarks are of level INFO, steps of level DEBUG."""
    return logging.getLogger(f"{ROOT}.{command}")


def fields(**values: Any) -> dict[str, Any]:
    """Return the ``extra`` of a record: values of JSON, which the file has beside the message.

    Example:
        >>> logger_of("audit").debug("attacked a chunk", extra=fields(samples=20, seconds=0.5))
    """
    return {_FIELDS: values}


@contextlib.contextmanager
def logs(*, quiet: bool = False, file: Path | str | None = None) -> Iterator[None]:
    """Let a command tell what it does.

    Args:
        quiet: show no remarks, no bars and no results on the screen; files and exit code say it all.
        file: to which every record is appended as a line of JSON: time, level, logger, message, and its fields.

    Raises:
        OSError: the file cannot be written.
    """
    root = logging.getLogger(ROOT)
    console = logging.StreamHandler()
    console.setFormatter(_Line())
    console.setLevel(logging.ERROR if quiet else logging.INFO)
    handlers: list[logging.Handler] = [console]
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        kept = logging.FileHandler(file, encoding="utf-8")
        kept.setFormatter(_JsonLine())
        handlers.append(kept)
    level, root.propagate = root.level, False
    root.setLevel(logging.DEBUG)
    for handler in handlers:
        root.addHandler(handler)
    silence = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    try:
        with silence:
            yield
    finally:
        root.setLevel(level)
        root.propagate = True
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def is_quiet() -> bool:
    """Return whether the command at work was told to be quiet: bars are not shown then."""
    shown = [each for each in logging.getLogger(ROOT).handlers if isinstance(each.formatter, _Line)]
    return any(handler.level > logging.INFO for handler in shown)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.name.replace('.', ' ')}: {record.getMessage()}"


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        return json.dumps(document, default=str)
