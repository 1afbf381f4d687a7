"""The Markdown pages of the project as the tests read them: code blocks, commands, links and anchors."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class DocPage:
    """One file of Markdown; its path is relative to the repository."""

    path: Path

    @property
    def text(self):
        return (ROOT / self.path).read_text()

    @property
    def prose(self):
        """The text without its code blocks and without code in lines."""
        return re.sub(r"`[^`\n]*`", "", FENCE.sub("", self.text))

    def blocks(self, language):
        """The code blocks of a language, each after as many empty lines as stand above it in the file."""
        return [
            "\n" * (self.text[: found.start(2)].count("\n")) + found[2]
            for found in FENCE.finditer(self.text)
            if found[1] == language
        ]

    def commands(self):
        """Every command of the shell blocks as words, without comments and settings of the environment."""
        lines = [line for block in self.blocks("bash") for line in block.splitlines() if line.strip()]
        words = [shlex.split(line, comments=True) for line in lines]
        return [command for command in map(without_settings, words) if command]

    def links(self):
        """Targets of the links to other files and to anchors; not those to other places."""
        return [link for link in LINK.findall(self.prose) if not re.match(r"[a-z]+:", link)]

    def anchors(self):
        """What links can lead to: the headings as the site names them."""
        found = [slug(heading) for heading in HEADING.findall(FENCE.sub("", self.text))]
        assert len(found) == len(set(found)), f"two headings of {self.path} have one anchor"
        return set(found)


def without_settings(words):
    """A command without the ``NAME=value`` before it."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def slug(heading):
    """The anchor of a heading, as Python-Markdown and GitHub make it of plain text.

    >>> slug("What `lipcert` does, and does not")
    'what-lipcert-does-and-does-not'
    """
    kept = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
    return re.sub(r"\s", "-", kept)


def broken_links(page):
    """The links of a page that lead nowhere, each with what is missing."""
    broken = []
    for link in page.links():
        file, _, anchor = link.partition("#")
        target = (ROOT / page.path).parent / file if file else ROOT / page.path
        if not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in DocPage(target.relative_to(ROOT)).anchors():
            broken.append(f"{link}: no such heading")
    return broken


def site_pages():
    """The pages of the documentation site."""
    return [DocPage(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]


def all_pages():
    """The site's pages, and those that are read in the repository."""
    return [
        DocPage(Path("README.md")),
        DocPage(Path("CONTRIBUTING.md")),
        DocPage(Path("experiments/README.md")),
        *site_pages(),
    ]
