import errno
import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from linear_problem import linear_problem
from safetensors.numpy import load_file
from straight_attack import Straight

from lipcert import auditing, concluding
from lipcert.audit import main
from lipcert.certificates import certify
from lipcert.data import ImageSet
from lipcert.harness import Stage
from lipcert.harness.journal import Journal
from lipcert.harness.planted import Planted
from lipcert.harness.self_test import Caught

NETWORK, PIXELS, PREDICTION, DISTANCE = linear_problem(samples=12)
QUICK = ["--attacks", Straight.name]


class TinyData:
    name = "tiny"
    class_names = ("a", "b", "c", "d")

    def __init__(self, images):
        self.images = images

    def split(self, which):
        assert which == "test"
        return self.images


class FloatImages:
    """Images that are floats already, as a data module of the user's own may hand over."""

    def __init__(self, inputs, labels):
        self.all, self.labels, self.sha256 = inputs, labels, "0" * 64

    def inputs(self, indices=None):
        return self.all if indices is None else self.all[indices]

    def __len__(self):
        return len(self.labels)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory whose contents are handed over without reading; ``run.data`` can be exchanged."""
    directory = tmp_path / "runs" / "tiny"
    directory.mkdir(parents=True)
    loaded = SimpleNamespace(
        directory=directory,
        network=NETWORK,
        data=TinyData(ImageSet(PIXELS, PREDICTION)),
        network_sha256="f" * 64,
    )
    monkeypatch.setattr(auditing, "load_run", lambda path: loaded)
    monkeypatch.setattr(auditing, "attack_classes", lambda: {Straight.name: Straight})
    return loaded


@pytest.fixture
def inflated(monkeypatch):
    """Radii one and a half times as large as they may be."""

    def certifier(model, inputs, **options):
        certificate = certify(model, inputs, **options)
        return replace(certificate, radius=1.5 * certificate.radius)

    monkeypatch.setattr(auditing, "certify", certifier)


def command(run, *options):
    return main([str(run.directory), *QUICK, *options])


def report(directory):
    return json.loads((directory / "report.json").read_text())


def one_line(capsys):
    said = capsys.readouterr()
    [line] = said.err.splitlines()
    assert line.startswith("lipcert audit: error: ")
    return line.removeprefix("lipcert audit: error: ")


def test_sound_certificates_exit_with_0(run, capsys):
    assert command(run, "--samples", "12", "--epsilons", "0.05", "0.2") == 0
    said = capsys.readouterr()
    assert said.err == ""
    *_, last = said.out.splitlines()
    assert last.split() == ["report", str(run.directory / "audit" / "report.html")]
    assert said.out.startswith(
        "verdict         PASS, every attacked certificate stood: 12 of 12 attacked, 0 violated\n"
    )
    assert "smallest ratio  1.00, sample " in said.out
    written = report(run.directory / "audit")
    assert written["verdict"] == "pass"
    assert written["model"]["name"] == "tiny"
    assert written["model"]["sha256"] == "f" * 64
    assert set(written["empirical_accuracy"]) == {"0.05", "0.2"}
    assert written["command"].startswith("python -m lipcert.audit ")
    assert written["command"].endswith("--samples 12 --epsilons 0.05 0.2")
    assert written["attacks"][0]["forward_passes"] == Straight().forward_budget(12)
    assert "power           refuted, had the radii been inflated: 100" in said.out
    assert not (run.directory / "audit" / "partial").exists()


def test_by_default_one_image_a_class_is_attacked(run, capsys):
    assert command(run) == 0
    assert "PASS, every attacked certificate stood: 4 of 12 attacked, 0 violated" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "arithmetic"), [([], "float32"), (["--arithmetic", "real"], "real")])
def test_the_arithmetic_is_the_networks_own_unless_said(run, options, arithmetic):
    assert command(run, *options) == 0
    assert report(run.directory / "audit")["certificates"]["arithmetic"] == arithmetic
    counted = "is part of the proof" in (run.directory / "audit" / "report.html").read_text()
    assert counted == (arithmetic == "float32")


def test_violated_certificates_exit_with_1_and_keep_the_evidence(run, inflated, capsys, tmp_path):
    assert command(run, "--samples", "5", "--output", str(tmp_path / "elsewhere")) == 1
    assert "FAIL, certificates violated: 5 of 12 attacked, 5 violated" in capsys.readouterr().out
    written = report(tmp_path / "elsewhere")
    assert written["verdict"] == "fail"
    assert [violation["index"] for violation in written["violations"]] == [0, 1, 2, 3, 4]
    saved = load_file(tmp_path / "elsewhere" / "adversarial.safetensors")
    assert saved["index"].tolist() == [0, 1, 2, 3, 4]
    classes = NETWORK(torch.from_numpy(saved["adversarial"])).argmax(1)
    assert bool((classes != PREDICTION[:5]).all())
    assert not (run.directory / "audit").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected RUN, a run directory, or --model; see "),
        (["RUN", "--model", "torch.nn:Linear"], "expected RUN or --model, got both "),
        (["--model", "torch.nn:Linear"], "expected --data beside --model, got none"),
        (["RUN", "--weights", "w.safetensors"], "expected --model beside --weights, got none"),
        (["RUN", "--model-args", "{}"], "expected --model beside --model-args, got none"),
        (["RUN", "--data-args", "{}"], "expected --data beside --data-args, got none"),
        (["RUN", "--detector-args", "{}"], "expected --detector beside --detector-args, got none"),
        (["RUN", "--detector", "torch.nn:Linear"], "expected torch.nn:Linear to return a network"),
        (
            ["RUN", "--detector", "torch.nn:Flatten", "--threshold", "high"],
            "expected a number for --threshold, got high",
        ),
        (["RUN", "--data", "nowhere"], "expected the import path of a data class or a folder of images"),
        (["RUN", "more"], "more"),
        (["RUN", "--fast"], "--fast"),
        (["RUN", "--samples", "0"], "expected --samples >= 1, got 0"),
        (["RUN", "--samples", "13"], "expected --samples <= 12, the test images, got 13"),
        (["RUN", "--samples", "few"], "expected a whole number for --samples, got few"),
        (["RUN", "--devices", "0"], "expected --devices >= 1, got 0"),
        (["RUN", "--devices", "1.5"], "expected a whole number for --devices, got 1.5"),
        (["RUN", "--seed", "-1"], "expected --seed >= 0, got -1"),
        (["RUN", "--budget", "lavish"], "expected quick, standard, thorough or a number of seconds for --budget, got "),
        (["RUN", "--budget", "0"], "expected a finite number of seconds above 0 for --budget, got 0"),
        (["RUN", "--budget", "nan"], "a number of seconds for --budget, got nan"),
        (["RUN", "--attacks", "magic"], "expected attacks among straight, got 'magic'"),
        (["RUN", "--accelerator", "abacus"], "abacus"),
        (["RUN", "--epsilons", "0.1", "-0.5"], "expected every epsilon to be finite and >= 0, got -0.5"),
        (["RUN", "--epsilons", "nan"], "got nan"),
        (["RUN", "--epsilons", "1e999"], "epsilon"),
        (["RUN", "--arithmetic", "exact"], "expected float32, float64 or real for --arithmetic, got exact"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else None,
)
def test_unusable_options_exit_with_2_and_one_line(run, capsys, arguments, message):
    assert main([str(run.directory) if word == "RUN" else word for word in arguments]) == 2
    assert message in one_line(capsys)
    assert list(run.directory.iterdir()) == []


def spoiled(value):
    inputs = PIXELS.float() / 255
    inputs[3, 0, 1, 2] = value
    return FloatImages(inputs, PREDICTION)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param(spoiled(torch.nan), "finite", id="nan image"),
        pytest.param(spoiled(1.5), "in [0, 1]", id="pixel above 1"),
        pytest.param(spoiled(-0.1), "in [0, 1]", id="pixel below 0"),
        pytest.param(ImageSet(PIXELS, PREDICTION + 1), "labels from 0 to 3", id="label out of range"),
        pytest.param(ImageSet(PIXELS, (PREDICTION + 1) % 4), "correctly classified", id="never right"),
    ],
)
def test_unusable_data_exits_with_2_and_one_line(run, capsys, images, message):
    run.data = TinyData(images)
    assert command(run) == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize("made", [False, True], ids=["missing", "empty"])
def test_a_directory_that_is_no_run_exits_with_2_and_one_line(tmp_path, capsys, made):
    if made:
        (tmp_path / "run").mkdir()
    assert main([str(tmp_path / "run")]) == 2
    assert str(tmp_path / "run") in one_line(capsys)


def test_an_output_that_is_a_file_exits_with_2_and_leaves_it(run, capsys, tmp_path):
    (tmp_path / "taken").write_text("mine")
    assert command(run, "--output", str(tmp_path / "taken")) == 2
    assert "taken" in one_line(capsys)
    assert (tmp_path / "taken").read_text() == "mine"


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_noticed_before_the_work(run, capsys, monkeypatch):
    assert command(run) == 0
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in (run.directory / "audit").iterdir()}
    monkeypatch.setattr(auditing, "run_audit", lambda *_, **__: pytest.fail("the work was begun"))
    monkeypatch.setattr(os, "fsync", no_space)
    assert command(run) == 2
    assert one_line(capsys) == "No space left on device"
    assert {path.name: path.read_bytes() for path in (run.directory / "audit").iterdir()} == before


def test_a_disk_that_fills_up_meanwhile_exits_with_2(run, capsys, monkeypatch):
    monkeypatch.setattr(concluding, "write_report", no_space)
    assert command(run) == 2
    assert one_line(capsys) == "No space left on device"


def interrupt_at(chunk, monkeypatch):
    """Ctrl-C when the attack is called for the n-th time."""
    calls, attack = [], Straight.run

    def patched(self, model, task):
        calls.append(len(task.inputs))
        if len(calls) == chunk:
            raise KeyboardInterrupt
        return attack(self, model, task)

    monkeypatch.setattr(Straight, "run", patched)
    monkeypatch.setattr(Stage, "__init__", functools.partialmethod(Stage.__init__, chunk=3))


def test_an_interrupted_audit_writes_what_it_knows_and_can_go_on(run, capsys, monkeypatch):
    interrupt_at(3, monkeypatch)
    assert command(run, "--samples", "12") == 2
    said = one_line(capsys)
    assert said.startswith("interrupted after 6 samples, none violated; what is known is in ")
    assert said.endswith(f"the same command goes on with what is in {run.directory / 'audit' / 'partial'}")
    written = report(run.directory / "audit")
    assert written["attacks"][0]["samples"] == 6
    assert "interrupted" in written["warnings"][0]
    assert command(run, "--samples", "12") == 0
    said = capsys.readouterr()
    assert said.err == "lipcert audit: going on with an unfinished audit; chunks that are known: 2\n"
    assert report(run.directory / "audit")["attacks"][0]["samples"] == 12
    assert not (run.directory / "audit" / "partial").exists()


def test_an_unfinished_audit_of_something_else_is_set_aside(run, capsys, monkeypatch):
    interrupt_at(3, monkeypatch)
    assert command(run, "--samples", "12") == 2
    capsys.readouterr()
    assert command(run, "--samples", "10", "--seed", "1") == 0
    old = run.directory / "audit" / "partial.old"
    expected = f"lipcert audit: set aside an unfinished audit of other samples, seed: it is in {old}\n"
    assert capsys.readouterr().err == expected
    assert sorted(path.name for path in old.iterdir()) == ["examples.bin", "rows.jsonl"]


def test_an_unfinished_audit_can_be_forgotten(run, capsys, monkeypatch):
    interrupt_at(3, monkeypatch)
    assert command(run, "--samples", "12") == 2
    capsys.readouterr()
    assert command(run, "--samples", "12", "--restart") == 0
    assert capsys.readouterr().err == ""


def test_an_interrupted_audit_that_refuted_something_exits_with_1(run, inflated, capsys, monkeypatch):
    interrupt_at(2, monkeypatch)
    assert command(run, "--samples", "12") == 1
    assert "FAIL, certificates violated: 3 of 12 attacked, 3 violated" in capsys.readouterr().out


def test_a_disk_that_takes_no_more_records_leaves_those_it_has(run, capsys, monkeypatch):
    monkeypatch.setattr(Stage, "__init__", functools.partialmethod(Stage.__init__, chunk=3))
    append, taken = Journal.append, []

    def full(self, record):
        taken.append(record)
        return no_space() if len(taken) == 3 else append(self, record)

    monkeypatch.setattr(Journal, "append", full)
    assert command(run, "--samples", "12") == 2
    said = one_line(capsys)
    assert said.startswith("No space left on device: stopped after 6 samples, none violated; what is known is in ")
    assert report(run.directory / "audit")["attacks"][0]["samples"] == 6
    monkeypatch.setattr(concluding, "write_report", no_space)
    taken.clear()
    assert command(run, "--samples", "12", "--restart") == 2
    assert "no report could be written (No space left on device); the same command goes on" in one_line(capsys)
    monkeypatch.undo()
    lines = (run.directory / "audit" / "partial" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"]["samples"] for line in lines[1:]] == [[0, 1, 2], [3, 4, 5]]


def test_ctrl_c_before_the_attack_exits_with_2(run, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing, "run_audit", interrupted)
    assert command(run) == 2
    assert "interrupted" in one_line(capsys)


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(auditing, "run_audit", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        command(run)


def test_help_is_complete_and_imports_nothing_heavy():
    code = """if True:
        import sys
        from lipcert.audit import audit_parser, main
        code = main(["--help"])
        heavy = {"torch", "foolbox", "matplotlib", "lightning"} & set(sys.modules)
        sys.exit(f"imported {heavy}" if heavy else code)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in (
        "RUN",
        "--budget",
        "--samples",
        "--attacks",
        "--epsilons",
        "--devices",
        "--shard-size",
        "--output",
        "--model",
        "--self-test",
    ):
        assert option in done.stdout
    assert "python -m lipcert.audit runs/quickstart" in done.stdout
    assert " ".join(done.stdout.split()).count("default: ") == 28
    assert "exit codes: 0" in done.stdout


