"""The shards of an audit on disk: each is there as a whole or not at all, so that a killed audit can go on."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as safetensors_tensors

from lipcert.certificates import LayerBound
from lipcert.errors import InputError
from lipcert.files import write_atomically
from lipcert.harness.result import AttackRow, AuditResult, GalleryItem, SampleRow
from lipcert.report.write import adversarial_tensors
from lipcert.shards.columns import Columns, columns_of

FORMAT = "lipcert/shard/1"
KEY = b"lipcert"
FOUND = "found by "

_CLAIM = ("norm", "rule", "arithmetic", "grid", "assumptions", "epsilons", "model_parameters", "class_names")


@dataclass(frozen=True)
class Shard:
    """What a shard says beside its rows.

    Attributes:
        identity: whose it is.
        images_sha256: of its images and labels.
        attacks: what every attack did; without the distances, which are columns.
        claim: what is the same for all shards, by the names of :class:`~lipcert.harness.result.AuditResult`.
        lipschitz_upper_bound: see there.
        layers: see there.
        doubts: see there.
    """

    identity: Mapping[str, Any]
    images_sha256: str
    attacks: tuple[AttackRow, ...]
    claim: Mapping[str, Any]
    lipschitz_upper_bound: float
    layers: tuple[LayerBound, ...]
    doubts: tuple[str, ...]


class ShardStore:
    """A folder of shards, ``00000.parquet`` and so on, with the inputs worth keeping in ``00000.safetensors``.

    Args:
        directory: the folder; made when the first shard is written.
        identity: what the shards belong to, as JSON values. A folder of others is set aside.

    Attributes:
        set_aside: in what the shards that were found differ; empty if they do not.

    Raises:
        InputError: pyarrow is not installed.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any]) -> None:
        _parquet()
        self.directory = directory
        self.set_aside: tuple[str, ...] = ()
        self._identity = json.loads(json.dumps({"format": FORMAT, **identity}))

    def open(self) -> None:
        """Set aside what belongs to another audit."""
        first = next((shard for path in _files(self.directory) if (shard := _shard(path)) is not None), None)
        if first is None or first.identity == self._identity:
            return
        differing = [name for name in self._identity if first.identity.get(name) != self._identity[name]]
        self.set_aside = tuple(differing) or ("more",)
        old = self.directory.with_name(f"{self.directory.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        self.directory.replace(old)

    def write(self, number: int, result: AuditResult, images_sha256: str, *, begin: int) -> None:
        """Keep what was found for a shard; its rows come last, and make it count.

        Args:
            number: of the shard.
            result: its audit.
            images_sha256: of its images.
            begin: position of its first sample in the whole split.

        Raises:
            OSError: the file system refused; the shard is not there.
        """
        path = self._path(number)
        if result.gallery:
            kept = [replace(item, index=begin + item.index) for item in result.gallery]
            write_atomically(path.with_suffix(".safetensors"), adversarial_tensors(kept))
        shard = Shard(
            self._identity,
            images_sha256,
            result.attacks,
            {name: getattr(result, name) for name in _CLAIM},
            result.lipschitz_upper_bound,
            result.layers,
            result.doubts,
        )
        write_atomically(path, _parquet_bytes(columns_of(result, begin=begin), shard))

    def shard(self, number: int) -> Shard | None:
        """Return what a shard says, None if it is not there as a whole."""
        shard = _shard(self._path(number))
        return shard if shard is not None and shard.identity == self._identity else None

    def images_sha256(self, number: int) -> str | None:
        """Return the checksum of a shard's images, None if it is not there as a whole."""
        shard = self.shard(number)
        return None if shard is None else shard.images_sha256

    def columns(self, number: int) -> Columns:
        """Read the rows of a shard.

        Raises:
            InputError: they cannot be read any more.
        """
        path = self._path(number)
        try:
            return _columns(path)
        except Exception as error:  # what a damaged file makes a reader raise is not limited to a few types
            raise InputError(f"expected the rows of a shard in {path}; remove it to audit them again") from error

    def blocks(self, count: int) -> Iterator[Columns]:
        """Read the rows of the first shards, in order."""
        return map(self.columns, range(count))

    def gallery(self, number: int, wanted: Collection[int] | None = None) -> list[GalleryItem]:
        """Return the inputs that were kept of a shard.

        Args:
            number: of the shard.
            wanted: the samples to return, by their positions in the whole split; by default all that were kept.
        """
        path = self._path(number).with_suffix(".safetensors")
        if not path.exists():
            return []
        tensors, columns = safetensors_tensors(path.read_bytes()), self.columns(number)
        indices = tensors["index"].tolist()
        begin = int(columns.index[0])
        places = [place for place, index in enumerate(indices) if wanted is None or index in wanted]
        return [_item(columns.row(indices[place] - begin), tensors, place) for place in places]

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:05d}.parquet"


