"""The rows of a report, a block at a time: all of ``samples.csv``, or one shard after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcert.errors import InputError
from lipcert.verification.document import COLUMNS, Row, read_rows

TABLE, SHARDS = "samples.csv", "samples"


@dataclass(frozen=True)
class ReportRows:
    """The rows beside a report.

    Attributes:
        name: of the files.
        in_shards: whether they are of an audit in shards, which may be larger than the memory.
        blocks: reads all rows, in order, a block at a time; what no audit writes raises a ValueError that names it.
    """

    name: str
    in_shards: bool
    blocks: Callable[[], Iterator[tuple[Row, ...]]]


def rows_beside(report: Path) -> ReportRows:
    """Return the rows of a report.

    Args:
        report: path of ``report.json``.

    Raises:
        InputError: there are none beside it, or pyarrow is not installed where they are in shards.
    """
    table, folder = report.with_name(TABLE), report.with_name(SHARDS)
    shards = sorted(folder.glob("[0-9]*.parquet"))
    if table.is_file() or not shards:
        return ReportRows(TABLE, False, lambda: iter([read_rows(table)]))
    _parquet()
    return ReportRows(f"{SHARDS}/*.parquet", True, lambda: map(read_shard, shards))


def read_shard(path: Path) -> tuple[Row, ...]:
    """Read the rows of one shard.

    Raises:
        ValueError: a file, a column or a value that no audit writes; the message names it.
    """
    try:
        table = _parquet().read_table(path, columns=list(COLUMNS), use_threads=False, memory_map=False)
        columns: Mapping[str, list[Any]] = table.to_pydict()
    except Exception as error:  # what a damaged file makes a reader raise is not limited to a few types
        raise ValueError(f"{path.name}: expected a parquet file: {' '.join(str(error).split())}") from error
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"{path.name}: expected a column {missing[0]}")
    values = zip(*(columns[name] for name in COLUMNS), strict=True)
    return tuple(_row(f"{path.name}, row {number}", each) for number, each in enumerate(values))


def _row(where: str, values: tuple[Any, ...]) -> Row:
    index, label, prediction, radius, distance, attack, ratio, became = values
    wholes = (index, label, prediction, 0 if became is None else became)
    reals = (radius, *(0.0 if value is None else value for value in (distance, ratio)))
    if not all(type(value) is int and value >= 0 for value in wholes):
        raise ValueError(f"{where}: expected whole numbers >= 0, got {index}, {label}, {prediction} and {became}")
    if not all(type(value) is float and 0 <= value < math.inf for value in reals):
        raise ValueError(f"{where}: expected finite numbers >= 0, got {radius}, {distance} and {ratio}")
    if not isinstance(attack, str | None):
        raise ValueError(f"{where}: expected the name of an attack, got {attack!r:.40}")
    return Row(index, label, prediction, radius, distance, attack or "", ratio, became)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("expected pyarrow for reports in shards: pip install 'lipcert[scale]'") from error
    return pyarrow.parquet
