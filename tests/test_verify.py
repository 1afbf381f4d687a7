"""A report that stands, and what is found when something about it was changed."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from lipcert import certify, export, load_network, run_audit, save_network, verify_report, write_report
from lipcert.attacks import CarliniWagner
from lipcert.data import FashionMNISTMini
from lipcert.deployment import file_sha256
from lipcert.harness import Subject
from lipcert.networks import hkr_convnet
from lipcert.verification.check import TOLERANCE
from lipcert.verification.document import schema_errors
from lipcert.verify import main

ARGUMENTS = {"input_shape": [1, 28, 28], "channels": [2, 4], "hidden": 8}
CHECKS = [
    "schema",
    "weights",
    "data",
    "rows",
    "labels",
    "figures",
    "violations",
    "matrices",
    "bound",
    "predictions",
    "radii",
]


def audited(directory: Path, certifier=certify) -> None:
    """Audit a run directory with an attack that costs nothing."""
    images = FashionMNISTMini().split("test")
    result = run_audit(
        load_network(directory / "network.safetensors"),
        images,
        samples=torch.arange(3),
        attacks=(CarliniWagner(1, 10),),
        certifier=certifier,
        subject=Subject("tiny", file_sha256(directory / "network.safetensors"), "fashion-mnist-mini", "test"),
    )
    write_report(result, directory / "audit")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with its audit, which no test changes."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    directory.mkdir()
    config = {"data": {"class_path": "lipcert.data.FashionMNISTMini"}, "name": "tiny"}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    network = export(hkr_convnet(**ARGUMENTS))
    save_network(network, directory / "network.safetensors", hkr_convnet, **ARGUMENTS)
    audited(directory)
    return directory


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def edit_report(run, change):
    path = run / "audit" / "report.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_rows(run, change):
    path = run / "audit" / "samples.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def edit_weights(run, name, change, *, hide=False):
    """Change a tensor of the exported network; ``hide`` puts the new file's hash into the report."""
    path = run / "network.safetensors"
    network = load_network(path)
    with torch.no_grad():
        change(network.state_dict()[name])
    save_network(network, path, hkr_convnet, **ARGUMENTS)
    if hide:
        edit_report(run, lambda document: document["model"].update(sha256=file_sha256(path)))


def wrong(run):
    return {finding.name: finding.text for finding in verify_report(run / "audit") if not finding.stands}


def test_an_untouched_report_stands(finished, capsys):
    assert main([str(finished / "audit")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == [*CHECKS, "verdict"]
    assert all(line.split()[1] == "ok" for line in lines[:-1])
    assert lines[-1] == "verdict     every radius stands"


def test_the_recomputed_radii_are_close_to_the_reported_ones(finished):
    text = verify_report(finished / "audit" / "report.json")[-1].text
    assert 0.9 < float(text.split("at most ")[1].split()[0]) <= 1 + TOLERANCE


@pytest.mark.parametrize("arithmetic", ["real", "float64", "float32"])
def test_every_arithmetic_whose_radii_are_at_most_the_real_ones_is_accepted(run, arithmetic):
    edit_report(run, lambda document: document["certificates"].update(arithmetic=arithmetic))

    def smaller(rows):
        for row in rows[10:]:
            row["radius"] = repr(0.9999 * float(row["radius"]))

    edit_rows(run, smaller)
    assert set(wrong(run)) <= {"figures"}


def test_a_moved_report_names_its_run(run, tmp_path, capsys):
    moved = shutil.move(run / "audit", tmp_path / "elsewhere")
    assert main([str(moved)]) == 2
    assert main([str(moved), "--run", str(run)]) == 0


def set_radius(row, factor):
    row["radius"] = repr(factor * float(row["radius"]))


def set_label(row):
    row["label"] = str((int(row["label"]) + 1) % 10)


def set_prediction(row):
    row["prediction"] = str((int(row["prediction"]) + 1) % 10)


def certified_row(rows):
    right = [row for row in rows[10:] if row["label"] == row["prediction"]]
    return max(right, key=lambda row: float(row["radius"]))


TAMPERED = [
    pytest.param(
        lambda run: edit_weights(run, "0.weight", lambda weight: weight[0].zero_()),
        {"weights": "SHA-256 of network.safetensors is", "radii": "is recomputed"},
        id="weight",
    ),
    pytest.param(
        lambda run: edit_weights(run, "0.weight", lambda weight: weight.mul_(2), hide=True),
        {"bound": "is below the recomputed"},
        id="weight and hash",
    ),
    pytest.param(
        lambda run: edit_weights(run, "9.bias", lambda bias: bias[3].add_(100), hide=True),
        {"predictions": "the network gives 3", "radii": "at most 0.0 is recomputed"},
        id="bias and hash",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: set_radius(certified_row(rows), 1.2)),
        {"radii": "has radius", "figures": "average_certified_radius"},
        id="radius",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: set_label(rows[17])),
        {"labels": "sample 17 has label"},
        id="label",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: [set_label(row) for row in rows]),
        {"labels": "; and 997 more"},
        id="label column",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: set_prediction(certified_row(rows))),
        {"predictions": "has prediction", "radii": "at most 0.0 is recomputed"},
        id="prediction",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["model"].update(sha256="0" * 64)),
        {"weights": "the report says 000000000000..."},
        id="hash of the weights",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["data"].update(sha256="0" * 64)),
        {"data": "SHA-256 of the test split of fashion-mnist-mini is"},
        id="hash of the data",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document.update(clean_accuracy=0.99)),
        {"figures": "clean_accuracy is 0.99, the rows give"},
        id="clean accuracy",
    ),
    pytest.param(
        lambda run: edit_report(
            run, lambda document: document["certificates"]["certified_accuracy"].update({"0.25": 0.875})
        ),
        {"figures": "certificates.certified_accuracy.0.25 is 0.875"},
        id="certified accuracy",
    ),
    pytest.param(
        lambda run: edit_report(
            run, lambda document: document["certificates"].update(average_certified_radius=math.pi)
        ),
        {"figures": "average_certified_radius is 3.14"},
        id="average certified radius",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["data"].update(samples=999)),
        {"figures": "data.samples is 999, the rows give 1000"},
        id="number of samples",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["lipschitz"].update(upper_bound=0.01)),
        {"bound": "0.01 is below the recomputed"},
        id="Lipschitz bound",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document.update(verdict="fail")),
        {"violations": "verdict is 'fail', the rows give 'pass'"},
        id="verdict",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: rows[0].update(distance="0.0", attack="x", ratio="0.0")),
        {"violations": "the rows refute [0]"},
        id="hidden violation",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: rows.pop()),
        {"rows": "samples.csv has 999 rows, the data 1,000 images"},
        id="row left out",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: rows.insert(0, rows.pop(1))),
        {"rows": "row 0 of samples.csv has index 1"},
        id="rows exchanged",
    ),
    pytest.param(
        lambda run: edit_rows(run, lambda rows: rows[4].update(radius="nan")),
        {"rows": "line 6: expected radius and distance >= 0, got nan"},
        id="radius that is not a number",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document.pop("warnings")),
        {"schema": "the report lacks 'warnings'"},
        id="schema",
    ),
]


