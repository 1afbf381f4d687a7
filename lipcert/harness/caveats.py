"""What a reader must know before trusting an audit: one sentence each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lipcert.harness.power import power, share_refuted, share_refuted_at_one_more
from lipcert.harness.result import SampleRow

SHOWN = 10
WEAK = 1.3  # radii too large by so much ought to be noticed,
FEW = 0.1  # on this share of the samples at least


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
    right = sum(row.correct for row in rows)
    found: list[str] = []
    if not attacked:
        found.append("No certificate was attacked: the verdict says nothing about them.")
    elif len(attacked) < len(rows):
        found.append(f"{len(attacked):,} of {len(rows):,} certificates were attacked; the others were not tried.")
    missed = [row.index for row in attacked if row.distance is None]
    if missed:
        found.append(f"No adversarial example was found for {_samples(missed)}: their certificates were not tested.")
    empty = [row.index for row in attacked if row.radius == 0]
    if empty:
        found.append(f"Nothing is certified (radius 0) for {_samples(empty)}, which were attacked all the same.")
    found += _weakness(rows) if one_more is None else _weakness_by_steps(rows, one_more)
    if right * classes <= len(rows):
        found.append(f"The network is no better than chance: {right:,} of {len(rows):,} right, {classes} classes.")
    if boundary:
        found.append(
            f"Rounding: the deployed network changes class just inside the radius of {_samples(sorted(boundary))}, "
            "the real-valued network that is certified does not."
        )
    return tuple(found)


def _weakness(rows: Sequence[SampleRow]) -> list[str]:
    """Return what an audit that stood has to say about the inflation that it would not have noticed."""
    strength, share = power(rows), share_refuted(rows, WEAK)
    if strength is None or share is None or share >= FEW:
        return []
    noticed = f"on {round(share * strength.certificates):,} of {strength.certificates:,} attacked certificates"
    if share > 0:
        return [f"Weak audit: radii too large by a factor of {WEAK:g} would have been refuted {noticed} only."]
    least = strength.smallest
    why = "no adversarial example was found" if least is None else f"the first refutation is at a factor of {least:.3g}"
    return [f"Weak audit: radii too large by a factor of {WEAK:g} would not have been refuted anywhere; {why}."]


def _weakness_by_steps(rows: Sequence[SampleRow], grid: int) -> list[str]:
    """Return the same where radii are small whole numbers of steps."""
    share = share_refuted_at_one_more(rows, grid)
    if share is None or share >= FEW:
        return []
    where = "anywhere" if share == 0 else f"on {share:.1%} of the attacked certificates only"
    said = "would not have been refuted" if share == 0 else "would have been refuted"
    return [f"Weak audit: radii too large by one step of {1 / grid:g} {said} {where}."]


def _samples(indices: Sequence[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:SHOWN])
    rest = len(indices) - SHOWN
    plural = "sample" if len(indices) == 1 else f"{len(indices):,} samples"
    return f"{plural} ({shown}{f' and {rest:,} more' if rest > 0 else ''})"
