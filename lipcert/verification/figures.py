"""The figures of a report once more, from its rows, which are seen a block at a time."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from lipcert.verification.document import Row

AGREEMENT = 1e-12
LISTED = 100
"""Refuted certificates that a report of shards names one by one."""
GRIDS: Mapping[str, int] = {"patch": 1, "l1": 255}
"""In these norms radii are whole multiples of 1 / grid, and are withstood themselves."""


class Figures:
    """What the rows give.

    Args:
        report: a document that satisfies the schema.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report = report
        self._samples = self._right = 0
        self._radii: list[float] = []
        self._held: Counter[str] = Counter()
        self._ratios = array("d")

    def add(self, rows: Sequence[Row]) -> None:
        """Count some rows."""
        right = [row for row in rows if row.prediction == row.label]
        self._samples += len(rows)
        self._right += len(right)
        self._radii.append(math.fsum(row.radius for row in right))
        for key in self._report["certificates"]["certified_accuracy"]:
            self._held[key] += sum(row.radius >= float(key) for row in right)
        self._ratios.extend(row.ratio for row in rows if row.ratio is not None)

    def errors(self) -> Iterator[str]:
        """Yield one sentence for every figure that the rows, of which there is at least one, do not give."""
        report, count = self._report, self._samples
        certificates = report["certificates"]
        expected: dict[str, tuple[float | None, float | None]] = {
            "data.samples": (report["data"]["samples"], count),
            "clean_accuracy": (report["clean_accuracy"], self._right / count),
            "certificates.average_certified_radius": (
                certificates["average_certified_radius"],
                math.fsum(self._radii) / count,
            ),
        }
        for key, share in certificates["certified_accuracy"].items():
            expected[f"certificates.certified_accuracy.{key}"] = (share, self._held[key] / count)
        middle = median(self._ratios) if self._ratios else None
        expected["tightness.median_ratio"] = (report["tightness"]["median_ratio"], middle)
        smallest = report["power"]["smallest_refuted_inflation"]
        expected["power.smallest_refuted_inflation"] = (smallest, min(self._ratios, default=None))
        for name, (reported, recomputed) in expected.items():
            if not _agree(reported, recomputed):
                yield f"{name} is {reported}, the rows give {recomputed}"


class Violations:
    """What the rows say of the listed violations and of the verdict.

    Args:
        report: a document that satisfies the schema.
        in_shards: whether it is of an audit in shards, which lists the first ``LISTED`` violations.
    """

    def __init__(self, report: Mapping[str, Any], *, in_shards: bool) -> None:
        self._report = report
        self._grid = GRIDS.get(report["certificates"]["norm"])
        self._most = LISTED if in_shards else None
        self._refuted: list[Row] = []
        self._inconsistent: list[str] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Look at some rows."""
        self._inconsistent += [error for row in rows for error in _row_errors(row)]
        self._refuted += [row for row in rows if _is_refuted(row, self._grid)]
        self._refuted = self._refuted[: self._most]

    def errors(self) -> Iterator[str]:
        """Yield one sentence for every disagreement between the rows, the listed violations and the verdict."""
        yield from self._inconsistent
        keys = ("index", "label", "radius", "distance", "attack", "adversarial_prediction")
        listed = [tuple(violation[key] for key in keys) for violation in self._report["violations"]]
        if [_violation(row) for row in self._refuted] != listed:
            indices, refuted = [violation[0] for violation in listed], [row.index for row in self._refuted]
            yield f"violations lists the samples {indices}, the rows refute {refuted}"
        verdict = "fail" if self._refuted else "pass"
        if self._report["verdict"] != verdict:
            yield f"verdict is {self._report['verdict']!r}, the rows give {verdict!r}"


def _row_errors(row: Row) -> Iterator[str]:
    ratio = row.distance / row.radius if row.distance is not None and row.radius > 0 else None
    if not _agree(row.ratio, ratio):
        yield f"sample {row.index} has ratio {row.ratio}, its distance over its radius is {ratio}"
    if (row.distance is None) != (row.attack == ""):
        yield f"sample {row.index} has distance {row.distance} and attack {row.attack or None}"
    if (row.distance is None) != (row.adversarial_prediction is None):
        yield f"sample {row.index} has distance {row.distance} and becomes {row.adversarial_prediction}"
    if row.adversarial_prediction == row.prediction:
        yield f"sample {row.index} is said to become {row.prediction}, the class that it has"


def _is_refuted(row: Row, grid: int | None) -> bool:
    """A certificate on a grid is refuted at its radius as well."""
    if row.distance is None:
        return False
    if grid is None:
        return row.distance < row.radius
    return row.radius > 0 and round(row.distance * grid) <= round(row.radius * grid)


def _violation(row: Row) -> tuple[int, int, float, float | None, str, int | None]:
    return row.index, row.label, row.radius, row.distance, row.attack, row.adversarial_prediction


def _agree(reported: float | None, recomputed: float | None) -> bool:
    if reported is None or recomputed is None:
        return reported is recomputed
    return math.isclose(reported, recomputed, rel_tol=AGREEMENT, abs_tol=AGREEMENT)
