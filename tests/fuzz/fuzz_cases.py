"""A share of the damaged files that every reader is handed, and those that were once taken wrongly."""

import zipfile
from pathlib import Path

import pytest
from fuzz_readers import fuzzed, made
from guard import Victim, verdict
from victims import VICTIMS

from lipcert.errors import InputError

with zipfile.ZipFile(Path(__file__).with_name("regressions.zip")) as _archive:
    REGRESSIONS = {name: _archive.read(name) for name in _archive.namelist()}  # <reader>/<number>
INPUTS = 200


@pytest.mark.parametrize("name", VICTIMS)
def test_damaged_files_are_refused_in_one_line_or_are_as_good_as_whole_ones(name):
    numbers = range(INPUTS // 10 if name == "run-config" else INPUTS)
    tally = fuzzed(VICTIMS[name], numbers, seed=0)
    assert tally.failures == []
    assert tally.refused + tally.accepted == len(numbers)


@pytest.mark.parametrize("name", sorted({name.partition("/")[0] for name in REGRESSIONS}))
def test_what_was_once_taken_wrongly_is_not_any_more(name, tmp_path):
    said = {
        each: verdict(VICTIMS[name], tmp_path, content)
        for each, content in REGRESSIONS.items()
        if each.startswith(f"{name}/")
    }
    assert {each: word for each, word in said.items() if word not in ("refused", "accepted")} == {}


def test_inputs_depend_on_reader_seed_and_number_alone():
    victim = VICTIMS["report"]
    first = [made(victim, 0, number) for number in range(20)]
    assert [made(victim, 0, number) for number in reversed(range(20))] == first[::-1]
    assert [made(victim, 1, number) for number in range(20)] != first


def refused(folder, content):
    raise InputError("expected something else")


def hungry(folder, content):
    try:
        bytearray(1 << 50)
    except MemoryError as error:
        raise InputError("expected a smaller file") from error


def greedy(folder, content):
    return len(bytearray(1 << 29))


@pytest.mark.parametrize(
    ("read", "complaint", "said"),
    [
        (refused, None, "refused"),
        (lambda folder, content: content, None, "accepted"),
        (lambda folder, content: content, "wrong", "accepted silently: wrong"),
        (lambda folder, content: 1 / 0, None, "crashed with ZeroDivisionError"),
        (hungry, None, "ran out of memory"),
        (greedy, None, "allocated "),
    ],
    ids=["refusal", "acceptance", "silence", "crash", "hunger", "greed"],
)
def test_a_reader_that_misbehaves_is_noticed(read, complaint, said, tmp_path):
    victim = Victim("planted", lambda rng: b"x", read, lambda content, found: complaint)
    assert verdict(victim, tmp_path, b"x").startswith(said)


def test_a_reader_that_hangs_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("guard.SECONDS", 0.1)

    def endless(folder, content):
        while True:
            pass

    assert verdict(Victim("planted", bytes, endless, lambda *_: None), tmp_path, b"") == "hung for 0.1 s"
