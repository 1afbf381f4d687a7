"""Where an audit runs, and where it leaves what is unfinished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lipcert.harness.team import Team


def _say_nothing(line: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where an audit runs, and where it leaves what is unfinished.

    Attributes:
        team: the processes that share the work.
        partial: folder for the records of finished chunks; an audit that finds its own there goes on with them, and
            whoever has written the report removes it. None: a killed audit starts over.
        announce: told in one line what was found there.
        first: whether this network has not been audited here before: what speaks against trusting attacks on it is
            looked for once, not again for every shard of its images.
        part: whether the images are a part of those that are audited, in which there may be nothing to attack.
    """

    team: Team = field(default_factory=Team)
    partial: Path | None = None
    announce: Callable[[str], object] = _say_nothing
    first: bool = True
    part: bool = False
