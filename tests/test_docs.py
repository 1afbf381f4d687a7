"""What the README and the documentation show works: code, commands, configurations, links; the site builds."""

import inspect
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from doc_pages import ROOT, DocPage, all_pages, broken_links, site_pages, slug

import lipcert
from lipcert.audit import audit_parser
from lipcert.auditing import attacks_by_name
from lipcert.compare import compare_parser
from lipcert.train import main as train
from lipcert.verify import verify_parser

PAGES = {str(page.path): page for page in all_pages()}
PROGRAMS = [name for name, page in PAGES.items() if page.blocks("python")]
COMMANDS = {" ".join(command): command for page in PAGES.values() for command in page.commands()}
CONFIGURATIONS = [(name, block) for name, page in PAGES.items() for block in page.blocks("yaml")]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_python_of_a_page_runs_from_top_to_bottom(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in PAGES[name].blocks("python"):
        exec(compile(block, name, "exec"), namespace)
    assert capsys.readouterr().out


def test_a_page_is_read_as_it_is_printed(tmp_path):
    shell, program = "```bash\nOMP_NUM_THREADS=1 make demo  # now\n```", "```python\nprint(1)\n```"
    (tmp_path / "page.md").write_text(f"# A page, of two\n\n{shell}\n\n{program}\n\n[b](b.md#c-d)")
    page = DocPage(tmp_path / "page.md")
    assert page.commands() == [["make", "demo"]]
    assert page.links() == ["b.md#c-d"]
    assert page.anchors() == {"a-page-of-two"}
    (block,) = page.blocks("python")
    with pytest.raises(ZeroDivisionError) as error:
        exec(compile(block.replace("1", "1/0"), "page.md", "exec"), {})
    assert error.traceback[-1].lineno == 7  # of the page, counted from 0


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("concepts.md#rounding", None),
        ("#up", None),
        ("how_to/nothing.md", "no such file"),
        ("concepts.md#nothing", "no such heading"),
        ("#nothing", "no such heading"),
    ],
)
def test_a_broken_link_is_noticed(tmp_path, monkeypatch, link, complaint):
    monkeypatch.setattr("doc_pages.ROOT", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    page = DocPage(Path("docs/page.md"))
    (tmp_path / page.path).write_text(f"## Up\n\n[there]({link})\n\n`[code](nowhere.md)`\n")
    assert broken_links(page) == ([] if complaint is None else [f"{link}: {complaint}"])


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(name):
    assert broken_links(PAGES[name]) == []


def test_every_page_is_in_the_menu():
    def entries(menu):
        for entry in menu:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from entries(value) if isinstance(value, list) else [value]

    menu = set(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    pages = {page.path.relative_to("docs").as_posix() for page in site_pages()}
    assert menu == pages | {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_understood(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    program, *arguments = COMMANDS[name]
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif arguments[0] == "-m":
        understood(arguments[1], arguments[2:])
    else:
        assert program == "python"
        source = "".join(path.read_text() for path in sorted(Path(arguments[0]).parent.glob("*.py")))
        assert [option for option in arguments[1:] if option.startswith("--") and f'"{option}"' not in source] == []


def understood(module, arguments):
    if module == "lipcert.train":
        with pytest.raises(SystemExit) as stop:
            raise SystemExit(train([*without_files(arguments), *(() if explains(arguments) else ["--print_config"])]))
        assert stop.value.code in (0, None)
    elif module == "lipcert.audit":
        if "--help" not in arguments:
            attacks_by_name(audit_parser().parse_args(arguments).attacks)
    else:
        {"lipcert.compare": compare_parser, "lipcert.verify": verify_parser}[module]().parse_args(arguments)


def explains(arguments):
    """Whether a command asks for help, with which it ends."""
    return any(argument.partition("=")[0].endswith(("--help", ".help")) for argument in arguments)


def without_files(arguments):
    """A training's options without the run that it continues, which is not there, and the log that it would write."""
    for name in ("--resume", "--log"):
        if name in arguments:
            place = arguments.index(name)
            arguments = arguments[:place] + arguments[place + 2 :]
    return arguments


@pytest.mark.parametrize(("name", "block"), CONFIGURATIONS, ids=[name for name, _ in CONFIGURATIONS])
def test_every_class_of_a_configuration_takes_its_arguments(name, block):
    for part in parts(yaml.safe_load(block)):
        module, _, attribute = part["class_path"].rpartition(".")
        if not module.startswith(("lipcert", "torch")):
            assert attribute in PAGES[name].text.replace(part["class_path"], "")  # the page defines it
            continue
        takes = inspect.signature(getattr(import_module(module), attribute)).parameters
        free = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
        assert free or set(part.get("init_args", {})) <= set(takes)


def parts(value):
    """Everything in a configuration that is given by a class path."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield value
        for each in value.values():
            yield from parts(each)


def test_the_reference_names_all_that_is_public():
    reference = "".join(page.text for page in site_pages() if page.path.parent.name == "reference")
    assert [name for name in lipcert.__all__ if name != "__version__" and f"`lipcert.{name}`" not in reference] == []
    shown = re.findall(r"^::: ([\w.]+)$", reference, re.MULTILINE)
    packages = re.findall(r"``(lipcert\.\w+)``", lipcert.__doc__)
    assert set(packages) <= set(shown)
    for path in shown + re.findall(r"\]\[(lipcert[\w.]+)\]", reference):
        found = import_module(".".join(path.split(".")[:2]))
        for part in path.split(".")[2:]:
            found = getattr(found, part, None) or import_module(f"{found.__name__}.{part}")


@pytest.mark.parametrize("heading", ["The zoo", "What `a` does, and not", "From [a](b.md) to C"])
def test_anchors_are_those_of_the_site(heading):
    markdown = pytest.importorskip("markdown")
    html = markdown.markdown(f"# {heading}", extensions=["toc"])
    assert f'id="{slug(heading)}"' in html


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("material", reason="needs the packages of the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "reference" / "certificates.html").read_text()
    assert ":math:" not in page
    assert "fashion_mnist/robust" in (tmp_path / "results.html").read_text()
