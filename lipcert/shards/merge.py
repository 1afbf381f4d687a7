"""The shards of an audit as one result: every number exact, and of the rows those that are worth drawing or telling."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lipcert.errors import InputError
from lipcert.harness.audit import Subject
from lipcert.harness.caveats import caveats_of
from lipcert.harness.foreign import NO_RULE
from lipcert.harness.ledger import GALLERY
from lipcert.harness.result import AttackRow, AuditResult, GalleryItem, SampleRow
from lipcert.harness.selection import worth_showing
from lipcert.harness.trust import CLEARLY, told_of_black_boxes, too_few_classes
from lipcert.report.numbers import Numbers
from lipcert.report.page import MAX_TABLE_ROWS, tightest
from lipcert.shards.columns import Columns, label_of
from lipcert.shards.numbers import Counts, Quantiles, RowQuantiles, medians, numbers_of_blocks, settle, tried
from lipcert.shards.store import ShardStore

DRAWN = 10_000  # rows, evenly spread, of which figures are drawn
LISTED = 100  # refuted certificates that a report names one by one


@dataclass(frozen=True)
class Sharded:
    """An audit of all shards.

    Attributes:
        result: what was measured; its rows are those worth drawing or telling, in the order of the split.
        numbers: of all samples.
    """

    result: AuditResult
    numbers: Numbers


def merged(
    store: ShardStore,
    count: int,
    *,
    subject: Subject,
    data_sha256: str,
    created: str,
    environment: Mapping[str, str],
) -> Sharded:
    """Return the audit that the first shards of a folder make up; all of them are there.

    Args:
        store: the folder.
        count: number of shards.
        subject: names for the report.
        data_sha256: of the whole split.
        created: when.
        environment: see :class:`~lipcert.harness.result.AuditResult`.

    Raises:
        InputError: shards whose certificates are not of one kind, or that cannot be read any more.
    """
    first = store.shard(0)
    assert first is not None
    counts = Counts(sorted(first.claim["epsilons"]), first.claim["grid"])
    attacks, rows, pictures = AttackTotals(), RowsToTell(certified=first.claim["rule"] != NO_RULE), Pictures(store)
    doubts: dict[str, None] = {}
    constant = 0.0
    for number, columns in enumerate(store.blocks(count)):
        shard = store.shard(number)
        assert shard is not None
        if shard.claim != first.claim:
            raise InputError(f"expected certificates of one kind in all of {store.directory}, got others in {number}")
        counts.add(columns)
        attacks.add(shard.attacks, columns)
        rows.add(columns)
        pictures.add(number, columns)
        doubts |= dict.fromkeys(shard.doubts)
        constant = max(constant, shard.lipschitz_upper_bound)

    def blocks() -> Iterator[Columns]:
        return store.blocks(count)

    quantiles = RowQuantiles(counts.labels)
    distances = attacks.distances()
    settle(blocks, [*quantiles.all(), *distances.values()])
    numbers = numbers_of_blocks(blocks, counts, quantiles)
    classes = len(first.claim["class_names"])
    one_more = first.claim["grid"] if first.claim["norm"] == "patch" else None
    warnings = (
        *doubts,
        *_unlisted(counts.violated),
        *attacks.against(classes),
        *caveats_of(tried(counts, numbers, one_more=one_more), classes=classes, one_more=one_more),
    )
    result = AuditResult(
        created=created,
        command=subject.command,
        model_name=subject.model_name,
        model_sha256=subject.model_sha256,
        data_name=subject.data_name,
        data_split=subject.data_split,
        data_sha256=data_sha256,
        environment=environment,
        lipschitz_upper_bound=constant,
        layers=first.layers,
        rows=rows.told(),
        attacks=attacks.rows(distances),
        gallery=pictures.shown(),
        warnings=warnings,
        doubts=tuple(doubts),
        **first.claim,
    )
    return Sharded(result, numbers)


def _unlisted(violated: int) -> tuple[str, ...]:
    if violated <= LISTED:
        return ()
    return (f"The report names the first {LISTED} of {violated:,} refuted certificates; the shards hold all of them.",)


class RowsToTell:
    """The rows that figures are drawn of and tables tell: evenly spread ones, refuted ones, and the closest calls.

    Args:
        certified: whether anything was certified; without it the closest calls are those of the smallest distance.
    """

    def __init__(self, *, certified: bool) -> None:
        self._certified = certified
        self._stride = 1
        self._spread: list[SampleRow] = []
        self._refuted: list[SampleRow] = []
        self._closest: list[SampleRow] = []

    def add(self, columns: Columns) -> None:
        """Look at some rows, in order."""
        self._spread += [columns.row(number) for number in np.flatnonzero(columns.index % self._stride == 0).tolist()]
        while len(self._spread) > DRAWN:
            self._stride *= 2
            self._spread = [row for row in self._spread if row.index % self._stride == 0]
        room = LISTED - len(self._refuted)
        self._refuted += [columns.row(number) for number in np.flatnonzero(columns.violated)[:room].tolist()]
        nearness = columns.ratio if self._certified else columns.distance
        order = np.lexsort((columns.index, nearness, ~columns.violated))
        calls = [columns.row(number) for number in order[columns.attacked[order]][:MAX_TABLE_ROWS].tolist()]
        self._closest = tightest([*self._closest, *calls], certified=self._certified)[:MAX_TABLE_ROWS]

    def told(self) -> tuple[SampleRow, ...]:
        """Return the rows, in the order of the split."""
        every = {row.index: row for row in (*self._spread, *self._refuted, *self._closest)}
        return tuple(every[index] for index in sorted(every))


class Pictures:
    """The adversarial inputs that a report keeps: of the refuted samples that it names, or else of the closest calls.

    Args:
        store: where the shards are.
    """

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._rows: list[tuple[int, SampleRow]] = []

    def add(self, number: int, columns: Columns) -> None:
        """Look at what a shard has kept, after the shards before."""
        kept = {item.index for item in self._store.gallery(number)}
        self._rows += [
            (number, columns.row(place)) for place in np.flatnonzero(np.isin(columns.index, list(kept))).tolist()
        ]
        shown = worth_showing([row for _, row in self._rows], GALLERY)
        self._rows = [self._rows[place] for place in shown]
        refuted = [each for each in self._rows if each[1].violated]
        self._rows = refuted[:LISTED] if len(refuted) > LISTED else self._rows

    def shown(self) -> tuple[GalleryItem, ...]:
        """Return the pictures, in the order of the split."""
        items: list[GalleryItem] = []
        for number in sorted({number for number, _ in self._rows}):
            items += self._store.gallery(number, {row.index for own, row in self._rows if own == number})
        return tuple(sorted(items, key=lambda item: item.index))


class AttackTotals:
    """What every attack has done, on all shards."""

    def __init__(self) -> None:
        self._totals: dict[str, AttackRow] = {}
        self._successes: Counter[str] = Counter()
        self._both = self._nearer = self._only = 0

    def add(self, attacks: Sequence[AttackRow], columns: Columns) -> None:
        """Count what was done on a shard."""
        for attack in attacks:
            label = label_of(attack)
            self._successes[label] += int(np.isfinite(columns.found[label]).sum())
            known = self._totals.get(label)
            self._totals[label] = attack if known is None else _together(known, attack)
        if any(attack.black_box for attack in attacks):
            self._compare(attacks, columns)

    def against(self, classes: int) -> tuple[str, ...]:
        """Return what the outcome says against the attacks, see :func:`lipcert.harness.trust.result_checks`."""
        names = [attack.name for attack in self._totals.values()]
        said = (too_few_classes(names, classes), told_of_black_boxes(self._both, self._nearer, self._only))
        return tuple(warning for warning in said if warning is not None)

    def distances(self) -> dict[str, Quantiles]:
        """Return what the median distance of every attack's examples is settled by."""
        return {label: medians(functools.partial(_found_by, label)) for label in self._totals}

    def rows(self, distances: Mapping[str, Quantiles]) -> tuple[AttackRow, ...]:
        """Return one row an attack, given the settled distances."""
        return tuple(
            replace(
                total,
                success_rate=self._successes[label] / total.samples,
                median_distance=distances[label].statistics.median(0),
            )
            for label, total in self._totals.items()
        )

    def _compare(self, attacks: Sequence[AttackRow], columns: Columns) -> None:
        """Count where black boxes came clearly nearer, see :func:`lipcert.harness.trust.nearer_without_gradients`."""
        nearest = [np.full(len(columns), math.nan) for _ in range(2)]
        for attack in attacks:
            nearest[attack.black_box] = np.fmin(nearest[attack.black_box], columns.found[label_of(attack)])
        white, black = nearest
        nearer = black < CLEARLY * white
        self._both += int((~np.isnan(white) & ~np.isnan(black)).sum())
        self._nearer += int(nearer.sum())
        self._only += int((nearer & np.isinf(white)).sum())


def _together(known: AttackRow, more: AttackRow) -> AttackRow:
    """Return what one attack has done on several shards, but for what is counted elsewhere."""
    sums = ("samples", "violations", "seconds", "forward_passes", "backward_passes", "won")
    return replace(
        known,
        components=dict(Counter(known.components) + Counter(more.components)),
        **{name: getattr(known, name) + getattr(more, name) for name in sums},
    )


def _found_by(label: str, columns: Columns) -> NDArray[np.float64]:
    found = columns.found.get(label, np.zeros(0))
    return found[np.isfinite(found)]
