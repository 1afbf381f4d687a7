"""Matplotlib figures as inline SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import AbstractContextManager

import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.figure import Figure

# Stand-ins that are exchanged for the page's own colours, so that a figure follows light and dark.
INK = "#010203"
MUTED = "#010204"
LINE = "#010205"
CERTIFIED = "#010206"
EMPIRICAL = "#010207"
BAD = "#010208"
PAPER = "#010209"
SERIES = ("#01020a", "#01020b", "#01020c", "#01020d", "#01020e", "#01020f")

WIDTH, HEIGHT = 4.8, 3.7
"""Size of a figure in inches: text is set in points, so a narrow figure stays legible on a phone."""
_NAME_LENGTH = 22

_PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    CERTIFIED: "var(--certified)",
    EMPIRICAL: "var(--empirical)",
    BAD: "var(--bad)",
    PAPER: "var(--paper)",
    **{stand_in: f"var(--series-{number})" for number, stand_in in enumerate(SERIES, start=1)},
}

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied, and set in the page's font
    "svg.hashsalt": "lipcert",
    "text.parse_math": False,  # a class may be called "$5"
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def report_style() -> AbstractContextManager[None]:
    """The report's matplotlib settings, whatever the user's own are; wraps drawing *and* ``inline_svg``."""
    return matplotlib.style.context(["default", _STYLE])


def new_figure(width: float, height: float) -> Figure:
    """An empty transparent figure, without pyplot's global state.

    Args:
        width: in inches; text is set in points, so a narrow figure stays legible on a phone.
        height: in inches.
    """
    return Figure(figsize=(width, height), layout="constrained")


def inline_svg(figure: Figure, *, name: str, alt: str) -> Markup:
    """The figure as one ``<svg>`` element that refers to nothing outside itself.

    The same figure always gives the same text: no dates, no random identifiers.

    Args:
        figure: drawn with this module's colours.
        name: prefix of all identifiers, since several figures share one page.
        alt: what the figure shows, in words.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # matplotlib's own font only measures the text: the page draws it in the reader's fonts
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    opening, body = buffer.getvalue().split("<svg ", 1)[1].split(">", 1)
    view_box = re.search(r'viewBox="[-0-9. ]+"', opening)
    assert view_box, "matplotlib writes a viewBox"
    body = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _adapted_tag(tag[0], name), body)
    return Markup('<svg role="img" aria-label="{}" {}>').format(alt, Markup(view_box[0])) + Markup(body)


def short(name: str) -> str:
    r"""A name in one line that leaves room for what is drawn.

    Example:
        >>> short("a  name of two lines\n and more")
        'a name of two lines a…'
    """
    line = " ".join(name.split())
    return line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _adapted_tag(tag: str, name: str) -> str:
    """One tag with the page's colours and font and with identifiers of its own; the text between tags stays."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{escape(name)}-", tag.replace("xlink:href", "href"))
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: (?:[^;\"]*? )?([\d.]+px) [^;\"]*", r"font-size: \1", tag)
    for stand_in, colour in _PAGE_COLOURS.items():
        tag = tag.replace(stand_in, colour)
    return tag
