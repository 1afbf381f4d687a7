"""The command that re-checks a report: what it says, and its exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from audited_run import ARGUMENTS, audited, edit_report, edit_rows, gelu_network, make_run, sigmoid_network, wrong

from lipcert import certify, verify_report
from lipcert.verification.certificates import TOLERANCE
from lipcert.verification.document import schema_errors
from lipcert.verify import main

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
    "rounding",
    "radii",
]


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


@pytest.mark.parametrize(
    ("arithmetic", "said"),
    [
        ("real", "not counted, as the report says"),
        ("float64", "less than the 1e-06 that is noticed"),
        ("float32", "float32 takes"),
    ],
)
def test_every_arithmetic_is_checked_as_what_it_is(run, arithmetic, said):
    audited(run, lambda model, inputs: certify(model, inputs, arithmetic=arithmetic))
    found = {finding.name: finding for finding in verify_report(run / "audit")}
    assert all(finding.stands for finding in found.values())
    assert said in found["rounding"].text
    assert f"radii ({arithmetic}) are at most" in found["radii"].text


@pytest.mark.parametrize("arithmetic", ["real", "float64"])
def test_smaller_radii_than_an_arithmetic_allows_are_accepted(run, arithmetic):
    edit_report(run, lambda document: document["certificates"].update(arithmetic=arithmetic))
    assert wrong(run) == {}


def real(model, inputs):
    return certify(model, inputs, arithmetic="real")


OPEN = {
    "rounding": (sigmoid_network, ["rounding", "radii"], "Sigmoid"),
    "constants": (gelu_network, ["matrices", "bound", "rounding", "radii"], "got GELU at '2'"),
}


@pytest.mark.parametrize("case", OPEN)
def test_what_is_not_known_is_said_to_be_unchecked(tmp_path, capsys, case):
    build, unchecked, reason = OPEN[case]
    make_run(tmp_path / "run", build, real)
    edit_report(tmp_path / "run", lambda document: document["certificates"].update(arithmetic="float32"))
    assert main([str(tmp_path / "run" / "audit")]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.split()[1] == "unchecked"] == unchecked
    assert reason in next(line for line in lines if "unchecked" in line)
    assert lines[-1].endswith(f"nothing that was re-checked is wrong; not re-checked: {', '.join(unchecked)}")
    edit_rows(tmp_path / "run", lambda rows: rows[3].update(prediction=str((int(rows[3]["prediction"]) + 1) % 10)))
    assert main([str(tmp_path / "run" / "audit")]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert "predictions" in last
    assert last.endswith(f"not re-checked: {', '.join(name for name in unchecked if name not in last.split(';')[0])}")


def test_radii_above_the_real_ones_are_wrong_even_where_rounding_is_not_known(tmp_path):
    make_run(tmp_path / "run", sigmoid_network, real)
    edit_report(tmp_path / "run", lambda document: document["certificates"].update(arithmetic="float32"))
    edit_rows(tmp_path / "run", lambda rows: [row.update(radius=repr(1.01 * float(row["radius"]))) for row in rows])
    assert "is recomputed" in wrong(tmp_path / "run")["radii"]


def test_a_moved_report_names_its_run(run, tmp_path, capsys):
    moved = shutil.move(run / "audit", tmp_path / "elsewhere")
    assert main([str(moved)]) == 2
    assert main([str(moved), "--run", str(run)]) == 0


def spoil_json(run):
    (run / "audit" / "report.json").write_text('{"verdict": NaN}')


UNUSABLE = [
    pytest.param(lambda run: (run / "audit" / "report.json").unlink(), "expected a report at", id="no report"),
    pytest.param(lambda run: (run / "audit" / "samples.csv").unlink(), "expected the report's rows at", id="no rows"),
    pytest.param(lambda run: (run / "network.safetensors").unlink(), "expected an exported network", id="no network"),
    pytest.param(lambda run: (run / "config.yaml").unlink(), "expected a run directory", id="no run"),
    pytest.param(spoil_json, "NaN is no finite number", id="no JSON"),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["certificates"].update(arithmetic="float16")),
        "got float16 arithmetic in norm l2",
        id="arithmetic",
    ),
    pytest.param(
        lambda run: edit_report(run, lambda document: document["certificates"].update(rule="none")),
        "expected certificates to re-check",
        id="no certificates",
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
