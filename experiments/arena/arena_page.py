"""The arena's record as one self-contained HTML page in the style of lipcert's reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineup import Lineup, Threat
from markupsafe import Markup
from matplotlib.ticker import PercentFormatter
from scoreboard import columns, title
from verdicts import TOLERANCE

from lipcert.report import svg
from lipcert.report.display import percent_down, percent_up
from lipcert.report.templates import rendered

HERE = Path(__file__).parent
ROW_HEIGHT = 0.33  # inches of a figure


def render_page(record: Mapping[str, Any], lineup: Lineup) -> str:
    """Return the page of a record, with nothing outside itself but the reader's fonts.

    Args:
        record: what ``arena.json`` holds.
        lineup: the configuration.
    """
    contestants = record["contestants"]
    threats = [
        {
            "key": threat.name,
            "title": title(threat),
            "columns": columns(contestants, threat),
            "figure": gap_figure(contestants, threat),
            "best": _best(contestants, threat),
            "headlines": headlines(contestants, threat),
        }
        for threat in lineup.threats
    ]
    context = {
        "record": record,
        "contestants": contestants,
        "threats": threats,
        "claims": [contestant for contestant in contestants if contestant["claim"]],
        "detectors": [contestant for contestant in contestants if contestant["detector"]],
        "tally": tally(contestants),
        "tolerance": f"{100 * TOLERANCE:g}",
        "noise": f"{100 / math.sqrt(record['data']['samples']):.1f}",  # two standard errors of a half
        "undefended": next(found["title"] for found in contestants if found["name"] == lineup.undefended),
    }
    return rendered("arena.html.j2", context, folder=HERE)


def tally(contestants: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence how many claims survive.

    Example:
        >>> tally([{"claim": {"fate": "falls"}}, {"claim": {"fate": "survives"}}, {"claim": None}])
        'Of 2 published claims 1 survives, 0 survive in part, and 1 falls once the adversary adapts.'
    """
    fates = [contestant["claim"]["fate"] for contestant in contestants if contestant["claim"]]

    def count(fate: str, one: str, many: str) -> str:
        number = fates.count(fate)
        return f"{number} {one if number == 1 else many}"

    parts = (
        count("survives", "survives", "survive"),
        count("survives in part", "survives in part", "survive in part"),
        count("falls", "falls", "fall"),
    )
    return f"Of {len(fates)} published claims {parts[0]}, {parts[1]}, and {parts[2]} once the adversary adapts."


def headlines(contestants: Sequence[Mapping[str, Any]], threat: Threat) -> list[tuple[str, str, str]]:
    """Return the largest robust and the largest certified accuracy under a threat: what it is, how much, whose."""
    found = []
    for key, what, shown in (
        ("worst", "highest robust accuracy", percent_up),
        ("certified", "highest certified accuracy", percent_down),
    ):
        known = [each for each in contestants if each["threats"][threat.name][key] is not None]
        if known:
            best = max(known, key=lambda each: each["threats"][threat.name][key])
            found.append((f"{title(threat)}: {what}", shown(best["threats"][threat.name][key]), best["title"]))
    return found


def gap_figure(contestants: Sequence[Mapping[str, Any]], threat: Threat) -> Markup:
    """Return for every contestant the robust accuracy without adaptation, the worst, and the certified one."""
    rows = [(found["title"], found["threats"][threat.name]) for found in contestants]
    places = range(len(rows))
    with svg.report_style():
        figure = svg.new_figure(svg.WIDTH * 1.35, 1.1 + ROW_HEIGHT * len(rows))
        axes = figure.add_subplot(xlabel=f"robust accuracy, {title(threat)}", xlim=(-0.02, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_yticks(places, [svg.short(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.hlines(
            places,
            [under["worst"] for _, under in rows],
            [under["not_adapted"] for _, under in rows],
            color=svg.MUTED,
            linewidth=1.2,
        )
        for key, marker, colour, label, filled in (
            ("not_adapted", "o", svg.INK, "attacked without adaptation", False),
            ("worst", "s", svg.EMPIRICAL, "under the strongest attack", True),
            ("certified", ">", svg.CERTIFIED, "certified", True),
        ):
            known = [(place, under[key]) for place, (_, under) in enumerate(rows) if under[key] is not None]
            if known:
                axes.plot(
                    [share for _, share in known],
                    [place for place, _ in known],
                    linestyle="none",
                    marker=marker,
                    markersize=6,
                    color=colour,
                    markerfacecolor=colour if filled else svg.PAPER,
                    label=label,
                )
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        return svg.inline_svg(figure, name=f"gap-{threat.norm}", alt=_alt(rows, threat))


def _alt(rows: Sequence[tuple[str, Mapping[str, Any]]], threat: Threat) -> str:
    parts = [
        f"{name}: {percent_up(under['not_adapted'])} without adaptation, {percent_up(under['worst'])} at worst"
        + ("" if under["certified"] is None else f", {percent_down(under['certified'])} certified")
        for name, under in rows
    ]
    return f"Robust accuracy, {title(threat)}. {'; '.join(parts)}."


def _best(contestants: Sequence[Mapping[str, Any]], threat: Threat) -> float | None:
    """The largest worst accuracy, if there is anyone to be better than."""
    worst = [found["threats"][threat.name]["worst"] for found in contestants]
    return max(worst) if len(worst) > 1 else None
