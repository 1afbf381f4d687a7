"""The rows of an audit do not depend on whether it was killed, nor on when."""

import itertools
import json
import os
import resource
import signal
import sys
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_problem import linear_problem
from straight_attack import Straight

from lipcert.attacks import Attack, Findings
from lipcert.certificates import certify
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import AuditInterrupted, AuditWriteError, Budget, Stage, Workplace, run_audit
from lipcert.harness.clock import Clock
from lipcert.harness.journal import EXAMPLES, ROWS, Journal
from lipcert.harness.rounds import Rounds

NETWORK, PIXELS, PREDICTION, DISTANCE = linear_problem(samples=17)
IMAGES = ImageSet(PIXELS, PREDICTION)

STAGES = (
    Stage(Straight(beyond=0.5, shaky=0.5), chunk=3),
    Stage(Straight(beyond=0.1, shaky=0.5), share=0.6, chunk=4),
    Stage(Straight(beyond=0.01, shaky=0.5), "certified", 0.4, chunk=2),
)
BUDGET = Budget("three stages", STAGES)


@dataclass(frozen=True)
class Closer(Attack):
    """Halves the way from the example that is known, and notes what it was given."""

    name = "closer"

    def run(self, model, task):
        model(task.inputs)
        SEEN.append(task)
        return (task.inputs + task.start) / 2


SEEN = []


@dataclass(frozen=True)
class Blind(Attack):
    """Finds nothing, unless it may go far."""

    name = "blind"
    fixed_budget = True
    norms = ("l2", "linf")

    def run(self, model, task):
        SEEN.append(task)
        return task.inputs


REAL = partial(certify, arithmetic="real")


def audit(budget=BUDGET, certifier=REAL, **arguments):
    return run_audit(NETWORK, IMAGES, budget=budget, certifier=certifier, **arguments)


def content(result):
    """What has to be the same whatever happened: all but times."""
    attacks = [replace(attack, seconds=0.0) for attack in result.attacks]
    examples = [item.adversarial.tobytes() for item in result.gallery]
    return result.rows, attacks, examples, result.warnings


@pytest.fixture
def seen():
    SEEN.clear()
    return SEEN


@pytest.fixture(scope="module")
def unbroken():
    return content(audit())


def test_each_round_takes_the_samples_closest_to_refutation():
    result = audit()
    first, second, third = result.attacks
    assert (first.samples, second.samples, third.samples) == (17, 11, 7)
    after_one = audit(Budget("one", STAGES[:1])).rows
    after_two = audit(Budget("two", STAGES[:2])).rows
    for before, after, count in ((after_one, after_two, 11), (after_two, result.rows, 7)):
        closest = sorted(before, key=lambda row: row.ratio)[:count]
        moved = {new.index for old, new in zip(before, after, strict=True) if new.distance < old.distance}
        assert moved
        assert moved <= {row.index for row in closest}
    assert sum(attack.won for attack in result.attacks) == 17


def test_an_attack_is_told_what_is_known(seen):
    stages = (Stage(Straight(beyond=0.5)), Stage(Closer(), chunk=6))
    result = audit(Budget("two", stages))
    assert [len(task.inputs) for task in seen] == [6, 6, 5]
    known = audit(Budget("one", stages[:1]))
    order = sorted(known.rows, key=lambda row: row.ratio)
    for number, task in enumerate(seen):
        rows = order[6 * number : 6 * number + 6]
        torch.testing.assert_close(task.inputs, IMAGES.inputs(torch.tensor([row.index for row in rows])))
        torch.testing.assert_close(task.radius, torch.tensor([row.radius for row in rows], dtype=torch.float64))
        distance = (task.start.double() - task.inputs.double()).flatten(1).norm(dim=1)
        torch.testing.assert_close(distance, torch.tensor([row.distance for row in rows], dtype=torch.float64))
    assert len({task.seed for task in seen}) == 3
    assert result.attacks[1].won == 0  # half of the way is not adversarial


def test_the_seed_decides(unbroken):
    assert content(audit()) == unbroken
    assert audit(seed=1).rows != unbroken[0]


def test_a_fixed_budget_spares_what_has_fallen(seen):
    stages = (Stage(Straight()), Stage(Blind(), epsilon=float(DISTANCE.sort().values[5])))
    result = audit(Budget("two", stages))
    assert [task.epsilon for task in seen] == [stages[1].epsilon]
    assert result.attacks[1].samples == 17 - 5
    assert result.attacks[1].parameters == {"epsilon": stages[1].epsilon}


def test_the_missed_are_attacked_again(seen):
    stages = (Stage(Blind(), epsilon=1.0), Stage(Straight(), "missed"), Stage(Blind(), "missed", epsilon=1.0))
    assert [attack.samples for attack in audit(Budget("three", stages)).attacks] == [17, 17]


