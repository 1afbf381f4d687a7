"""The page that compares audits, and the command that writes it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from read_page import Page
from report_cases import HOSTILE, refuted_result, tiny_result, uncertified_result

from lipcert.__main__ import main as lipcert
from lipcert.compare import main, read_audits
from lipcert.report import Audit, render_comparison, report_document, write_report
from lipcert.report.comparison import comparability
from lipcert.report.figures_compare import LINES, MARKERS


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Audited runs, which no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    results = {"good": tiny_result(), "bad": refuted_result(), "plain": uncertified_result()}
    for name, result in results.items():
        write_report(replace(result, model_name=f"{name}-model"), folder / name / "audit")
    return folder


@pytest.fixture
def runs(kept, tmp_path, monkeypatch):
    """The same runs as a reader finds them, from a folder of his own."""
    monkeypatch.chdir(tmp_path)
    return kept


def page_of(*results, names=None):
    names = names or [f"audit {number}" for number in range(len(results))]
    audits = [Audit(name, f"{name}.json", report_document(item)) for name, item in zip(names, results, strict=True)]
    return render_comparison(audits)


def unusable(capsys, arguments):
    """The one line that the command says of unusable arguments."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("lipcert report: error: ")
    return line


def test_runs_folders_and_files_are_compared_on_one_page(runs, capsys):
    arguments = [str(runs / "good"), str(runs / "bad" / "audit"), str(runs / "plain" / "audit" / "report.json")]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "compare.html\n"
    text = Page(Path("compare.html").read_text(encoding="utf-8")).text
    assert "Comparison of 3 audits" in text
    for line in (
        "good-model ✓ PASS weak 80.0 % 0.300 5 3 0",
        "bad-model ✗ FAIL moderate 80.0 % 0.300 5 4 1",
        "plain-model not certified — 80.0 % — 5 3 —",
        "good-model 60.0 % 40.0 % 0 %",
        "plain-model — — —",
        "good-model 100 % 100 % 33.4 %",
        "good-model gradient (1) 1,234 2.00 180 120",
    ):
        assert line in text, line
    assert str(runs / "bad" / "audit" / "report.json") in text


def test_the_output_goes_where_it_is_told_to(runs, capsys):
    assert lipcert(["report", str(runs / "good"), str(runs / "bad"), "--output", "new/page.html"]) == 0
    assert capsys.readouterr().out == "new/page.html\n"
    assert Path("new/page.html").is_file()
    assert not Path("compare.html").exists()


def spoiled(runs, tmp_path, change):
    document = json.loads((runs / "bad" / "audit" / "report.json").read_text())
    change(document)
    (tmp_path / "report.json").write_text(json.dumps(document))
    return tmp_path / "report.json"


UNUSABLE = [
    pytest.param(lambda runs, tmp_path: [], "the following arguments are required: AUDIT", id="none"),
    pytest.param(lambda runs, tmp_path: [runs / "good"], "at least two audits to compare, got 1", id="one"),
    pytest.param(lambda runs, tmp_path: [runs / "good", runs / "good" / "audit"], "audits, got", id="one twice"),
    pytest.param(lambda runs, tmp_path: [runs / "good", runs / "missing"], "none at", id="missing"),
    pytest.param(lambda runs, tmp_path: [runs / "good", tmp_path], "none at", id="empty folder"),
    pytest.param(
        lambda runs, tmp_path: [runs / "good", runs / "bad" / "audit" / "report.html"], "expected JSON", id="no JSON"
    ),
    pytest.param(
        lambda runs, tmp_path: [
            runs / "good",
            spoiled(runs, tmp_path, lambda it: it.update(schema="lipcert/report/1")),
        ],
        "is 'lipcert/report/1', not 'lipcert/report/2'; audit the run again",
        id="older report",
    ),
    pytest.param(
        lambda runs, tmp_path: [runs / "good", spoiled(runs, tmp_path, lambda it: (it.pop("power"), it.pop("model")))],
        "the report lacks 'model', and 1 more",
        id="something missing",
    ),
    pytest.param(
        lambda runs, tmp_path: [runs / "good", runs / "bad", "--output", tmp_path], "got the folder", id="output"
    ),
    pytest.param(
        lambda runs, tmp_path: [runs / "good", runs / "bad", "--output", runs / "good" / "audit" / "report.json" / "x"],
        "report.json",
        id="output below a file",
    ),
    pytest.param(lambda runs, tmp_path: [runs / "good", "--fast"], "see python -m lipcert.compare --help", id="option"),
]


