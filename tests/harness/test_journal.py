import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lipcert.errors import InputError
from lipcert.harness.journal import EXAMPLES, ROWS, Journal, discard
from lipcert.harness.records import ChunkRecord

HEADER = {"network": "f" * 64, "seed": 0, "stages": ["one", "two"]}
SHAPE = (1, 2, 3)


def record(number, kept=(0, 2)):
    examples = np.random.default_rng(number).random((len(kept), *SHAPE), dtype=np.float32)
    distances = (0.1 + number / 3, math.inf, 1e-300)
    cost = {"seconds": 0.1 + number, "forward_passes": 9, "backward_passes": 8, "elapsed": 2.5 * number}
    return ChunkRecord(
        0,
        number,
        "attack",
        ("part", None, None),
        (7, 3, number),
        distances,
        (1, 0, 2),
        (True, False, False),
        kept,
        examples,
        **cost,
    )


def opened(directory, header=HEADER):
    return Journal(directory, header, shape=SHAPE, dtype=np.dtype(np.float32))


def written(directory, count):
    journal = opened(directory)
    places = [journal.append(record(number)) for number in range(count)]
    journal.close()
    return places


def assert_holds(directory, count):
    journal = opened(directory)
    assert len(journal.records) == count
    for number, (found, place) in enumerate(journal.records):
        expected = record(number)
        assert found.document() == expected.document()
        assert found.distances == expected.distances
        np.testing.assert_array_equal(found.examples, expected.examples)
        np.testing.assert_array_equal(journal.example(journal.place(place, 1)), expected.examples[1])
    journal.close()


def test_what_was_kept_is_found_again_to_the_bit(tmp_path):
    written(tmp_path / "partial", 3)
    assert_holds(tmp_path / "partial", 3)


def test_a_journal_without_a_folder_keeps_examples(tmp_path):
    journal = opened(None)
    places = [journal.append(record(number)) for number in range(2)]
    np.testing.assert_array_equal(journal.example(journal.place(places[1], 0)), record(1).examples[0])
    assert journal.records == []
    journal.close()


def test_a_record_without_examples_is_a_record(tmp_path):
    journal = opened(tmp_path)
    journal.append(record(0, kept=()))
    journal.append(record(1))
    journal.close()
    journal = opened(tmp_path)
    assert [found.kept for found, _ in journal.records] == [(), (0, 2)]
    journal.close()


@pytest.mark.parametrize("name", [ROWS, EXAMPLES])
def test_wherever_a_file_ends_the_whole_records_before_count_and_more_can_follow(tmp_path, name):
    """A kill, a full disk or a power cut may leave any prefix of either file."""
    written(tmp_path, 3)
    whole = {file: (tmp_path / file).read_bytes() for file in (ROWS, EXAMPLES)}
    lines = whole[ROWS].splitlines(keepends=True)
    bytes_of_examples = len(whole[EXAMPLES]) // 3
    for length in range(0, len(whole[name]), 29):
        for file, content in whole.items():
            (tmp_path / file).write_bytes(content[:length] if file == name else content)
        if name == ROWS:
            expected = max(0, sum(len(b"".join(lines[: n + 1])) <= length for n in range(4)) - 1)
        else:
            expected = length // bytes_of_examples
        assert_holds(tmp_path, expected)
        journal = opened(tmp_path)
        for number in range(expected, 3):
            journal.append(record(number))
        journal.close()
        assert_holds(tmp_path, 3)
        assert {file: (tmp_path / file).read_bytes() for file in whole} == whole


@pytest.mark.parametrize("name", [ROWS, EXAMPLES])
def test_a_flipped_bit_is_noticed(tmp_path, name):
    written(tmp_path, 3)
    content = bytearray((tmp_path / name).read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    (tmp_path / name).write_bytes(content)
    assert_holds(tmp_path, 1)


def test_the_journal_of_another_audit_is_set_aside(tmp_path):
    written(tmp_path / "partial", 2)
    journal = opened(tmp_path / "partial", {**HEADER, "seed": 1, "stages": ["one"]})
    assert (journal.records, journal.set_aside) == ([], ("seed", "stages"))
    journal.append(record(0))
    journal.close()
    assert len((tmp_path / "partial.old" / ROWS).read_text().splitlines()) == 3
    again = opened(tmp_path / "partial")
    assert again.set_aside == ("seed", "stages")
    again.close()
    assert len((tmp_path / "partial.old" / ROWS).read_text().splitlines()) == 2


def test_two_audits_do_not_share_a_journal(tmp_path):
    journal = opened(tmp_path)
    for header in (HEADER, {**HEADER, "seed": 1}):
        with pytest.raises(InputError, match="no other audit"):
            opened(tmp_path, header)
    journal.append(record(0))
    journal.close()
    assert_holds(tmp_path, 1)


def test_the_rows_can_be_read_without_lipcert(tmp_path):
    written(tmp_path, 1)
    header, line = (json.loads(text)["record"] for text in (tmp_path / ROWS).read_text().splitlines())
    assert header["network"] == "f" * 64
    assert line["distances"] == [0.1, None, 1e-300]
    assert line["samples"] == [7, 3, 0]


def test_discarding_what_is_not_there_is_no_error(tmp_path):
    written(tmp_path / "partial", 1)
    for _ in range(2):
        discard(tmp_path / "partial")
        assert not (tmp_path / "partial").exists()


def test_examples_of_another_type_are_kept_in_the_journals(tmp_path):
    wide = replace(record(0), examples=record(0).examples.astype(np.float64))
    journal = opened(tmp_path)
    journal.append(wide)
    journal.close()
    assert_holds(tmp_path, 1)
