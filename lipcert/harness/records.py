"""What came of one chunk of samples: all that an audit has to remember of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Examples = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk belongs: its round, its number in the round, and seconds that the audit had taken by then."""

    round: int
    chunk: int
    elapsed: float


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRecord:
    """What one attack found for M samples, and what it cost.

    Attributes:
        round: number of the round that the chunk belongs to.
        chunk: its number in the round.
        attack: name of the attack.
        winners: where the attack is made of several, the one that found each sample's example; else None throughout.
        samples: M positions in the split.
        distances: distance of the verified adversarial example of each sample; infinite without one.
        classes: class of that example.
        violated: whether it refutes the sample's certificate.
        kept: numbers (0 to M - 1) of those nearer than what was known before.
        examples: ``(K, C, H, W)``, the examples of the ``kept`` ones, as the network reads them.
        seconds: wall-clock time of the search.
        forward_passes: images pushed forward.
        backward_passes: images pushed backward.
        elapsed: seconds that the whole audit had taken when this was known.
    """

    round: int
    chunk: int
    attack: str
    winners: tuple[str | None, ...]
    samples: tuple[int, ...]
    distances: tuple[float, ...]
    classes: tuple[int, ...]
    violated: tuple[bool, ...]
    kept: tuple[int, ...]
    examples: Examples
    seconds: float
    forward_passes: int
    backward_passes: int
    elapsed: float

    def finder(self, number: int) -> str:
        """Return the name of what found a sample's example, for its row."""
        winner = self.winners[number]
        return self.attack if winner is None else f"{self.attack} ({winner})"

    def document(self) -> dict[str, Any]:
        """Return all but the examples as JSON values, every digit kept."""
        return {
            "round": self.round,
            "chunk": self.chunk,
            "attack": self.attack,
            "winners": self.winners,
            "samples": self.samples,
            "distances": [distance if math.isfinite(distance) else None for distance in self.distances],
            "classes": self.classes,
            "violated": self.violated,
            "kept": self.kept,
            "seconds": self.seconds,
            "forward_passes": self.forward_passes,
            "backward_passes": self.backward_passes,
            "elapsed": self.elapsed,
        }


def record_of(document: Mapping[str, Any], examples: Examples) -> ChunkRecord:
    """Return the record that :meth:`ChunkRecord.document` was made of.

    Args:
        document: its JSON values.
        examples: its examples.

    Raises:
        ValueError: values that no record has.
        KeyError: one is missing.
        TypeError: something else than a list where there is to be one.

    Example:
        >>> import numpy as np
        >>> nothing = np.zeros((0, 1, 2, 2), dtype=np.float32)
        >>> record = ChunkRecord(0, 1, "a", (None, "b"), (7, 8), (math.inf, 0.1), (3, 0), (False, True), (), nothing,
        ...     1.0, 9, 8, 2.5)
        >>> again = record_of(record.document(), nothing)
        >>> again.document() == record.document(), again.distances
        (True, (inf, 0.1))
    """
    record = ChunkRecord(
        round=document["round"],
        chunk=document["chunk"],
        attack=document["attack"],
        winners=tuple(document["winners"]),
        samples=tuple(document["samples"]),
        distances=tuple(math.inf if distance is None else distance for distance in document["distances"]),
        classes=tuple(document["classes"]),
        violated=tuple(document["violated"]),
        kept=tuple(document["kept"]),
        examples=examples,
        seconds=document["seconds"],
        forward_passes=document["forward_passes"],
        backward_passes=document["backward_passes"],
        elapsed=document["elapsed"],
    )
    if not _is_plausible(record):
        raise ValueError("expected the values of a record, got others")
    return record


def _is_plausible(record: ChunkRecord) -> bool:
    size = len(record.samples)
    counts = (record.round, record.chunk, record.forward_passes, record.backward_passes)
    return (
        all(len(each) == size for each in (record.winners, record.distances, record.classes, record.violated))
        and len(record.kept) == len(record.examples)
        and all(type(count) is int and count >= 0 for count in (*counts, *record.samples, *record.classes))
        and all(type(number) is int and 0 <= number < size for number in record.kept)
        and all(
            type(each) in (int, float) and each >= 0 for each in (*record.distances, record.seconds, record.elapsed)
        )
        and all(type(violated) is bool for violated in record.violated)
        and all(winner is None or isinstance(winner, str) for winner in record.winners)
        and isinstance(record.attack, str)
    )
