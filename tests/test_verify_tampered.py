"""What is found when something about a report was changed."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from audited_run import ARGUMENTS, audited, edit_report, edit_rows, edit_weights, make_run, wrong

from lipcert import certify
from lipcert.verify import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with its audit, which no test changes."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    make_run(directory, **ARGUMENTS)
    return directory


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


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
        {"rows": "line 6: expected a finite number as an audit writes it, got 'nan'"},
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
    assert "samples.csv, line 22: expected 8 values, got 3" in out
    assert out.endswith("verdict     the report does not stand: rows\n")


def test_radii_of_an_unsound_rule_are_found(run):
    audited(run, lambda model, inputs: replace(found := certify(model, inputs), radius=1.01 * found.radius))
    assert list(wrong(run)) == ["radii"]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_radii_without_their_allowance_for_rounding_are_found(run, share):
    """A quarter of the allowance is for logits that the audit evaluates in float32, and the re-check does not."""

    def forgetful(model, inputs):
        found = certify(model, inputs)
        return replace(found, radius=found.radius + share * found.rounding_slack)

    audited(run, forgetful)
    found = wrong(run)
    assert list(found) == ["radii"]
    assert "and 997 more" in found["radii"]


def test_real_radii_that_are_called_executed_ones_are_found(run):
    audited(run, lambda model, inputs: certify(model, inputs, arithmetic="real"))
    assert wrong(run) == {}
    edit_report(run, lambda document: document["certificates"].update(arithmetic="float32"))
    assert "radii" in wrong(run)


def test_a_single_radius_without_its_allowance_is_found(run):
    def forgetful(model, inputs):
        found = certify(model, inputs)
        found.radius[10] += found.rounding_slack[10]
        return found

    audited(run, forgetful)
    assert wrong(run)["radii"].startswith("sample 10 has radius")
    assert ";" not in wrong(run)["radii"]
