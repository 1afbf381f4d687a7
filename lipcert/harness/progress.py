"""A line that says how far an audit is, what it has found, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from types import TracebackType
from typing import Self

from tqdm import tqdm

from lipcert.harness.result import SampleRow
from lipcert.logs import is_quiet

UNKNOWN_COST = 100  # images that an attack is taken to push forward for a sample if it cannot tell


def state(rows: Sequence[SampleRow]) -> str:
    """Return what is known so far, in a few words.

    Example:
        >>> state([SampleRow(0, 3, 3, 0.25, distance=0.5, attacked=True), SampleRow(1, 3, 3, 0.25)])
        '1 attacked, 0 violated, median ratio 2.00'
    """
    attacked = [row for row in rows if row.attacked]
    ratios = [row.ratio for row in attacked if row.ratio is not None]
    found = f", median ratio {median(ratios):.2f}" if ratios else ""
    return f"{len(attacked):,} attacked, {sum(row.violated for row in attacked):,} violated{found}"


class Progress:
    """The line itself; nothing where there is no terminal.

    It moves by the images that attacks are expected to push forward, or by the clock if the audit has a time.

    Args:
        work: images expected to be pushed forward, by all processes.
        seconds: time of the audit; None if it goes on until the work is done.
        shown: whether this process shows it.
    """

    def __init__(self, work: float, *, seconds: float | None = None, shown: bool = True) -> None:
        self._timed = seconds is not None
        self._done = 0.0
        self._bar = tqdm(
            total=seconds if seconds is not None else work,
            unit="s" if self._timed else "pass",
            unit_scale=not self._timed,
            bar_format="{desc}: {percentage:3.0f}% |{bar:20}| {elapsed}, {remaining} left{postfix}",
            disable=None if shown and not is_quiet() else True,
            leave=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def begin(self, name: str) -> None:
        """Say which attack is at work."""
        self._bar.set_description(name)

    def push(self, images: int, *, most: float) -> None:
        """Count images that an attack pushes forward, up to what the turn was expected to push."""
        if not self._timed:
            self._move(min(self._bar.n + images, self._done + most))

    def finish(self, work: float, rows: Sequence[SampleRow], elapsed: float) -> None:
        """Count a turn as done, whatever it took, and say what is known."""
        self._done += work
        self._move(min(elapsed, self._bar.total) if self._timed else self._done)
        if not self._bar.disable:
            self._bar.set_postfix_str(state(rows))

    def _move(self, place: float) -> None:
        self._bar.update(max(0.0, place - self._bar.n))