def refuted_so_far(directory: Path, at_work: Sequence[SampleRow]) -> tuple[int, list[int]]:
    """Return how many shards of an unfinished audit are whole, and which samples are refuted.

    Args:
        directory: of the shards; none of another audit are there.
        at_work: the refuted rows of the shard that is at work, which is the first that is not whole.

    Returns:
        The number, and positions in the whole split, ascending.
    """
    sizes: dict[int, int] = {}
    refuted: list[int] = []
    for path in _files(directory):
        if _shard(path) is not None:
            columns = _columns(path)
            sizes[int(path.stem)] = len(columns)
            refuted += columns.index[columns.violated].tolist()
    number = next(number for number in range(len(sizes) + 1) if number not in sizes)
    begin = number * sizes.get(0, 0)
    return len(sizes), sorted([*refuted, *(begin + row.index for row in at_work)])


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("[0-9]*.parquet"))


def _item(row: SampleRow, tensors: Mapping[str, NDArray[Any]], place: int) -> GalleryItem:
    assert row.distance is not None
    assert row.attack is not None
    assert row.adversarial_prediction is not None
    return GalleryItem(
        index=row.index,
        label=row.label,
        adversarial_prediction=row.adversarial_prediction,
        radius=row.radius,
        distance=row.distance,
        attack=row.attack,
        image=tensors["inputs"][place],
        adversarial=tensors["adversarial"][place],
    )


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("expected pyarrow for audits in shards: pip install 'lipcert[scale]'") from error
    return pyarrow.parquet


def _parquet_bytes(columns: Columns, shard: Shard) -> bytes:
    import pyarrow as pa

    known, has_ratio = columns.known, columns.has_ratio
    arrays = {
        "index": pa.array(columns.index),
        "label": pa.array(columns.label),
        "prediction": pa.array(columns.prediction),
        "radius": pa.array(columns.radius),
        "distance": pa.array(columns.distance, mask=~known),
        "attack": pa.array(columns.attack.tolist(), mask=~known, type=pa.string()).dictionary_encode(),
        "ratio": pa.array(columns.ratio, mask=~has_ratio),
        "adversarial_prediction": pa.array(columns.adversarial_prediction, mask=~known),
        "attacked": pa.array(columns.attacked),
        "violated": pa.array(columns.violated),
        "boundary": pa.array(columns.boundary),
    }
    for label, found in columns.found.items():
        arrays[FOUND + label] = pa.array(found, mask=np.isnan(found))
    table = pa.table(arrays).replace_schema_metadata({KEY: json.dumps(_document(shard)).encode()})
    buffer = io.BytesIO()
    _parquet().write_table(table, buffer)
    return buffer.getvalue()


def _columns(path: Path) -> Columns:
    table = _parquet().read_table(path, use_threads=False, memory_map=False)

    def numbers(name: str, missing: float) -> NDArray[Any]:
        column = table[name].combine_chunks()
        found = column.fill_null(missing).to_numpy(zero_copy_only=False)
        return np.array(found)

    attack = table["attack"].combine_chunks().cast("string").fill_null("")
    names = [name for name in table.column_names if name.startswith(FOUND)]
    return Columns(
        index=numbers("index", 0),
        label=numbers("label", 0),
        prediction=numbers("prediction", 0),
        radius=numbers("radius", 0.0),
        distance=numbers("distance", math.inf),
        attack=np.array(attack.to_pylist(), dtype=np.str_),
        adversarial_prediction=numbers("adversarial_prediction", -1),
        attacked=numbers("attacked", False),
        violated=numbers("violated", False),
        boundary=numbers("boundary", False),
        found={name.removeprefix(FOUND): numbers(name, math.nan) for name in names},
    )


def _shard(path: Path) -> Shard | None:
    """Return what a file says beside its rows, None if it is none of lipcert's, or damaged."""
    if not path.is_file():
        return None
    try:
        metadata = _parquet().read_schema(path).metadata or {}
        return _shard_of(json.loads(metadata[KEY]))
    except Exception:  # what a damaged file makes a reader raise is not limited to a few types
        return None


def _document(shard: Shard) -> dict[str, Any]:
    return {
        "identity": shard.identity,
        "images_sha256": shard.images_sha256,
        "attacks": [
            {name: getattr(attack, name) for name in AttackRow.__slots__ if name != "found"} for attack in shard.attacks
        ],
        "claim": shard.claim,
        "lipschitz_upper_bound": shard.lipschitz_upper_bound,
        "layers": [[layer.name, layer.kind, layer.upper_bound, layer.method] for layer in shard.layers],
        "doubts": shard.doubts,
    }


def _shard_of(document: Mapping[str, Any]) -> Shard:
    return Shard(
        identity=document["identity"],
        images_sha256=document["images_sha256"],
        attacks=tuple(AttackRow(**attack) for attack in document["attacks"]),
        claim={name: tuple(value) if isinstance(value, list) else value for name, value in document["claim"].items()},
        lipschitz_upper_bound=document["lipschitz_upper_bound"],
        layers=tuple(LayerBound(*layer) for layer in document["layers"]),
        doubts=tuple(document["doubts"]),
    )
