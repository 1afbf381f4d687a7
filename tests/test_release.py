"""What a release holds: archives with every file of the package, bounds that are tested, a version that is known."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from lipcert import __version__

ROOT = Path(__file__).parents[1]


def built(source, output, *kinds):
    """What the build makes of a source tree."""
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", output, source]
    subprocess.run(command, check=True, timeout=200, capture_output=True)
    return output


def contents(wheel):
    """Every file of a wheel by name, but for the list of their checksums, which says the same again."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A folder with the source archive and the wheel that is built from it, and the wheel that the tree gives."""
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    shutil.copytree(ROOT / "lipcert", source / "lipcert", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    [direct] = built(source, folder / "direct", "--wheel").iterdir()
    return built(source, folder / "dist"), direct


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_is_the_same_from_the_source_archive(release):
    folder, direct = release
    assert {path.name for path in folder.iterdir()} == {f"lipcert-{__version__}.tar.gz", direct.name}
    assert direct.name == f"lipcert-{__version__}-py3-none-any.whl"
    held = contents(direct)
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "lipcert").rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} - held.keys() == set()
    assert {"lipcert/py.typed", "lipcert/report/schema.json", "lipcert/quickstart.yaml"} <= held.keys()
    assert contents(folder / direct.name) == held
    with tarfile.open(folder / f"lipcert-{__version__}.tar.gz") as archive:
        names = archive.getnames()
    assert {f"lipcert-{__version__}/{name}" for name in ("LICENSE", "README.md", "pyproject.toml")} <= set(names)


@pytest.mark.slow
def test_the_wheel_works_by_itself(release, tmp_path):
    """`make check-dist` does the same in an environment that has nothing else."""
    with zipfile.ZipFile(release[1]) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import lipcert; from lipcert.data import FashionMNISTMini; print(lipcert.__file__);"
        "image = FashionMNISTMini().split('test').inputs()[:1];"
        "print(lipcert.certify(lipcert.load('mnist/robust'), image).radius.item() > 0)"
    )
    for arguments, expected in (
        (["-m", "lipcert", "--help"], "usage: lipcert train"),
        (["-c", program], f"{tmp_path / 'site' / 'lipcert' / '__init__.py'}\nTrue\n"),
    ):
        command, environment = [sys.executable, *arguments], {"PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert expected in done.stdout


def bounds(project, requirements):
    """The lower bounds of requirements as constraints, those of lipcert's own extras among them."""
    for requirement in requirements:
        name, extras, bound = re.match(r"([\w-]+)(?:\[([\w,]+)\])?(?:>=([\d.]+))?", requirement).groups()
        if name == project["name"]:
            for extra in extras.split(","):
                yield from bounds(project, project["optional-dependencies"][extra])
        else:
            yield f"{name}=={bound}"


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = bounds(project, [*project["dependencies"], "lipcert[test]"])
    pinned = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    assert [line for line in pinned if not line.startswith("#")] == list(stated)


def test_the_changelog_knows_the_version():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased"
    assert headings[1] == f"## {__version__}"
    assert all(len(heading.split()[1].split(".")) == 3 for heading in headings[1:])