MODEL = ["--model", "audited_run:untrained", "--model-args", '{"width": 4}', "--data", "lipcert.data.FashionMNISTMini"]


@pytest.mark.parametrize("squared", [False, True], ids=["certified", "empirical"])
def test_a_network_from_elsewhere_is_audited(capsys, tmp_path, squared):
    arguments = [*MODEL, "--attacks", "carlini-wagner-l2", "--samples", "2", "--output", str(tmp_path / "elsewhere")]
    if squared:
        arguments[3] = '{"width": 4, "squared": true}'
    assert main(arguments) == 0
    written = report(tmp_path / "elsewhere")
    assert written["model"]["name"] == "untrained"
    assert written["data"]["name"] == "fashion-mnist-mini"
    assert written["certificates"]["rule"] == ("none" if squared else "best")
    expected = "NO CERTIFICATES, attacked all the same" if squared else "PASS, every attacked certificate stood"
    said = capsys.readouterr().out
    assert said.startswith(f"verdict         {expected}: 2 of 1,000 attacked")
    assert ("distances  " in said, "power  " in said) == (squared, not squared)


@pytest.mark.parametrize(("caught", "code"), [(True, 0), (False, 1)])
def test_the_self_test_says_whether_every_defect_was_caught(run, capsys, monkeypatch, caught, code):
    given = []

    def planting(network=None, images=None, *, certifier=None, attacks, progress):
        given.append((network, images))
        progress("a defect")
        return (Caught(Planted("a defect", "by hand", NETWORK, run.data.images, certify, True), caught, "so"),)

    monkeypatch.setattr(auditing, "self_test", planting)
    assert main(["--self-test"]) == code
    assert main([str(run.directory), "--self-test"]) == code
    said = capsys.readouterr()
    assert said.err == "lipcert audit: planted: a defect\n" * 2
    assert said.out.count("a defect") == 2
    assert given == [(None, None), (NETWORK, run.data.images)]


def test_the_module_runs_as_a_command(tmp_path):
    words = [sys.executable, "-m", "lipcert.audit", str(tmp_path / "none")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
