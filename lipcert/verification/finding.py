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


class Errors:
    """What is wrong, seen part by part: how many there are, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, errors: Iterable[str]) -> None:
        """Count sentences, one an error."""
        for error in errors:
            self.count += 1
            if self.count <= SHOWN:
                self._first.append(error)

    def finding(self, name: str, otherwise: str) -> Finding:
        """Return what a check found, with its first errors; without any it stands, and ``otherwise`` is said."""
        more = f"; and {self.count - SHOWN:,} more" if self.count > SHOWN else ""
        return Finding(name, not self.count, "; ".join(self._first) + more if self.count else otherwise)


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
    found = Errors()
    found.add(errors)
    return found.finding(name, otherwise)
