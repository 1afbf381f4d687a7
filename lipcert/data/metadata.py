"""Labels of image files that stand in a table beside them, as Hugging Face's image folders have them."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping

from lipcert.data.file_tree import FileTree
from lipcert.errors import InputError

FILES = ("metadata.csv", "metadata.jsonl")
_FILE_NAME, _LABELS = "file_name", ("label", "labels")


def arrange_by_metadata(tree: FileTree, parts: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return the images that tables name, with their labels.

    Args:
        tree: the folder or archive.
        parts: what the folders of the parts are called, and the parts.

    Returns:
        For each part, or ``""`` for tables outside of such folders, name and label of its files; nothing if there are
        no tables with labels.

    Raises:
        InputError: a table that cannot be read, or names a file that is not there, or twice.
    """
    known, files, seen = set(tree.names()), dict[str, list[tuple[str, str]]](), set[str]()
    for table in tree.named(*FILES):
        folder = posixpath.dirname(table)
        for number, row in enumerate(_rows(tree, table), 1):
            label = next((row[column] for column in _LABELS if row.get(column) not in (None, "")), None)
            if label is None:
                continue
            where = f"row {number} of {table} in {tree.path}"
            name = posixpath.normpath(posixpath.join(folder, str(row.get(_FILE_NAME))))
            if name not in known:
                raise InputError(f"expected a PNG or JPEG file of the folder as {_FILE_NAME}, got {name} in {where}")
            if name in seen:
                raise InputError(f"expected every file once, got {name} again in {where}")
            seen.add(name)
            part = next((parts[each] for each in name.split("/")[:-1] if each in parts), "")
            files.setdefault(part, []).append((name, str(label)))
    if len(files) > 1 and "" in files:
        raise InputError(f"expected all images in folders {', '.join(parts)}, got {files[''][0][0]} in {tree.path}")
    return files


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels in the order of their names; of their numbers if all are whole numbers.

    Example:
        >>> in_order({"10", "2"}), in_order({"cat", "10", "2"})
        (('2', '10'), ('10', '2', 'cat'))
    """
    found = set(labels)
    whole = all(label.isascii() and label.isdecimal() and len(label) < 10 for label in found)
    return tuple(sorted(found, key=(lambda label: (int(label), label)) if whole else None))


def _rows(tree: FileTree, table: str) -> Iterator[Mapping[str, object]]:
    try:
        text = tree.read(table).decode("utf-8-sig")
        if table.endswith(".csv"):
            yield from csv.DictReader(io.StringIO(text), strict=True)
            return
        for line in filter(str.strip, text.splitlines()):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{type(row).__name__} in place of an object")
            yield row
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"expected a table of files and labels in {table} of {tree.path}: {error}") from error
