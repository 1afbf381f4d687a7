"""How strong an audit was, in one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from lipcert.harness.power import share_refuted, share_refuted_at_one_more
from lipcert.harness.result import SampleRow
from lipcert.report.display import percent_down

STRONG = 1.5
WEAK = 1.3

Strength = Literal["strong", "moderate", "weak"]


def strength(rows: Sequence[SampleRow], *, one_more: int | None = None) -> Strength | None:
    """Grade the attacks by the inflation of the radii that they would have noticed.

    ``"weak"``: radii 1.3 times as large would have passed unnoticed. ``"strong"``: at 1.5 times their radius at least
    half of the attacked certificates would have been refuted. ``"moderate"``: anything between. Where radii are small
    whole numbers, as the sides of patches are, one step more takes the place of either factor.

    Args:
        rows: all rows; those that were not attacked and those of radius 0 are left out.
        one_more: where steps are counted, their number in a unit; None: factors are.

    Returns:
        The grade, or None if no certificate was attacked.

    Example:
        >>> rows = [SampleRow(index, 3, 3, 0.5, distance=0.6 + index / 5, attacked=True) for index in range(4)]
        >>> strength(rows[:1]), strength(rows), strength(rows[1:]), strength([])
        ('strong', 'moderate', 'weak', None)
    """
    return grade(_noticed(rows, WEAK, one_more), _noticed(rows, STRONG, one_more))


def grade(noticed: float | None, refuted: float | None) -> Strength | None:
    """Return the grade of :func:`strength`, given the shares that a weak and a strong audit have to refute."""
    if noticed is None or refuted is None:
        return None
    if noticed == 0:
        return "weak"
    return "strong" if refuted >= 0.5 else "moderate"


def _noticed(rows: Sequence[SampleRow], inflation: float, one_more: int | None) -> float | None:
    return share_refuted(rows, inflation) if one_more is None else share_refuted_at_one_more(rows, one_more)


def strength_reason(noticed: float | None, refuted: float | None, *, by_steps: bool = False) -> str:
    r"""Say in a sentence what the grade rests on; at least one certificate was attacked.

    Args:
        noticed: share of the certificates that a weak audit would not have refuted.
        refuted: share of which a strong audit would have refuted half.
        by_steps: whether steps were counted, rather than factors.

    Example:
        >>> strength_reason(1.0, 1.0)
        'Had all radii been 1.5 times as large, 100\xa0% of the attacked certificates would have been refuted.'
    """
    share = percent_down(refuted)
    if by_steps:
        return f"Had every side been one pixel larger, {share} of the attacked certificates would have been refuted."
    if grade(noticed, refuted) == "weak":
        return f"Radii {WEAK:g} times as large would have passed unnoticed."
    return (
        f"Had all radii been {STRONG:g} times as large, {share} of the attacked certificates would have been refuted."
    )


RULES: Mapping[Strength, str] = {
    "strong": f"at {STRONG:g} times their radius at least half of the certificates are refuted.",
    "moderate": f"some certificates are refuted at {WEAK:g} times their radius, less than half at {STRONG:g} times.",
    "weak": f"not one certificate is refuted at {WEAK:g} times its radius, so an error of that size would have passed.",
}
"""What each grade means."""

RULES_BY_STEPS: Mapping[Strength, str] = {
    "strong": "with one pixel more at least half of the certificates are refuted.",
    "moderate": "with one pixel more some certificates are refuted, less than half.",
    "weak": "with one pixel more not one certificate is refuted, so an error of that size would have passed.",
}
"""The same where sides of patches are attacked."""
