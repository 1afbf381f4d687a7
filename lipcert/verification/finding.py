"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: what was checked, one word.
        stands: whether it was found as reported; None where it could not be checked.
        text: what was found, one sentence.
    """

    name: str
    stands: bool | None
    text: str


def finding_of(name: str, errors: Iterable[str], otherwise: str) -> Finding:
    """Return what a check found, with its first errors.

    Args:
        name: what was checked.
        errors: one sentence each.
        otherwise: what to say if there are none.

    Example:
        >>> finding_of("rows", ["one is missing"], "all there")
        Finding(name='rows', stands=False, text='one is missing')
    """
    found = list(errors)
    more = f"; and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return Finding(name, not found, "; ".join(found[:SHOWN]) + more if found else otherwise)
