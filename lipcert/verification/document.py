"""Reading a report's files, and what JSON Schema says about one of them."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lipcert.documents import read_json
from lipcert.errors import InputError

COLUMNS = ("index", "label", "prediction", "radius", "distance", "attack", "ratio", "adversarial_prediction")

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``samples.csv``."""

    index: int
    label: int
    prediction: int
    radius: float
    distance: float | None
    attack: str
    ratio: float | None
    adversarial_prediction: int | None


def read_report(path: Path) -> dict[str, Any]:
    """Read a report as JSON.

    Args:
        path: ``report.json``, or its folder.

    Raises:
        InputError: no such file, or no JSON object without NaN and Infinity.
    """
    return read_json(report_file(path))


def report_file(path: Path) -> Path:
    """Return the path of ``report.json``, given it or its folder.

    Raises:
        InputError: there is none.
    """
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        hint = f"; there is one in {path / 'audit'}" if (path / "audit" / "report.json").is_file() else ""
        raise InputError(f"expected a report at {file}, found none{hint}")
    return file


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read ``samples.csv``.

    Raises:
        InputError: no such file.
        ValueError: a line that no audit writes; the message names it.
    """
    if not path.is_file():
        raise InputError(f"expected the report's rows at {path}, found none")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except csv.Error as error:
        raise ValueError(f"expected lines of comma-separated values: {error}") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise ValueError(f"line 1: expected the columns {', '.join(COLUMNS)}")
    return tuple(_row(number, line) for number, line in enumerate(lines[1:], start=2))


def schema_errors(document: Any) -> tuple[str, ...]:
    """Return what ``report/schema.json`` finds wrong with a document, or else with its curves, one sentence each.

    Example:
        >>> schema_errors({"schema": "lipcert/report/2"})[0]
        "the report lacks 'verdict'"
    """
    text = resources.files("lipcert").joinpath("report/schema.json").read_text(encoding="utf-8")
    errors = tuple(_errors(document, json.loads(text), "the report"))
    return errors or tuple(_curve_errors(document))


def _curve_errors(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for every curve that has another number of values than its axis, which no schema can say."""
    for where, curves, axis in (
        ("curves", document["curves"], "epsilon"),
        ("power.curve", document["power"]["curve"], "inflation"),
    ):
        for name, values in curves.items():
            if values is not None and len(values) != len(curves[axis]):
                yield f"{where}.{name} has {len(values)} values for {len(curves[axis])} of {axis}"


def _errors(value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if "const" in schema and value != schema["const"]:
        yield f"{where} is {value!r}, not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is {value!r}, not among {schema['enum']}"
    if "type" in schema and not _has_type(value, schema["type"]):
        yield f"{where} is {value!r:.40}, not of type {schema['type']}"
    elif isinstance(value, dict):
        yield from _object_errors(value, schema, where)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _errors(item, schema.get("items", {}), f"{where}[{number}]")
    elif isinstance(value, int | float) and not schema.get("minimum", -math.inf) <= value <= schema.get(
        "maximum", math.inf
    ):
        yield f"{where} is {value}, out of range"


def _object_errors(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    known: Mapping[str, Any] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where} lacks {name!r}"
    pattern = schema.get("propertyNames", {}).get("pattern", "")
    other = schema.get("additionalProperties", {})
    for name, item in value.items():
        inside = f"{where}.{name}" if where != "the report" else name
        if not re.search(pattern, name) or name.endswith("\n"):  # before which $ matches here, but not in a schema
            yield f"{where} has the key {name!r}, which does not match {pattern}"
        if name in known:
            yield from _errors(item, known[name], inside)
        elif other is False:
            yield f"{where} has an unknown {name!r}"
        elif isinstance(other, dict):
            yield from _errors(item, other, inside)


def _has_type(value: Any, types: str | list[str]) -> bool:
    names = [types] if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES.get(name, ())) for name in names)


def _row(number: int, line: list[str]) -> Row:
    if len(line) != len(COLUMNS):
        raise ValueError(f"line {number}: expected {len(COLUMNS)} values, got {len(line)}")
    index, label, prediction, radius, distance, attack, ratio, became = line
    try:
        numbers = (_whole(index), _whole(label), _whole(prediction), _real(radius))
        row = Row(*numbers, *_found(distance, attack, ratio, became))
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if row.radius < 0 or (row.distance is not None and row.distance < 0):
        raise ValueError(f"line {number}: expected radius and distance >= 0, got {radius} and {distance or 'none'}")
    return row


def _found(distance: str, attack: str, ratio: str, became: str) -> tuple[float | None, str, float | None, int | None]:
    return (
        _real(distance) if distance else None,
        attack,
        _real(ratio) if ratio else None,
        _whole(became) if became else None,
    )


def _whole(text: str) -> int:
    """A number as it is written: what Python reads besides (``1_0``, blanks, other scripts) is no audit's doing."""
    value = int(text)
    if str(value) != text or value < 0:
        raise ValueError(f"expected a whole number >= 0, got {text!r:.40}")
    return value


def _real(text: str) -> float:
    value = float(text)
    if repr(value) != text or not math.isfinite(value):
        raise ValueError(f"expected a finite number as an audit writes it, got {text!r:.40}")
    return value
