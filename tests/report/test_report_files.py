"""The files of a report: complete, exact, and never half-written."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_cases import refuted_result, tiny_result
from safetensors.numpy import load_file

from lipcert.errors import InputError
from lipcert.harness.result import SampleRow
from lipcert.report import render_html, report_document, write_report

FILES = ["adversarial.safetensors", "report.html", "report.json", "samples.csv"]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_all_files_are_written(tmp_path):
    result = refuted_result()
    page = write_report(result, tmp_path / "runs" / "audit")
    assert page == tmp_path / "runs" / "audit" / "report.html"
    assert names(page.parent) == FILES
    assert page.read_text(encoding="utf-8") == render_html(result)
    assert json.loads((page.parent / "report.json").read_text()) == report_document(result)


def test_table_has_every_row_with_every_digit(tmp_path):
    radius, distance = 0.1 + 0.2, 2 / 3
    rows = (
        SampleRow(7, 1, 1, np.float64(radius), distance, 'walk, "slow"', attacked=True, adversarial_prediction=0),
        SampleRow(8, 0, 2, 0.0, attacked=True),
        SampleRow(9, 0, 0, 1e-17),
    )
    write_report(tiny_result(rows=rows), tmp_path)
    with (tmp_path / "samples.csv").open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert list(first) == [
        "index",
        "label",
        "prediction",
        "radius",
        "distance",
        "attack",
        "ratio",
        "adversarial_prediction",
    ]
    assert (first["index"], first["label"], first["prediction"]) == ("7", "1", "1")
    assert (float(first["radius"]), float(first["distance"])) == (radius, distance)
    assert float(first["ratio"]) == distance / radius
    assert first["attack"] == 'walk, "slow"'
    assert first["adversarial_prediction"] == "0"
    assert [second[name] for name in ("distance", "attack", "ratio", "adversarial_prediction")] == [""] * 4
    assert float(third["radius"]) == 1e-17


def test_adversarial_inputs_of_refuted_certificates_are_kept(tmp_path):
    result = refuted_result()
    write_report(result, tmp_path)
    tensors = load_file(tmp_path / "adversarial.safetensors")
    assert tensors["index"].tolist() == [0, 3]
    assert {row.index for row in result.violations} <= set(tensors["index"].tolist())
    for position, item in enumerate(result.gallery):
        np.testing.assert_array_equal(tensors["inputs"][position], item.image)
        np.testing.assert_array_equal(tensors["adversarial"][position], item.adversarial)


def test_images_in_any_memory_order_are_kept(tmp_path):
    [item] = tiny_result().gallery
    image = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 24)
    write_report(tiny_result(gallery=(replace(item, image=image, adversarial=image[:, ::-1]),)), tmp_path)
    tensors = load_file(tmp_path / "adversarial.safetensors")
    np.testing.assert_array_equal(tensors["inputs"][0], image)
    np.testing.assert_array_equal(tensors["adversarial"][0], image[:, ::-1])


def test_adversarial_inputs_of_an_earlier_audit_do_not_stay(tmp_path):
    write_report(refuted_result(), tmp_path)
    write_report(tiny_result(gallery=()), tmp_path)
    assert names(tmp_path) == ["report.html", "report.json", "samples.csv"]


def test_same_result_gives_the_same_bytes(tmp_path):
    first = contents(write_report(refuted_result(), tmp_path / "a").parent)
    second = contents(write_report(refuted_result(), tmp_path / "b").parent)
    assert first == second


@pytest.fixture(scope="module")
def two_reports(tmp_path_factory):
    """The contents of two reports that differ in every file."""
    old, new = (tmp_path_factory.mktemp(name) for name in ("old", "new"))
    write_report(refuted_result(), old)
    write_report(refuted_result_later(), new)
    return contents(old), contents(new)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failing", range(4))
def test_a_failing_write_leaves_whole_files_only(tmp_path, monkeypatch, two_reports, step, failing):
    old, new = two_reports
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    calls = []
    owner, real = (os, os.fsync) if step == "fsync" else (Path, Path.replace)

    def full_disk(*arguments):
        calls.append(arguments)
        if len(calls) > failing:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(owner, step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(refuted_result_later(), tmp_path)
    found = contents(tmp_path)
    assert sorted(found) == FILES
    assert all(found[name] in (old[name], new[name]) for name in FILES)
    assert sum(found[name] != old[name] for name in FILES) == failing


def refuted_result_later():
    """Another audit whose every file differs."""
    result = refuted_result()
    rows = (*result.rows, SampleRow(5, 1, 1, 0.125))
    gallery = tuple(replace(item, adversarial=item.adversarial + 0.125) for item in result.gallery)
    return replace(result, rows=rows, gallery=gallery, created="2025-02-01")


def test_a_failing_rendering_touches_no_file(tmp_path, monkeypatch):
    write_report(refuted_result(), tmp_path)
    old = contents(tmp_path)

    def broken(*arguments):
        raise ValueError("broken")

    monkeypatch.setattr("lipcert.report.write.render_html", broken)
    with pytest.raises(ValueError, match="broken"):
        write_report(refuted_result_later(), tmp_path)
    assert contents(tmp_path) == old


def test_names_that_are_not_utf8_are_written_escaped(tmp_path):
    page = write_report(tiny_result(model_name="runs/\udcff"), tmp_path)
    assert "runs/\\udcff" in page.read_text(encoding="utf-8")
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_files_are_readable_like_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    page = write_report(tiny_result(), tmp_path)
    assert page.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_audit_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected an audit of at least one sample, got 0"):
        write_report(tiny_result(rows=(), gallery=()), tmp_path / "never")
    assert not (tmp_path / "never").exists()
