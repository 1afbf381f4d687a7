"""The work of an audit: round by round, chunk by chunk, on one process or several."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn as nn

from lipcert.errors import InputError
from lipcert.harness.budget import Budget, Stage
from lipcert.harness.certifying import norm_of, turns
from lipcert.harness.clock import Clock, Interrupts, TimeUp
from lipcert.harness.journal import Journal
from lipcert.harness.ledger import Ledger, Setting
from lipcert.harness.progress import UNKNOWN_COST, Progress
from lipcert.harness.records import ChunkRecord, Place
from lipcert.harness.selection import chunks, most_promising
from lipcert.harness.team import Team

End = Literal["done", "interrupted", "time", "unwritable"]
Chunk = tuple[int, tuple[int, ...]]


@dataclass(slots=True)
class Rounds:
    """Attacks samples stage by stage.

    In each round the samples are put in order by what is known after the last one, and cut into chunks. Neither depends
    on the number of processes; randomness comes from the numbers of round and chunk. So the rows do not depend on who
    did what, nor on whether the audit was killed in between.

    Attributes:
        network: on the team's device.
        ledger: the book; it knows what the clean images have shown.
        journal: keeps every chunk; those that it has already are not attacked again.
        team: processes that share each turn.
        clock: says when the time is over.
        seed: of everything random.
        interrupts: how Ctrl-C is taken.
        failure: what the file system said when it refused a record.
        left_out: optional attacks that could not be run, and why.
    """

    network: nn.Module
    ledger: Ledger
    journal: Journal
    team: Team
    clock: Clock
    seed: int = 0
    interrupts: Interrupts = field(default_factory=Interrupts)
    failure: OSError | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    _known: dict[tuple[int, int], tuple[ChunkRecord, int]] = field(default_factory=dict)
    _last_turn: float = 0.0

    def run(self, budget: Budget, samples: Sequence[int]) -> End:
        """Go through the rounds of a budget; return how that ended.

        Args:
            budget: stages, and maybe a time.
            samples: positions that may be attacked.

        Raises:
            InputError: records that do not fit, or a process that has died.
        """
        found = self.team.agreed(self.journal.records)
        self._known = {(record.round, record.chunk): (record, place) for record, place in found}
        self.journal.records = []
        work = sum(_expected_work(stage, len(samples), first=stage is budget.stages[0]) for stage in budget.stages)
        idle = 0
        with self.interrupts.handled(), Progress(work, seconds=budget.seconds, shown=self.team.leads) as progress:
            for number, stage in enumerate(budget.rounds()):
                chosen = most_promising(
                    self.ledger.rows,
                    samples,
                    which=stage.which,
                    share=stage.share,
                    least=stage.least,
                    epsilon=stage.epsilon,
                )
                idle = 0 if chosen else idle + 1
                if idle > len(budget.stages) + len(budget.again):
                    break  # nothing is left to go round for
                expected = _expected_work(stage, len(samples), first=number == 0)
                end = self._round(number, stage, chosen, work=expected, progress=progress)
                if end != "done":
                    return end
        return self.team.agreed("unwritable" if self.failure else "done")

    def _round(self, number: int, stage: Stage, chosen: Sequence[int], *, work: float, progress: Progress) -> End:
        progress.begin(stage.attack.name)
        self._last_turn = 0.0
        left: list[Chunk] = []
        if stage.attack.name in self.left_out:
            chosen = ()
        for place, samples in enumerate(chunks(chosen, stage.chunk)):
            if (number, place) in self._known:
                self._enter_known(stage, number, place, samples)
            else:
                left.append((place, samples))
        total = sum(len(samples) for _, samples in left)
        for turn in turns(left, self.team.size):
            end = self.team.agreed(self._end())
            if end != "done":
                return end
            share = work * sum(len(samples) for _, samples in turn) / total
            end = self._turn(number, stage, turn, work=share, progress=progress)
            if end != "done":
                return end
            if stage.attack.name in self.left_out:
                break
        if not left:
            progress.finish(work, self.ledger.rows, self.clock.elapsed)
        return "done"

    def _turn(self, number: int, stage: Stage, turn: Sequence[Chunk], *, work: float, progress: Progress) -> End:
        begun = self.clock.elapsed

        def attack(chunk: Chunk) -> ChunkRecord | str | None:
            return self._attack(number, stage, *chunk, work=work, progress=progress)

        results = self.team.in_turn(turn, attack)
        self._last_turn = self.clock.elapsed - begun
        for result in results:
            if isinstance(result, str):
                self.left_out[stage.attack.name] = result
            elif result is not None and self.failure is None:
                self._enter_new(stage, result)
        if None in results:
            end = self._end()
            return self.team.agreed("time" if end == "done" else end)
        progress.finish(work, self.ledger.rows, self.clock.elapsed)
        return "done"

    def _end(self) -> End:
        """Return whether the leading process sees a reason to stop."""
        if self.failure is not None:
            return "unwritable"
        if self.interrupts.requested:
            return "interrupted"
        return "time" if self.clock.is_over(self._last_turn) else "done"

    def _attack(
        self, number: int, stage: Stage, place: int, samples: tuple[int, ...], *, work: float, progress: Progress
    ) -> ChunkRecord | str | None:
        """Attack one chunk; None if that was broken off, a reason if the attack may be left out and cannot be run."""
        ledger, device = self.ledger, self.team.device
        where = torch.tensor(samples)
        certificate = ledger.certificate
        told = certificate.norm == "l2" or certificate.grid is not None
        radius = certificate.radius[where].to(device) if told else None

        def on_forward(images: int) -> None:
            self.clock.check()
            progress.push(images * self.team.size, most=work)

        try:
            with self.interrupts.breakable():
                outcome = stage.attack(
                    self.network,
                    ledger.images.inputs(where).to(device),
                    certificate.prediction[where].to(device),
                    norm=norm_of(certificate),
                    epsilon=stage.epsilon,
                    radius=radius,
                    # What black boxes find has to be their own, to be compared with what gradients found.
                    start=None if stage.attack.black_box else ledger.nearest(samples).to(device),
                    seed=seed_of(self.seed, number, place),
                    on_forward=on_forward,
                )
        except KeyboardInterrupt:
            self.interrupts.requested = True
            return None
        except TimeUp:
            return None
        except (InputError, RuntimeError) as error:  # too few classes, no gradients, odd sizes
            if not stage.optional:
                raise
            return " ".join(str(error).split())
        place_of = Place(number, place, self.clock.elapsed)
        return ledger.record(samples, outcome, attack=stage.attack.name, place=place_of)

    def _enter_new(self, stage: Stage, record: ChunkRecord) -> None:
        try:
            first = self.journal.append(record)
        except OSError as error:
            self.failure = error
            return
        self.ledger.enter(Setting(stage.attack, stage.epsilon), record, first)

    def _enter_known(self, stage: Stage, number: int, place: int, samples: tuple[int, ...]) -> None:
        record, first = self._known.pop((number, place))
        if record.samples != samples:
            raise InputError(
                "expected the unfinished audit to be repeatable, but it chose other samples then; start it over"
            )
        if not self.team.leads:
            first = self.journal.append(record)
        self.clock.before = max(self.clock.before, record.elapsed)
        self.ledger.enter(Setting(stage.attack, stage.epsilon), record, first)


def seed_of(*numbers: int) -> int:
    """Return a seed that depends on all of the numbers.

    Example:
        >>> seed_of(0, 1, 2) == seed_of(0, 1, 2) != seed_of(0, 2, 1)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=6).digest(), "little")


def _expected_work(stage: Stage, samples: int, *, first: bool) -> float:
    """Return how many images an attack will push forward, as far as can be told before."""
    if stage.which == "missed" and not first:  # it is hoped that nothing is
        return 0.0
    expected = min(samples, max(stage.least, round(stage.share * samples)))
    known = stage.attack.forward_budget(expected)
    return float(UNKNOWN_COST * expected if known is None else known)