@dataclass(frozen=True)
class Ensemble(Straight):
    """Says which of its parts found an example."""

    name = "ensemble"

    def run(self, model, task):
        winners = tuple("left" if number % 2 else "right" for number in range(len(task.inputs)))
        candidates = super().run(model, task)
        candidates[0] = task.inputs[0]
        return Findings(candidates, {"winner": winners})


def test_which_part_of_an_attack_won_is_told():
    result = audit(Budget("one", (Stage(Ensemble(), chunk=20),)))
    assert [row.attack for row in result.rows] == [None, *["ensemble (left)", "ensemble (right)"] * 8]
    assert result.attacks[0].components == {"left": 8, "right": 8}
    assert result.attacks[0].won == 16


@dataclass(frozen=True)
class Impossible(Attack):
    """Cannot be run on this network."""

    name = "impossible"

    def run(self, model, task):
        raise InputError("expected 5 classes, got 4")


def test_an_optional_attack_that_cannot_be_run_is_left_out_and_named():
    stages = (Stage(Impossible(), chunk=2, optional=True), Stage(Straight()), Stage(Impossible(), optional=True))
    result = audit(Budget("three", stages))
    assert [attack.name for attack in result.attacks] == ["straight"]
    said = "impossible was left out, as it could not be run: expected 5 classes, got 4."
    assert [warning for warning in result.warnings if "impossible" in warning] == [said]
    with pytest.raises(InputError, match="expected 5 classes"):
        audit(Budget("one", (Stage(Impossible()),)))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("last", [1, 2, 6, 7, 13])
def test_an_audit_that_died_at_any_chunk_goes_on(tmp_path, monkeypatch, unbroken, last):
    calls, enter = [], Rounds._enter_new

    def dying(self, stage, record):
        calls.append(record)
        if len(calls) == last:
            raise Killed
        enter(self, stage, record)

    said = []
    workplace = Workplace(partial=tmp_path, announce=said.append)
    with monkeypatch.context() as patched:
        patched.setattr(Rounds, "_enter_new", dying)
        with pytest.raises(Killed):
            audit(workplace=workplace)
    assert content(audit(workplace=workplace)) == unbroken
    known = [f"going on with an unfinished audit; chunks that are known: {last - 1}"]
    assert said == (known if last > 1 else [])


