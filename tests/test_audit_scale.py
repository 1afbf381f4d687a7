"""Audits in shards: the report of one audit, memory that does not grow, any number of processes, and a kill between."""

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from scaled_images import CLASSES, network, noise, write_arrays

from lipcert import auditing, certify, run_audit, write_report
from lipcert.attacks import DeepFool
from lipcert.audit import main
from lipcert.errors import InputError
from lipcert.harness import Stage
from lipcert.shards import audit_in_shards
from lipcert.shards.store import ShardStore

ROOT = Path(__file__).parents[1]
SECONDS = 200  # of a command that would otherwise hang
TIMED = ("created", "command", "environment")


def rows_of(directory):
    """The rows of all shards, a shard after the other."""
    return [
        row
        for path in sorted((directory / "samples").glob("*.parquet"))
        for row in parquet.read_table(path).to_pylist()
    ]


def document(directory):
    """A report without what depends on when and how it was made."""
    found = json.loads((directory / "report.json").read_text())
    for name in TIMED:
        del found[name]
    for attack in found["attacks"]:
        del attack["seconds"]
    return found


def audit(images, directory, **arguments):
    found = audit_in_shards(network(), images, directory, attacks=[DeepFool()], budget="standard", **arguments)
    write_report(found.result, directory, found.numbers)
    return found


def test_the_report_is_that_of_all_samples_at_once(tmp_path):
    """DeepFool draws nothing at random, so each sample has the same row in any shard."""
    images = noise(500)
    write_report(run_audit(network(), images, attacks=[DeepFool()], budget="standard"), tmp_path / "whole")
    audit(images, tmp_path / "shards", shard_size=130)
    assert document(tmp_path / "shards") == document(tmp_path / "whole")
    lines = (tmp_path / "whole" / "samples.csv").read_text().splitlines()
    told = [
        ",".join("" if row[name] is None else str(row[name]) for name in lines[0].split(","))
        for row in rows_of(tmp_path / "shards")
    ]
    assert told == lines[1:]
    whole, shards = ((tmp_path / name / "adversarial.safetensors").read_bytes() for name in ("whole", "shards"))
    assert whole == shards
    assert not (tmp_path / "shards" / "samples.csv").exists()
    assert not (tmp_path / "shards" / "partial").exists()


@pytest.mark.parametrize("samples", [1, 200, 499])
def test_the_first_samples_are_attacked_wherever_shards_end(tmp_path, samples):
    images = noise(500)
    options = {"attacks": [DeepFool()], "budget": "standard"}
    write_report(run_audit(network(), images, samples=torch.arange(samples), **options), tmp_path / "whole")
    audit(images, tmp_path / "shards", shard_size=130, samples=samples)
    shards, whole = (document(tmp_path / name) for name in ("shards", "whole"))
    for found in (
        shards,
        whole,
    ):  # what speaks against attacks is looked for on attacked images, in shards of the first
        found["warnings"] = [warning for warning in found["warnings"] if "Zero gradients" not in warning]
    assert shards == whole
    assert shards["attacked"]["samples"] == samples
    attacked = [row["index"] for row in rows_of(tmp_path / "shards") if row["attacked"]]
    assert attacked == list(range(samples))


def wrong_everywhere(images, begin, end):
    """The images, of which some are not classified right."""
    with torch.no_grad():
        images.labels[begin:end] = (network()(images.inputs()).argmax(1)[begin:end] + 1) % CLASSES
    return images


