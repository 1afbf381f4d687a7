"""What a reader must know before trusting an audit: one sentence each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lipcert.harness.power import Power, power, share_refuted, share_refuted_at_one_more
from lipcert.harness.result import SampleRow

SHOWN = 10
WEAK = 1.3  # radii too large by so much ought to be noticed,
FEW = 0.1  # on this share of the samples at least


@dataclass(frozen=True, slots=True)
class Samples:
    """Some samples: how many they are, and the first of them."""

    count: int
    first: tuple[int, ...]

    @classmethod
    def of(cls, indices: Iterable[int]) -> Samples:
        """Return what is told of these samples."""
        found = sorted(indices)
        return cls(len(found), tuple(found[:SHOWN]))

    def __add__(self, later: Samples) -> Samples:
        return Samples(self.count + later.count, (self.first + later.first)[:SHOWN])

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.first))
        rest = self.count - len(self.first)
        plural = "sample" if self.count == 1 else f"{self.count:,} samples"
        return f"{plural} ({shown}{f' and {rest:,} more' if rest > 0 else ''})"


NONE = Samples(0, ())


@dataclass(frozen=True, slots=True)
class Tried:
    """What an audit has tried, as far as a reader must know it.

    Attributes:
        samples: number of samples of the split.
        right: how many of them are classified right.
        attacked: how many were attacked.
        missed: the attacked ones without an adversarial example.
        empty: the attacked ones with radius 0.
        boundary: those whose deployed network changes class just inside the radius, by rounding alone.
        power: see :func:`~lipcert.harness.power.power`.
        noticed: share of the certificates that would have been refuted at ``WEAK`` times their radius, or by one step
            more where steps are counted; None if none was attacked.
    """

    samples: int
    right: int
    attacked: int
    missed: Samples
    empty: Samples
    boundary: Samples
    power: Power | None
    noticed: float | None


def caveats(
    rows: Sequence[SampleRow], *, classes: int, boundary: Collection[int] = (), one_more: int | None = None
) -> tuple[str, ...]:
    """Return the warnings that follow from what was measured.

    Args:
        rows: every sample of the split.
        classes: number of classes K.
        boundary: samples whose deployed network changes class just inside the radius, by rounding alone.
        one_more: where radii are small whole multiples of 1 / one_more, so that factors mean little: that number. An
            audit is then weak if it would not have noticed radii that are one step too large.

    Example:
        >>> rows = [SampleRow(0, 1, 1, 0.5), SampleRow(1, 0, 0, 0.2)]
        >>> caveats(rows, classes=2)
        ('No certificate was attacked: the verdict says nothing about them.',)
    """
    attacked = [row for row in rows if row.attacked]
    tried = Tried(
        samples=len(rows),
        right=sum(row.correct for row in rows),
        attacked=len(attacked),
        missed=Samples.of(row.index for row in attacked if row.distance is None),
        empty=Samples.of(row.index for row in attacked if row.radius == 0),
        boundary=Samples.of(boundary),
        power=power(rows),
        noticed=share_refuted(rows, WEAK) if one_more is None else share_refuted_at_one_more(rows, one_more),
    )
    return caveats_of(tried, classes=classes, one_more=one_more)


def caveats_of(tried: Tried, *, classes: int, one_more: int | None = None) -> tuple[str, ...]:
    """Return the warnings of :func:`caveats`, given what they rest on."""
    found: list[str] = []
    if not tried.attacked:
        found.append("No certificate was attacked: the verdict says nothing about them.")
    elif tried.attacked < tried.samples:
        found.append(f"{tried.attacked:,} of {tried.samples:,} certificates were attacked; the others were not tried.")
    if tried.missed.count:
        found.append(f"No adversarial example was found for {tried.missed}: their certificates were not tested.")
    if tried.empty.count:
        found.append(f"Nothing is certified (radius 0) for {tried.empty}, which were attacked all the same.")
    found += _weakness(tried) if one_more is None else _weakness_by_steps(tried, one_more)
    if tried.right * classes <= tried.samples:
        told = f"{tried.right:,} of {tried.samples:,} right, {classes} classes"
        found.append(f"The network is no better than chance: {told}.")
    if tried.boundary.count:
        found.append(
            f"Rounding: the deployed network changes class just inside the radius of {tried.boundary}, "
            "the real-valued network that is certified does not."
        )
    return tuple(found)


def _weakness(tried: Tried) -> list[str]:
    """Return what an audit that stood has to say about the inflation that it would not have noticed."""
    strength, share = tried.power, tried.noticed
    if strength is None or share is None or share >= FEW:
        return []
    noticed = f"on {round(share * strength.certificates):,} of {strength.certificates:,} attacked certificates"
    if share > 0:
        return [f"Weak audit: radii too large by a factor of {WEAK:g} would have been refuted {noticed} only."]
    least = strength.smallest
    why = "no adversarial example was found" if least is None else f"the first refutation is at a factor of {least:.3g}"
    return [f"Weak audit: radii too large by a factor of {WEAK:g} would not have been refuted anywhere; {why}."]


def _weakness_by_steps(tried: Tried, grid: int) -> list[str]:
    """Return the same where radii are small whole numbers of steps."""
    share = tried.noticed
    if share is None or share >= FEW:
        return []
    where = "anywhere" if share == 0 else f"on {share:.1%} of the attacked certificates only"
    said = "would not have been refuted" if share == 0 else "would have been refuted"
    return [f"Weak audit: radii too large by one step of {1 / grid:g} {said} {where}."]
