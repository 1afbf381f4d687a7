"""What the README shows works and is what the results files say."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import lipcert
from lipcert.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("number", "printed"),
    [(0, r"Lipschitz constant <= \d\.\d+, radii \[.*\]\n"), (1, r"class 9 up to an L2 distance of 1\.\d\d\n")],
)
def test_the_library_examples_run(capsys, number, printed):
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(printed, capsys.readouterr().out)


def test_the_figures_are_what_the_results_say():
    table = runpy.run_path(str(ROOT / "experiments" / "table.py"))
    assert table["filled"](README) == README


def test_every_data_set_with_results_has_a_table():
    table = runpy.run_path(str(ROOT / "experiments" / "table.py"))
    folders = {path.name for path in (ROOT / "experiments" / "results").iterdir() if path.is_dir()}
    assert folders - {"arena", "benchmarks", "defenses", "l1", "patches"} <= set(table["DATASETS"])


def test_the_architecture_section_names_every_room():
    section = README.split("## Architecture")[1].split("## ")[0]
    rooms = {
        path.name for path in (ROOT / "lipcert").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    named = set(re.findall(r"[\w]+(?:\.py)?(?=/| )", section)) | set(re.findall(r"\w+\.py", section))
    assert rooms - named - {"_version.py"} == set()


def test_public_names_are_there_and_imported_late():
    assert all(hasattr(lipcert, name) for name in lipcert.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lipcert.nothing
    check = "import sys, lipcert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "lipcert train"),
        ([], 0, "lipcert audit"),
        (["--version"], 0, lipcert.__version__),
        (["frobnicate"], 2, "expected train, audit, report or verify"),
    ],
)
def test_the_console_script(capsys, arguments, code, text):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert text in captured.out + captured.err


@pytest.mark.parametrize("command", ["train", "audit"])
def test_the_console_scripts_subcommands(capsys, command):
    with pytest.raises(SystemExit) as exit_info:
        raise SystemExit(main([command, "--help"]))
    assert exit_info.value.code in (0, None)
    assert f"lipcert.{command}" in capsys.readouterr().out
