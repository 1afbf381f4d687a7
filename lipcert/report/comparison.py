"""Several audits side by side on one page, from their ``report.json`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from lipcert.harness.foreign import NO_RULE
from lipcert.report.display import measured_in, norm_name
from lipcert.report.figures_compare import Curve, overlay_figure
from lipcert.report.templates import rendered

LARGEST_INFLATION = 2


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit to compare.

    Attributes:
        name: what the page calls it; no two are the same.
        source: where its report lies.
        document: its ``report.json``, which satisfies the schema.
    """

    name: str
    source: str
    document: Mapping[str, Any]

    @property
    def certified(self) -> bool:
        """Whether there was any certificate to attack."""
        return bool(self.document["certificates"]["rule"] != NO_RULE)

    @property
    def attacked(self) -> int:
        """On how many samples an attack was run."""
        return int(self.document["attacked"]["samples"])

    @property
    def verdict(self) -> str:
        """The verdict, as the audit's own page gives it."""
        if not self.certified:
            return "not certified"
        if self.document["verdict"] == "fail":
            return "✗ FAIL"
        return "✓ PASS" if self.attacked else "✓ PASS, untested"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of every audit.

    Attributes:
        title: its heading.
        values: one an audit; None where there is none.
        filter: how a value is written.
        best: positions of the best values; empty where best has no meaning.
    """

    title: str
    values: tuple[Any, ...]
    filter: str
    best: frozenset[int] = frozenset()


def render_comparison(audits: Sequence[Audit]) -> str:
    """The page that compares audits: verdicts, accuracies, radii, tightness, power and cost, with curves overlaid.

    Args:
        audits: at least one.
    """
    norms = sorted({norm_name(audit.document["certificates"]["norm"]) for audit in audits})
    context = {
        "audits": audits,
        "measured_in": " or ".join(sorted({measured_in(audit.document["certificates"]["norm"]) for audit in audits})),
        "warnings": comparability(audits),
        "quality": _quality(audits),
        "certified": _certified(audits),
        "attacked": _attacked(audits),
        "strength": _strength(audits),
        "cost": _cost(audits),
        "strengths": [audit.document["power"]["strength"] or "—" for audit in audits],
        "favourites": [_favourite(audit) for audit in audits],
        **_figures(audits, " or ".join(norms)),
    }
    return rendered("compare.html.j2", context)


def comparability(audits: Sequence[Audit]) -> tuple[str, ...]:
    """Say, one sentence each, in what the audits differ that their figures must be read with."""

    def differ(value: Callable[[Audit], object]) -> bool:
        return len({value(audit) for audit in audits}) > 1

    found = []
    if differ(lambda audit: audit.document["data"]["sha256"]):
        found.append("The audits are about different images: their accuracies, radii and distances do not compare.")
    if differ(lambda audit: audit.document["certificates"]["norm"]):
        found.append("The audits measure in different norms: their radii and distances do not compare.")
    if differ(lambda audit: audit.document["certificates"]["arithmetic"]):
        found.append("The certificates are about different arithmetic: some count the rounding of floats, some do not.")
    if differ(lambda audit: audit.attacked):
        found.append(
            "Different numbers of samples were attacked: accuracies under attack, ratios, strength and cost are of "
            "different samples."
        )
    found += [
        f"Certificates of {audit.name} were refuted: its certified figures are as claimed."
        for audit in audits
        if audit.document["verdict"] == "fail"
    ]
    found += [
        f"{audit.name} comes without certificates: what is said of it is empirical."
        for audit in audits
        if not audit.certified
    ]
    return tuple(found)


def _quality(audits: Sequence[Audit]) -> list[Column]:
    documents = [audit.document for audit in audits]
    radii = _of_certified(audits, lambda document: document["certificates"]["average_certified_radius"])
    clean = tuple(document["clean_accuracy"] for document in documents)
    return [
        Column("Clean accuracy", clean, "percent_down", _best(audits, clean)),
        Column("Average certified radius", radii, "down", _best(audits, radii)),
        Column("Samples", tuple(document["data"]["samples"] for document in documents), "count"),
        Column("Attacked", tuple(document["attacked"]["samples"] for document in documents), "count"),
        Column("Refuted", _of_certified(audits, lambda document: len(document["violations"])), "count"),
    ]


def _certified(audits: Sequence[Audit]) -> list[Column]:
    """Certified accuracies: one column for every epsilon that any audit has."""
    columns = []
    for key in _epsilons(audits):
        values = _of_certified(audits, partial(_at, section="certificates", name="certified_accuracy", key=key))
        columns.append(Column(f"Certified at {key}", values, "percent_down", _best(audits, values)))
    return _known(columns)


def _attacked(audits: Sequence[Audit]) -> list[Column]:
    """Accuracies under attack: one column for every epsilon that any audit has."""
    columns = []
    for key in _epsilons(audits):
        values = tuple(audit.document["empirical_accuracy"].get(key) for audit in audits)
        columns.append(Column(f"Under attack at {key}", values, "percent_up"))
    return _known(columns)


def _strength(audits: Sequence[Audit]) -> list[Column]:
    ratio = _of_certified(audits, lambda document: document["tightness"]["median_ratio"])
    smallest = _of_certified(audits, lambda document: document["power"]["smallest_refuted_inflation"])
    half = _of_certified(audits, lambda document: document["power"]["median_refuted_inflation"])
    keys = sorted({key for audit in audits for key in audit.document["power"]["share_refuted"]}, key=float)
    shares = [
        Column(
            f"Refuted at {key}",
            _of_certified(audits, partial(_at, section="power", name="share_refuted", key=key)),
            "percent_down",
        )
        for key in keys
        if float(key) <= LARGEST_INFLATION
    ]
    return [
        Column("Smallest distance / radius", smallest, "down"),
        Column("Median distance / radius", ratio, "down"),
        Column("Half refuted at", half, "up"),
        *shares,
    ]


def _cost(audits: Sequence[Audit]) -> list[Column]:
    sums = {
        name: tuple(sum(attack[name] or 0 for attack in audit.document["attacks"]) for audit in audits)
        for name in ("seconds", "forward_passes", "backward_passes")
    }
    return [
        Column("Parameters", tuple(audit.document["model"]["parameters"] for audit in audits), "count"),
        Column("Seconds", sums["seconds"], "up"),
        Column("Forward passes", sums["forward_passes"], "count"),
        Column("Backward passes", sums["backward_passes"], "count"),
    ]


def _favourite(audit: Audit) -> str:
    """The attack that most often found the nearest adversarial example, and how often."""
    best = max(audit.document["attacks"], key=lambda attack: attack["won"], default=None)
    return f"{best['name']} ({best['won']:,})" if best and best["won"] else "—"


def _figures(audits: Sequence[Audit], norm: str) -> dict[str, Markup | None]:
    certified, empirical, power = [], [], []
    for place, audit in enumerate(audits):
        curves, factors = audit.document["curves"], audit.document["power"]["curve"]
        if audit.certified:
            certified.append(Curve(audit.name, place, curves["epsilon"], curves["certified"]))
        if curves["empirical"] is not None:
            empirical.append(Curve(audit.name, place, curves["epsilon"], curves["empirical"]))
        if factors["refuted"] is not None:
            power.append(Curve(audit.name, place, factors["inflation"], factors["refuted"]))
    budget = f"epsilon ({norm})"
    return {
        "certified_figure": overlay_figure(certified, name="certified", across=budget, up="certified accuracy"),
        "empirical_figure": overlay_figure(empirical, name="empirical", across=budget, up="accuracy under attack"),
        "power_figure": overlay_figure(
            power, name="power", across="all radii multiplied by", up="certificates refuted", start=1.0
        ),
    }


def _epsilons(audits: Sequence[Audit]) -> list[str]:
    return sorted({key for audit in audits for key in audit.document["empirical_accuracy"]}, key=float)


def _known(columns: list[Column]) -> list[Column]:
    """The columns, or none of them where no audit has a value."""
    return columns if any(value is not None for column in columns for value in column.values) else []


def _at(document: Mapping[str, Any], *, section: str, name: str, key: str) -> float | None:
    share: float | None = document[section][name].get(key)
    return share


def _of_certified(audits: Sequence[Audit], value: Callable[[Mapping[str, Any]], Any]) -> tuple[Any, ...]:
    return tuple(value(audit.document) if audit.certified else None for audit in audits)


def _best(audits: Sequence[Audit], values: Sequence[float | None]) -> frozenset[int]:
    """Where the largest value is among the audits that passed: what was refuted is not praised."""
    known = [
        value
        for audit, value in zip(audits, values, strict=True)
        if value is not None and audit.document["verdict"] == "pass"
    ]
    if len(known) < 2:
        return frozenset()
    return frozenset(
        place
        for place, (audit, value) in enumerate(zip(audits, values, strict=True))
        if value == max(known) and audit.document["verdict"] == "pass"
    )
