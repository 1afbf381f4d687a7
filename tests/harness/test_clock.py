import signal
import threading

import pytest

from lipcert.harness import SampleRow
from lipcert.harness.clock import Clock, Interrupts, TimeUp
from lipcert.harness.power import INFLATIONS, power, share_refuted
from lipcert.harness.progress import Progress


def test_a_clock_without_a_limit_never_ends():
    clock = Clock()
    clock.check()
    assert not clock.is_over(float("inf"))


def test_time_that_is_over_breaks_off():
    clock = Clock(limit=10.0)
    clock.check(3)
    clock.before = 11.0
    with pytest.raises(TimeUp):
        clock.check()
    assert not issubclass(TimeUp, Exception)  # or an attack that survives its own failures would survive it


def test_the_first_interrupt_waits_for_what_must_not_be_broken_off():
    interrupts = Interrupts()
    with interrupts.handled():
        signal.raise_signal(signal.SIGINT)
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt), interrupts.breakable():
            pytest.fail("went on")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_attack_is_interrupted_at_once():
    interrupts = Interrupts()
    with interrupts.handled(), pytest.raises(KeyboardInterrupt), interrupts.breakable():
        signal.raise_signal(signal.SIGINT)
    assert interrupts.requested


def test_a_process_that_follows_leaves_it_to_the_other():
    with Interrupts(ignore=True).handled():
        signal.raise_signal(signal.SIGINT)


def test_outside_of_the_main_thread_nothing_is_taken_over():
    found = []

    def work():
        with Interrupts().handled():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


class Bar:
    """Stands in for the bar and keeps where it stood."""

    def __init__(self, **settings):
        self.settings, self.n, self.places, self.said = settings, 0, [], []
        self.total, self.disable = settings["total"], settings["disable"]

    def update(self, by):
        assert by >= 0
        self.n += by
        self.places.append(self.n)

    def set_description(self, text):
        self.said.append(text)

    def set_postfix_str(self, text):
        self.said.append(text)

    def close(self):
        self.said.append("closed")


ROWS = [SampleRow(0, 0, 0, 0.5, 1.0, attacked=True)]


def test_the_bar_moves_by_what_was_expected_whatever_an_attack_does(monkeypatch):
    monkeypatch.setattr("lipcert.harness.progress.tqdm", Bar)
    with Progress(30.0) as progress:
        progress.begin("first")
        progress.push(5, most=10.0)
        progress.push(50, most=10.0)
        progress.finish(10.0, ROWS, 1.0)
        progress.finish(20.0, ROWS, 2.0)
    bar = progress._bar
    assert bar.places == [5, 10.0, 10.0, 30.0]
    assert bar.said == ["first", *["1 attacked, 0 violated, median ratio 2.00"] * 2, "closed"]


def test_the_bar_of_a_timed_audit_is_its_clock(monkeypatch):
    monkeypatch.setattr("lipcert.harness.progress.tqdm", Bar)
    with Progress(30.0, seconds=60.0) as progress:
        progress.push(5, most=10.0)
        progress.finish(10.0, ROWS, 12.5)
        progress.finish(10.0, ROWS, 61.0)
    assert (progress._bar.total, progress._bar.places) == (60.0, [12.5, 60.0])


def test_a_process_that_follows_shows_nothing():
    with Progress(30.0, shown=False) as progress:
        progress.finish(10.0, ROWS, 1.0)
        assert progress._bar.disable


def attacked(radius, distance):
    return SampleRow(0, 0, 0, radius, distance, attacked=True)


def test_power_counts_attacked_certificates_only():
    rows = [attacked(1.0, 1.2), attacked(1.0, 1.5), attacked(1.0, 4.0), attacked(1.0, None), attacked(0.0, 0.1)]
    found = power([*rows, SampleRow(9, 0, 0, 1.0)])
    assert (found.certificates, found.smallest, found.median) == (4, 1.2, 2.75)
    assert dict(zip(INFLATIONS, found.shares, strict=True)) == {1.1: 0, 1.3: 0.25, 1.5: 0.25, 2: 0.5, 3: 0.5, 5: 0.75}
    assert share_refuted(rows, 1.2) == 0
    assert share_refuted(rows, 1.5000001) == 0.5


def test_power_of_an_audit_that_found_nothing():
    found = power([attacked(1.0, None)])
    assert (found.certificates, found.smallest, found.median, found.shares) == (1, None, None, (0.0,) * len(INFLATIONS))
    assert power([attacked(0.0, 0.5)]) is None
    assert share_refuted([attacked(0.0, 0.5)], 2) is None