def test_an_audit_killed_five_times_at_random_ends_with_the_rows_of_an_unbroken_one(tmp_path, unbroken):
    lines = forked(None, tmp_path / "measured")
    generator = np.random.default_rng(0)
    for _ in range(5):
        assert forked(int(generator.integers(lines // 12, lines // 6)), tmp_path / "partial") is None
    records = (tmp_path / "partial" / ROWS).read_bytes().count(b"\n") - 1
    assert 1 <= records < 6 + 3 + 4
    assert content(audit(workplace=Workplace(partial=tmp_path / "partial"))) == unbroken


BOOKKEEPING = ("rounds.py", "ledger.py", "journal.py", "records.py", "clock.py", "selection.py")


def forked(last_line, partial):
    """Run the audit in a process that kills itself at a line of the bookkeeping; return how many it ran."""

    def work():
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            if Path(frame.f_code.co_filename).name not in BOOKKEEPING:
                return None
            lines += event == "line"
            if lines == last_line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        audit(workplace=Workplace(partial=partial))
        sys.settrace(None)
        return lines

    code, said = in_another_process(work)
    assert code == (0 if last_line is None else -signal.SIGKILL)
    return int(said) if said else None


def in_another_process(work):
    """Return the exit code of a process that does the work, and what came of it as text."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; torch is kept from starting some
        child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            os.write(writer, str(work()).encode())
            os._exit(0)
        finally:
            os._exit(1)  # no exception gets into a second pytest
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def test_a_finished_chunk_is_not_attacked_again(tmp_path, monkeypatch):
    workplace = Workplace(partial=tmp_path)
    expected = content(audit(workplace=workplace))
    monkeypatch.setattr(Straight, "run", lambda *_: pytest.fail("attacked again"))
    assert content(audit(workplace=workplace)) == expected


def test_chunks_that_are_missing_in_between_are_made_up_for(tmp_path):
    workplace = Workplace(partial=tmp_path)
    expected = content(audit(workplace=workplace))
    lines = (tmp_path / ROWS).read_bytes().splitlines(keepends=True)
    (tmp_path / ROWS).write_bytes(b"".join(lines[:2] + lines[3:5]))
    assert content(audit(workplace=workplace)) == expected


def test_records_of_other_samples_are_refused(tmp_path, monkeypatch):
    workplace = Workplace(partial=tmp_path)
    audit(workplace=workplace)
    monkeypatch.setattr("lipcert.harness.rounds.most_promising", lambda rows, samples, **_: list(reversed(samples)))
    with pytest.raises(InputError, match="start it over"):
        audit(workplace=workplace)


CHANGES = [
    pytest.param({"seed": 1}, "seed", id="seed"),
    pytest.param({"samples": torch.arange(5)}, "samples", id="samples"),
    pytest.param({"budget": Budget("two", STAGES[:2])}, "stages", id="stages"),
    pytest.param({"certifier": certify}, "certificates", id="certificates"),
]


@pytest.mark.parametrize(("change", "name"), CHANGES)
def test_the_records_of_another_audit_are_not_taken(tmp_path, change, name):
    said = []
    workplace = Workplace(partial=tmp_path / "partial", announce=said.append)
    audit(workplace=workplace)
    assert content(audit(**change, workplace=workplace)) == content(audit(**change))
    assert said == [f"set aside an unfinished audit of other {name}: it is in {tmp_path / 'partial.old'}"]


def test_a_full_disk_hands_over_what_is_known(tmp_path, monkeypatch, unbroken):
    append, taken = Journal.append, []

    def full(self, record):
        taken.append(record)
        if len(taken) > 4:
            self._examples.write(b"half of")
            raise OSError(28, "No space left on device")
        return append(self, record)

    workplace = Workplace(partial=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", full)
        with pytest.raises(AuditWriteError, match="No space left") as stopped:
            audit(workplace=workplace)
    result = stopped.value.result
    assert [row.attacked for row in result.rows] == [True] * 12 + [False] * 5
    assert "file system" in result.warnings[0]
    assert len(taken) == 5
    assert (tmp_path / EXAMPLES).stat().st_size > 0
    assert content(audit(workplace=workplace)) == unbroken


def test_a_file_that_may_not_grow_any_more_ends_the_audit_and_it_can_go_on(tmp_path, unbroken):
    workplace = Workplace(partial=tmp_path)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            audit(workplace=workplace)
        except AuditWriteError as stopped:
            return f"{stopped.strerror}: {sum(attack.samples for attack in stopped.result.attacks)}"

    code, said = in_another_process(work)
    reason, _, known = said.rpartition(": ")
    assert (code, reason) == (0, "File too large")
    lines = (tmp_path / ROWS).read_bytes().splitlines(keepends=True)
    whole = [json.loads(line)["record"] for line in lines[1:] if line.endswith(b"\n")]
    assert int(known) == sum(len(record["samples"]) for record in whole) > 0
    assert content(audit(workplace=workplace)) == unbroken


def test_a_timed_audit_goes_round_until_its_time_is_over(monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(Clock, "elapsed", property(lambda clock: 0.005 * next(ticks)))
    budget = Budget("1 s", STAGES[:1], seconds=1.0, again=STAGES[1:])
    result = audit(budget)
    first, second, third = result.attacks
    assert first.samples == 17
    assert second.forward_passes >= 2 * 11
    assert third.forward_passes >= 2 * 7
    assert result.verdict == "pass"
    assert next(ticks) < 220


def test_a_timed_audit_with_nothing_left_to_do_ends():
    result = audit(Budget("an hour", (Stage(Straight()),), seconds=3600.0, again=(Stage(Straight(), "missed"),)))
    assert [attack.samples for attack in result.attacks] == [17]


def test_too_little_time_for_a_single_attack_is_said():
    with pytest.raises(InputError, match=r"more than \S+ s, which is what certification alone takes"):
        audit(Budget("no time", STAGES, seconds=1e-9))


def test_an_attack_that_outlasts_the_time_is_broken_off(monkeypatch):
    class Endless(Straight):
        name = "endless"

        def run(self, model, task):
            while True:
                model(task.inputs)

    calls = itertools.count()
    monkeypatch.setattr(Clock, "is_over", lambda clock, more=0.0: next(calls) > 9)
    result = audit(Budget("some", (Stage(Straight()), Stage(Endless())), seconds=1.0))
    assert [attack.name for attack in result.attacks] == ["straight"]


def test_ctrl_c_between_chunks_loses_nothing(tmp_path, monkeypatch):
    """A signal that arrives while a record is written waits until it is."""
    append, taken = Journal.append, []

    def interrupted(self, record):
        taken.append(record)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return append(self, record)

    monkeypatch.setattr(Journal, "append", interrupted)
    with pytest.raises(AuditInterrupted) as stopped:
        audit(workplace=Workplace(partial=tmp_path))
    assert sum(row.attacked for row in stopped.value.result.rows) == 9
    lines = (tmp_path / ROWS).read_text().splitlines()
    assert [json.loads(line)["record"].get("chunk") for line in lines] == [None, 0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_breaks_off_an_attack_at_once():
    class Interrupted(Straight):
        name = "interrupted"

        def run(self, model, task):
            signal.raise_signal(signal.SIGINT)
            pytest.fail("went on")

    with pytest.raises(AuditInterrupted) as stopped:
        audit(Budget("two", (STAGES[0], Stage(Interrupted()))))
    assert all(row.attacked for row in stopped.value.result.rows)
