"""What a release holds: the wheel has every file of the package, and the changelog knows the version."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lipcert import __version__

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "lipcert", source / "lipcert", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = ["wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", *wheel, "--wheel-dir", tmp_path, source], check=True, timeout=200)
    [built] = tmp_path.glob("*.whl")
    assert built.name == f"lipcert-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(built) as archive:
        held = set(archive.namelist())
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "lipcert").rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} - held == set()
    assert {"lipcert/py.typed", "lipcert/report/schema.json", "lipcert/quickstart.yaml"} <= held


def test_the_changelog_knows_the_version():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased"
    assert headings[1] == f"## {__version__}"
    assert all(len(heading.split()[1].split(".")) == 3 for heading in headings[1:])
