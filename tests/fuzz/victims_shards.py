"""Readers of what lies beside a report of many images, or of votes: shards of rows, and adversarial examples."""

import functools
import io
import math
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from guard import Victim
from mutations import damaged
from safetensors.torch import save

from lipcert.errors import InputError
from lipcert.verification.document import COLUMNS, Row
from lipcert.verification.examples import FILE, Example, read_examples
from lipcert.verification.rows import read_shard

_ROWS = (
    (0, 9, 9, 1.25, 1.5, "fmn", 1.2, 5),
    (1, 2, 2, 0.5, None, None, None, None),
    (2, 1, 3, 0.0, 0.0, "clean", None, 3),
)


@functools.cache
def _shards() -> tuple[bytes, ...]:
    columns = dict(zip(COLUMNS, map(list, zip(*_ROWS, strict=True)), strict=True))
    tables = pyarrow.table(columns), pyarrow.table({**columns, "radius": [1, 2, 3]}), pyarrow.table({"index": [1]})
    made = []
    for table in tables:
        for compression in ("none", "zstd"):
            buffer = io.BytesIO()
            pyarrow.parquet.write_table(table, buffer, compression=compression)
            made.append(buffer.getvalue())
    return tuple(made)


def _make_shard(rng: random.Random) -> bytes:
    return damaged(rng, rng.choice(_shards()), _shards())


def _read_shard(folder: Path, content: bytes) -> tuple[Row, ...]:
    (folder / "00000.parquet").write_bytes(content)
    return read_shard(folder / "00000.parquet")


def _shard_complaint(content: bytes, found: tuple[Row, ...]) -> str | None:
    for row in found:
        reals = [value for value in (row.radius, row.distance, row.ratio) if value is not None]
        wholes = [value for value in (row.index, row.label, row.prediction) if type(value) is not int or value < 0]
        if wholes or not all(type(value) is float and 0 <= value < math.inf for value in reals):
            return f"{row}, which no audit writes"
    return None


def _make_examples(rng: random.Random) -> bytes:
    images = torch.linspace(0, 1, 8).reshape(2, 1, 2, 2)
    tensors = {"index": torch.tensor([3, 7]), "inputs": images, "adversarial": images.flip(0)}
    seeds = (
        save(tensors),
        save({**tensors, "index": torch.tensor([3])}),
        save({**tensors, "inputs": torch.tensor(1.0)}),
        save({"index": tensors["index"]}),
    )
    return damaged(rng, rng.choice(seeds), seeds)


def _read_examples(folder: Path, content: bytes) -> dict[int, Example]:
    (folder / FILE).write_bytes(content)
    return read_examples(folder)


def _examples_complaint(content: bytes, found: dict[int, Example]) -> str | None:
    tensors = [tensor for example in found.values() for tensor in (example.image, example.adversarial)]
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        return "an example that is not float32"
    size = sum(tensor.numel() for tensor in tensors)
    return None if size <= len(content) else f"{size} pixels in {len(content)} bytes"


SHARD_VICTIMS = (
    Victim("shard", _make_shard, _read_shard, _shard_complaint, (InputError, ValueError)),
    Victim("examples", _make_examples, _read_examples, _examples_complaint),
)