@pytest.mark.parametrize(("arguments", "message"), UNUSABLE)
def test_unusable_input_is_one_line(runs, tmp_path, capsys, arguments, message):
    assert message in unusable(capsys, list(map(str, arguments(runs, tmp_path))))
    assert not (tmp_path / "compare.html").exists()


def test_models_of_one_name_are_called_by_where_they_lie(runs, tmp_path):
    write_report(replace(tiny_result(), model_name="good-model"), tmp_path / "copy")
    names = [audit.name for audit in read_audits([runs / "good", tmp_path / "copy", runs / "bad"])]
    assert names == [str(runs / "good"), str(tmp_path / "copy"), "bad-model"]


def test_what_does_not_compare_is_said():
    def said(*results):
        return comparability([Audit(str(n), "", report_document(item)) for n, item in enumerate(results)])

    assert said(tiny_result(), tiny_result()) == ()
    changes = {"data_sha256": "different images", "norm": "different norms", "arithmetic": "different arithmetic"}
    for name, words in changes.items():
        [sentence] = said(tiny_result(), tiny_result(**{name: "other"}))
        assert words in sentence
    more, refuted = said(tiny_result(), refuted_result())
    assert "Different numbers of samples were attacked" in more
    assert refuted == "Certificates of 1 were refuted: its certified figures are as claimed."
    [empirical] = said(tiny_result(), uncertified_result())
    assert "1 comes without certificates" in empirical


def test_the_best_of_a_column_is_bold_unless_it_was_refuted():
    better = tiny_result(rows=tuple(replace(row, radius=2 * row.radius) for row in tiny_result().rows))
    best = refuted_result()
    best = replace(best, rows=tuple(replace(row, radius=9 * row.radius) for row in best.rows))
    html = page_of(tiny_result(), better, best)
    assert "<b>0.600</b>" in html
    assert "<b>2.70</b>" not in html
    assert ">2.70<" in html
    # one audit alone is not the best of anything
    assert "<b>" not in page_of(tiny_result(), best).partition("<main>")[2]


def test_epsilons_that_only_one_audit_has_leave_a_gap():
    text = Page(page_of(tiny_result(epsilons=(0.25,)), tiny_result(epsilons=(0.25, 0.125)))).text
    assert "Certified at 0.125 Certified at 0.25 audit 0 — 60.0 % audit 1 60.0 % 60.0 %" in text


def test_curves_are_told_apart_without_colour():
    looks = {(place % len(LINES), place % len(MARKERS)) for place in range(30)}
    assert len(looks) == 30
    figures = [attributes["aria-label"] for tag, attributes in Page(page_of(*[tiny_result()] * 7)).tags if tag == "svg"]
    assert len(figures) == 3
    assert all(f"audit {number}:" in alt for alt in figures for number in range(7))


def test_audits_without_certificates_or_attacks_have_no_empty_sections():
    rows = tuple(replace(row, attacked=False, distance=None, attack=None) for row in tiny_result().rows)
    untested = tiny_result(rows=rows, attacks=(), gallery=())
    text = Page(page_of(untested, untested)).text
    assert "✓ PASS, untested" in text
    assert "under attack at" not in text.lower()
    assert "Tightness" not in text
    empirical = Page(page_of(uncertified_result(), uncertified_result())).text
    assert "certified at" not in empirical.lower()
    assert "Tightness" not in empirical


def test_hostile_names_are_shown_and_not_run():
    html = page_of(tiny_result(model_name=HOSTILE, command=HOSTILE), tiny_result(), names=[HOSTILE, "b"])
    assert html.count("<script") == 1
    assert HOSTILE not in html
    assert " ".join(HOSTILE.split()) in Page(html).text


def test_the_same_audits_give_the_same_page():
    assert page_of(tiny_result(), refuted_result()) == page_of(tiny_result(), refuted_result())


def test_help_answers_at_once():
    code = "import sys; from lipcert.compare import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes: 0 the page was written" in done.stdout