@pytest.mark.parametrize("begin", [0, 100])
def test_a_quick_audit_passes_over_a_shard_that_is_never_right(tmp_path, begin):
    images = wrong_everywhere(noise(300), begin, begin + 100)
    found = audit_in_shards(network(), images, tmp_path, attacks=[DeepFool()], budget="quick", shard_size=100)
    attacked = [row["index"] for row in rows_of(tmp_path) if row["attacked"]]
    assert {index // 100 for index in attacked} == {0, 1, 2} - {begin // 100}
    assert found.numbers.attacked == len(attacked)


def test_a_quick_audit_of_images_that_are_never_right_is_refused(tmp_path):
    images = wrong_everywhere(noise(300), 0, 300)
    with pytest.raises(InputError, match="expected at least one correctly classified image, got none"):
        audit_in_shards(network(), images, tmp_path, attacks=[DeepFool()], budget="quick", shard_size=100)


@pytest.fixture
def folder(tmp_path):
    """Images in files."""
    write_arrays(tmp_path / "noise", noise(400))
    return tmp_path / "noise"


def arguments(folder, output, *more):
    model = ["--model", "scaled_images:network", "--data", str(folder), "--attacks", "deepfool", "--budget", "standard"]
    return [*model, "--shard-size", "100", "--output", str(output), *map(str, more)]


def test_the_command_reads_files_and_writes_shards(folder, tmp_path, capsys):
    assert main(arguments(folder, tmp_path / "a")) == 0
    out, err = capsys.readouterr()
    assert "400 of 400 attacked, 0 violated" in out
    assert err == ""
    report = document(tmp_path / "a")
    assert report["data"] == {"name": "noise", "split": "test", "samples": 400, "sha256": noise(400).sha256}
    assert [path.name for path in sorted((tmp_path / "a" / "samples").glob("*.parquet"))] == [
        f"0000{n}.parquet" for n in range(4)
    ]
    page = (tmp_path / "a" / "report.html").read_text()
    assert "samples/*.parquet" in page
    assert "samples.csv" not in page
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "a" / "samples").iterdir())]
    assert main(arguments(folder, tmp_path / "a")) == 0  # every shard is there: only the report is written again
    assert "shards that are known: 4 of 4" in capsys.readouterr().err
    assert before == [path.stat().st_mtime_ns for path in sorted((tmp_path / "a" / "samples").iterdir())]
    assert main(arguments(folder, tmp_path / "a", "--seed", "1")) == 0
    assert "set aside shards of other seed" in capsys.readouterr().err
    assert main(arguments(folder, tmp_path / "a", "--seed", "1", "--restart")) == 0
    assert capsys.readouterr().err == ""
    assert document(tmp_path / "a") == report


BAD = {
    "seconds": (["--budget", "60"], "a budget by its name beside --shard-size"),
    "samples": (["--samples", "401"], "--samples <= 400, the test images, got 401"),
    "detector": (["--rejects"], "--shard-size or --rejects, got both"),
    "nothing": (["--shard-size", "0"], "--shard-size >= 1, got 0"),
}


