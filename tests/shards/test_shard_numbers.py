"""The numbers of an audit in shards are those of all rows at once, to the bit, whatever the rows and shards are."""

from dataclasses import replace

import pytest
from scaled_images import CLASSES, random_result

from lipcert.harness.audit import Subject
from lipcert.harness.caveats import caveats
from lipcert.harness.trust import result_checks
from lipcert.report.numbers import numbers_of
from lipcert.report.page import tightest
from lipcert.shards.merge import DRAWN, LISTED, merged
from lipcert.shards.store import ShardStore

CASES = {
    "ordinary": {},
    "grid": {"grid": 2},
    "nothing attacked": {"attacked": 0.0},
    "all attacked": {"attacked": 1.0},
}


def in_shards(directory, result, size):
    """Write a result as shards of a size, and put them together again."""
    store = ShardStore(directory, {"seed": 0})
    count = -(-len(result.rows) // size)
    for number in range(count):
        begin = number * size
        rows = tuple(replace(row, index=row.index - begin) for row in result.rows[begin : begin + size])
        attacks = tuple(
            replace(
                attack,
                samples=sum(begin <= sample < begin + size for sample in attack.found),
                found={sample - begin: near for sample, near in attack.found.items() if begin <= sample < begin + size},
            )
            for attack in result.attacks
        )
        boundary = frozenset(sample - begin for sample in result.boundary if begin <= sample < begin + size)
        shard = replace(result, rows=rows, attacks=attacks, boundary=boundary)
        store.write(number, shard, "2" * 64, begin=begin)
    return merged(store, count, subject=Subject(), data_sha256="", created="", environment={})


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
@pytest.mark.parametrize("size", [1, 60, 300])
def test_numbers_are_those_of_all_rows(tmp_path, arguments, size):
    result = random_result(30 if size == 1 else 300, seed=size, **arguments)
    result = replace(result, boundary=frozenset({3, 17, 29}))
    found = in_shards(tmp_path, result, size)
    expected = numbers_of(result)
    for name in expected.__slots__:
        assert getattr(found.numbers, name) == getattr(expected, name), name
    one_more = result.grid if result.norm == "patch" else None
    said = caveats(result.rows, classes=CLASSES, boundary=result.boundary, one_more=one_more)
    assert found.result.warnings[-len(said) :] == said
    assert found.result.verdict == result.verdict
    told = {row.index: row for row in found.result.rows}
    assert all(told[row.index] == row for row in result.violations[:LISTED])
    closest = tightest([row for row in result.rows if row.attacked], certified=True)[:20]
    assert tightest([row for row in found.result.rows if row.attacked], certified=True)[:20] == closest


def test_a_wrong_row_is_noticed(tmp_path):
    result = random_result(200, seed=0)
    rows = list(result.rows)
    place = next(row.index for row in rows if row.distance is not None and row.correct)
    rows[place] = replace(rows[place], distance=rows[place].distance * 1.5)
    assert in_shards(tmp_path, replace(result, rows=tuple(rows)), 60).numbers != numbers_of(result)


def test_what_attacks_have_done_is_added_up(tmp_path):
    result = random_result(300, seed=4)
    (walk,) = result.attacks
    distances = {sample: near * (0.5 if sample % 3 else 2.0) for sample, near in walk.found.items()}
    noise = replace(walk, name="noise", black_box=True, found=distances, violations=2, won=1)
    result = replace(result, attacks=(walk, noise))
    found = in_shards(tmp_path, result, 100)
    one, two = found.result.attacks
    finite = sorted(near for near in walk.found.values() if near < float("inf"))
    assert (one.name, one.samples, one.success_rate) == ("walk", len(walk.found), len(finite) / len(walk.found))
    half = len(finite) // 2
    assert one.median_distance == (finite[half] if len(finite) % 2 else (finite[half - 1] + finite[half]) / 2)
    assert (two.violations, two.won, two.seconds, two.forward_passes) == (6, 3, 3.0, 27)
    both = {attack.name: attack.found for attack in result.attacks}
    said = result_checks(result.attacks, classes=CLASSES, found=both, black_box={"noise"})
    assert said[0].startswith("Black box beating white box")
    assert set(said) <= set(found.result.warnings)


def test_refuted_certificates_beyond_those_that_are_listed_are_counted(tmp_path):
    result = random_result(1500, seed=5, attacked=1.0)
    violated = len(result.violations)
    assert violated > LISTED + 20
    found = in_shards(tmp_path, result, 400)
    assert found.numbers.violated == violated
    assert found.result.verdict == "fail"
    assert f"the first {LISTED} of {violated:,} refuted certificates" in " ".join(found.result.warnings)


@pytest.mark.slow
def test_a_report_holds_no_more_rows_than_figures_need(tmp_path):
    result = replace(random_result(2 * DRAWN + 500, seed=6), attacks=())
    found = in_shards(tmp_path, result, 5000)
    assert DRAWN / 2 < len(found.result.rows) < DRAWN + LISTED + 20
    assert found.numbers == numbers_of(result)