@pytest.mark.parametrize(("spoil", "found"), TAMPERED)
def test_tampering_is_found(run, spoil, found):
    spoil(run)
    said = wrong(run)
    assert {name: text in said.get(name, "") for name, text in found.items()} == dict.fromkeys(found, True), said


def test_a_truncated_file_is_found(run, capsys):
    path = run / "audit" / "samples.csv"
    text = path.read_text()
    path.write_text(text[: text.index("\n20,") + len("\n20,3,3")])
    assert main([str(run / "audit")]) == 1
    out = capsys.readouterr().out
    assert "samples.csv, line 22: expected 7 values, got 3" in out
    assert out.endswith("verdict     the report does not stand: rows\n")


def test_radii_of_an_unsound_rule_are_found(run):
    audited(run, lambda model, inputs: replace(found := certify(model, inputs), radius=1.01 * found.radius))
    assert list(wrong(run)) == ["radii"]


def spoil_json(run):
    (run / "audit" / "report.json").write_text('{"verdict": NaN}')


UNUSABLE = [
    pytest.param(lambda run: (run / "audit" / "report.json").unlink(), "expected a report at", id="no report"),
    pytest.param(lambda run: (run / "audit" / "samples.csv").unlink(), "expected the report's rows at", id="no rows"),
    pytest.param(lambda run: (run / "network.safetensors").unlink(), "expected an exported network", id="no network"),
    pytest.param(lambda run: (run / "config.yaml").unlink(), "expected a run directory", id="no run"),
    pytest.param(spoil_json, "NaN is no JSON number", id="no JSON"),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["certificates"].update(arithmetic="float16")),
        "got float16 arithmetic in norm l2",
        id="arithmetic",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["data"].update(split="all")),
        "expected a report about the split",
        id="split",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), UNUSABLE)
def test_unusable_input_is_one_line(run, capsys, spoil, message):
    spoil(run)
    assert main([str(run / "audit")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lipcert verify: error: ")
    assert message in line


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--fast"]], ids=str)
def test_unusable_options_are_one_line(capsys, arguments):
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("see python -m lipcert.verify --help")


def test_a_run_directory_in_place_of_its_report_is_pointed_out(run, capsys):
    assert main([str(run)]) == 2
    assert f"there is one in {run / 'audit'}" in capsys.readouterr().err


def test_it_shares_no_code_with_what_it_checks():
    code = """if True:
        import sys
        from lipcert.verify import main
        main(["--help"])
        assert "torch" not in sys.modules
        import lipcert.verification
        rooms = ("lipcert.certificates", "lipcert.harness", "lipcert.report", "lipcert.attacks")
        shared = [name for name in sys.modules if name.startswith(rooms)]
        sys.exit(f"imported {shared}" if shared else 0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes: 0 everything stands" in done.stdout


def test_schema_errors_name_the_place(finished):
    document = json.loads((finished / "audit" / "report.json").read_text())
    assert schema_errors(document) == ()
    document["clean_accuracy"] = 1.5
    document["data"]["samples"] = True
    document["certificates"]["certified_accuracy"]["a lot"] = 0.5
    document["extra"] = 1
    document["attacks"][0]["violations"] = -1
    found = " | ".join(schema_errors(document))
    for text in ("clean_accuracy is 1.5", "data.samples is True", "the key 'a lot'", "unknown 'extra'", "attacks[0]"):
        assert text in found