@pytest.mark.parametrize(("more", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_audited_in_shards_is_refused(folder, tmp_path, capsys, more, message):
    assert main([*arguments(folder, tmp_path / "a"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "a").exists()


def test_shards_of_other_images_are_refused(tmp_path):
    audit(noise(300), tmp_path / "a", shard_size=100)
    with pytest.raises(InputError, match="the images of shard 0 to be those that were audited"):
        audit(noise(300, seed=2), tmp_path / "a", shard_size=100)


def test_a_damaged_shard_is_audited_again(tmp_path):
    images = noise(300)
    audit(images, tmp_path / "a", shard_size=100)
    rows = rows_of(tmp_path / "a")
    shard = tmp_path / "a" / "samples" / "00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    audit(images, tmp_path / "a", shard_size=100)
    assert rows_of(tmp_path / "a") == rows


def test_a_certificate_that_is_refuted_in_a_late_shard_fails_the_audit(tmp_path):
    def unsound(model, inputs):
        """The 250th image has one black pixel more than others: its radius is ten times too large."""
        found = certify(model, inputs)
        return replace(found, radius=found.radius * (1 + 9 * (inputs[:, 0, 0, 0] == 0)))

    images = noise(300)
    images.images[:, 0, 0, 0] = images.images[:, 0, 0, 0].clamp(min=1)
    images.images[250, 0, 0, 0] = 0
    found = audit(images, tmp_path, shard_size=100, certifier=unsound)
    assert [row.index for row in found.result.violations] == [250]
    assert (found.result.verdict, found.numbers.violated) == ("fail", 1)
    assert 250 in [item.index for item in found.result.gallery]
    assert json.loads((tmp_path / "report.json").read_text())["violations"][0]["index"] == 250


@pytest.fixture
def inflated(monkeypatch):
    """Radii that are far too large, of the 51st and the 251st image."""
    calls = []

    def unsound(model, inputs, **_):
        found = certify(model, inputs)
        begin = sum(calls)
        calls.append(len(inputs))
        radius = found.radius.clone()
        for index in (50, 250):
            if begin <= index < begin + len(inputs):
                radius[index - begin] *= 100
        return replace(found, radius=radius)

    monkeypatch.setattr(auditing, "certify_or_not", unsound)


def interrupt(monkeypatch, owner, name, call):
    """Ctrl-C when a method is called for the n-th time, counted from 0."""
    calls, method = itertools.count(), getattr(owner, name)

    def patched(*args, **kwargs):
        if next(calls) == call:
            raise KeyboardInterrupt
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, patched)


def interrupted(folder, tmp_path, capsys, code):
    assert main(arguments(folder, tmp_path / "a")) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("lipcert audit: error: interrupted after ")
    assert line.endswith(f"; the same command goes on with what is in {tmp_path / 'a'}")
    return line


def test_an_interrupted_audit_tells_of_the_violations_of_whole_shards(folder, tmp_path, capsys, monkeypatch, inflated):
    interrupt(monkeypatch, DeepFool, "run", 1)
    assert "after 1 whole shards, 1 violated so far (samples 50)" in interrupted(folder, tmp_path, capsys, 1)


def test_and_of_the_shard_that_is_at_work(folder, tmp_path, capsys, monkeypatch, inflated):
    monkeypatch.setattr(Stage, "__init__", functools.partialmethod(Stage.__init__, chunk=60))
    interrupt(monkeypatch, DeepFool, "run", 5)  # two chunks a shard
    assert "after 2 whole shards, 2 violated so far (samples 50, 250)" in interrupted(folder, tmp_path, capsys, 1)


def test_and_between_attacks(folder, tmp_path, capsys, monkeypatch, inflated):
    interrupt(monkeypatch, ShardStore, "write", 2)
    assert "after 2 whole shards, 1 violated so far (samples 50)" in interrupted(folder, tmp_path, capsys, 1)


def test_an_interrupted_audit_that_refuted_nothing_is_no_pass(folder, tmp_path, capsys, monkeypatch):
    interrupt(monkeypatch, DeepFool, "run", 3)
    assert "after 3 whole shards, none violated so far" in interrupted(folder, tmp_path, capsys, 2)


def start(*command):
    return subprocess.Popen(
        [sys.executable, "-m", "lipcert.audit", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")},
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_write_the_shards_of_one(folder, tmp_path):
    for devices in (1, 2):
        process = start(*arguments(folder, tmp_path / str(devices), "--devices", devices))
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, err) == (0, "")
        assert out.count("verdict") == 1
    assert rows_of(tmp_path / "2") == rows_of(tmp_path / "1")
    assert document(tmp_path / "2") == document(tmp_path / "1")


@pytest.mark.slow
def test_a_killed_audit_goes_on_after_its_last_whole_shard(folder, tmp_path):
    assert main(arguments(folder, tmp_path / "whole")) == 0
    long = arguments(folder, tmp_path / "killed")
    process = start(*long)
    try:
        deadline = time.monotonic() + SECONDS
        while not (tmp_path / "killed" / "samples" / "00001.parquet").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    first = (tmp_path / "killed" / "samples" / "00000.parquet").stat().st_mtime_ns
    assert not (tmp_path / "killed" / "report.html").exists()
    assert main(long) == 0
    assert (tmp_path / "killed" / "samples" / "00000.parquet").stat().st_mtime_ns == first
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert document(tmp_path / "killed") == document(tmp_path / "whole")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples():
    """Twenty times the samples, in processes of their own: most of the bytes of their images are never held at once."""
    command = [sys.executable, str(ROOT / "benchmarks" / "audit_scale.py"), "--side=48", "--shard-size=1000"]
    found = subprocess.run(
        [*command, "--budget=quick", "--samples", "2000", "40000"],
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    small, large = (json.loads(line) for line in found.stdout.splitlines()[:2])
    assert (small["samples"], large["samples"]) == (2000, 40_000)
    megabytes = (large["samples"] - small["samples"]) * 48**2 / 1e6
    assert large["peak_resident_megabytes"] - small["peak_resident_megabytes"] < 0.6 * megabytes
