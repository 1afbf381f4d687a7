"""Docstrings as the site reads them: the package writes Sphinx's roles and directives, the site reads Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`(~?)([\w.]+)`")
INLINE_MATH = re.compile(r":math:`([^`]+)`")
BLOCK_MATH = re.compile(r"^( *)\.\. math:: ?(.*(?:\n\1 +\S.*)*)$", re.MULTILINE)
TABLE = re.compile(r"^( *)(=+(?: +=+)+\n(?:.*\n)*?\1=+(?: +=+)+)$", re.MULTILINE)


class MarkdownDocstrings(griffe.Extension):
    """Turns the docstring of every object into Markdown before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Return a docstring with its roles as links, its formulas for MathJax, its examples as code."""
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = ROLE.sub(_link, text)
    text = INLINE_MATH.sub(lambda found: f"\\({found[1]}\\)", text)
    text = BLOCK_MATH.sub(_formula, text)
    return TABLE.sub(lambda found: f"{found[1]}```text\n{found[0]}\n{found[1]}```", text)


def _link(found: re.Match[str]) -> str:
    """A link to where an object is documented, or its name alone if it is not."""
    target = found[2]
    shown = target.rpartition(".")[2] if found[1] else target
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _formula(found: re.Match[str]) -> str:
    indent, formula = found[1], " ".join(found[2].split())
    return f"{indent}\\[ {formula} \\]"
