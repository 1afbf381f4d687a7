"""JSON and YAML that somebody else has written: plain values, or one clear complaint."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lipcert.errors import InputError

LARGEST = 1 << 26  # bytes; the report of a million samples has a tenth of them


class _PlainLoader(yaml.SafeLoader):
    """Reads plain values; no aliases, which make ten lines into a document of gigabytes, and no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*), which is not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(keys) > len(set(keys)):
            raise yaml.YAMLError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; no tag in it makes anything but plain values.

    Raises:
        InputError: no such file, no mapping, or YAML with aliases, a key twice, or nesting without end.
    """
    try:
        content = yaml.load(_text(path), _PlainLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # values: dates that are none
        raise InputError(f"expected YAML in {path}: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"expected a mapping in {path}, got {type(content).__name__}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        InputError: no such file, no object, or JSON with numbers that are not finite, a key twice, or nesting without
            end.
    """
    try:
        return parsed_json(_text(path))
    except ValueError as error:
        raise InputError(f"expected JSON in {path}: {_reason(error)}") from error


def parsed_json(text: str) -> dict[str, Any]:
    """Return the object that a JSON text holds.

    Raises:
        ValueError: see :func:`read_json`.

    Example:
        >>> parsed_json('{"a": [1, 0.5, null]}')
        {'a': [1, 0.5, None]}
        >>> parsed_json('{"a": 1e999}')
        Traceback (most recent call last):
        ValueError: 1e999 is no finite number
    """
    try:
        document = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested without end") from None
    if not isinstance(document, dict):
        raise ValueError(f"{type(document).__name__} instead of an object")
    return document


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"expected a file, found none at {path}")
    if path.stat().st_size > LARGEST:
        raise InputError(f"expected at most {LARGEST} bytes, got {path.stat().st_size} in {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in UTF-8, got other bytes in {path}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _reason(error: Exception) -> str:
    return "nested without end" if isinstance(error, RecursionError) else " ".join(str(error).split())
