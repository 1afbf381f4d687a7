"""What is left of a published claim once the adversary adapts: a sentence made of the measured numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TOLERANCE = 0.05
"""Shares of samples that differ by no more count as the same."""

Fate = Literal["falls", "survives in part", "survives"]
FATES: tuple[Fate, ...] = ("falls", "survives in part", "survives")


@dataclass(frozen=True)
class Verdict:
    """What became of a claim under one threat.

    Attributes:
        fate: in a word.
        sentence: with the numbers.
    """

    fate: Fate
    sentence: str


def verdict(*, published: float, transfer: float, worst: float, undefended: float, threat: str) -> Verdict:
    """Return what became of a claim under one threat.

    A defense *falls* if the strongest attack leaves it no more than 5 points above the undefended network. It
    *survives* if the strongest attack takes no more than 5 points from what attacks without adaptation left, and
    *survives in part* if it loses more than that and still stands above the undefended network.

    Args:
        published: robust accuracy by attacks without adaptation, which is how it was published.
        transfer: robust accuracy by examples that were crafted on another network with the whole budget.
        worst: robust accuracy under the strongest attack.
        undefended: that of the undefended network.
        threat: how the text calls it.

    Example:
        >>> print(verdict(published=0.6, transfer=0.3, worst=0.04, undefended=0.02, threat="L2 1").sentence)
        L2 1: 60.0 % without adaptation, 30.0 % by transfer, 4.0 % at worst; undefended 2.0 %: it falls.
    """
    if worst - undefended <= TOLERANCE + 1e-9:
        fate: Fate = "falls"
    else:
        fate = "survives" if published - worst <= TOLERANCE + 1e-9 else "survives in part"
    numbers = (
        f"{threat}: {published:.1%} without adaptation, {transfer:.1%} by transfer, {worst:.1%} at worst; "
        f"undefended {undefended:.1%}"
    ).replace("%", " %")
    return Verdict(fate, f"{numbers}: it {fate}.")


def overall(fates: list[Fate]) -> Fate:
    """Return the fate of a claim about several threats: that of the worst.

    Example:
        >>> overall(["survives", "falls"])
        'falls'
    """
    return min(fates, key=FATES.index)
