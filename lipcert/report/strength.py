"""How strong an audit was, in one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from lipcert.harness.power import share_refuted
from lipcert.harness.result import SampleRow
from lipcert.report.display import percent_down

STRONG = 1.5
WEAK = 1.3

Strength = Literal["strong", "moderate", "weak"]


def strength(rows: Sequence[SampleRow]) -> Strength | None:
    """Grade the attacks by the inflation of the radii that they would have noticed.

    ``"weak"``: radii 1.3 times as large would have passed unnoticed. ``"strong"``: at 1.5 times their radius at least
    half of the attacked certificates would have been refuted. ``"moderate"``: anything between.

    Args:
        rows: all rows; those that were not attacked and those of radius 0 are left out.

    Returns:
        The grade, or None if no certificate was attacked.

    Example:
        >>> rows = [SampleRow(index, 3, 3, 0.5, distance=0.6 + index / 5, attacked=True) for index in range(4)]
        >>> strength(rows[:1]), strength(rows), strength(rows[1:]), strength([])
        ('strong', 'moderate', 'weak', None)
    """
    noticed, refuted = share_refuted(rows, WEAK), share_refuted(rows, STRONG)
    if noticed is None or refuted is None:
        return None
    if noticed == 0:
        return "weak"
    return "strong" if refuted >= 0.5 else "moderate"


def strength_reason(rows: Sequence[SampleRow]) -> str:
    r"""Say in a sentence what the grade rests on; at least one certificate was attacked.

    Example:
        >>> strength_reason([SampleRow(0, 3, 3, 0.5, distance=0.6, attacked=True)])
        'Had all radii been 1.5 times as large, 100\xa0% of the attacked certificates would have been refuted.'
    """
    if strength(rows) == "weak":
        return f"Radii {WEAK:g} times as large would have passed unnoticed."
    share = percent_down(share_refuted(rows, STRONG))
    return (
        f"Had all radii been {STRONG:g} times as large, {share} of the attacked certificates would have been refuted."
    )


RULES: Mapping[Strength, str] = {
    "strong": f"at {STRONG:g} times their radius at least half of the certificates are refuted.",
    "moderate": f"some certificates are refuted at {WEAK:g} times their radius, less than half at {STRONG:g} times.",
    "weak": f"not one certificate is refuted at {WEAK:g} times its radius, so an error of that size would have passed.",
}
"""What each grade means."""
