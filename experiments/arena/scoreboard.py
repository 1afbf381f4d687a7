"""From outcomes to the table: a record for JSON, rows for CSV, and what speaks against the attacks."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from assembly import Fighter, parameters_of
from lineup import KINDS, Lineup, Threat
from outcomes import Facts, Outcome, Round
from torch import Tensor
from verdicts import overall, verdict

from lipcert.metrics import certified_accuracy, detection_rates, mean_perturbation, median_perturbation
from lipcert.report.display import norm_name

Outcomes = Mapping[str, Sequence[tuple[Round, Outcome]]]
"""By the name of the threat."""

NOISE = 0.02
"""By so much may an attack that knows less beat one that knows more before the page says so."""

UNBROKEN = 0.1
"""At a budget that nothing should withstand, a larger share says that the attack is weak."""


@dataclass(frozen=True)
class Entry:
    """A contestant with all that was found.

    Attributes:
        fighter: the contestant.
        facts: what was known before the attacks.
        outcomes: of the attacks.
        controls: by the name of the threat, the share that withstands a budget that nothing should withstand.
        pixels: numbers in one image.
    """

    fighter: Fighter
    facts: Facts
    outcomes: Outcomes
    controls: Mapping[str, float | None]
    pixels: int

    def right(self, labels: Tensor) -> Tensor:
        """Which samples ``(N,)`` were right, and not rejected, before any attack."""
        return torch.tensor(self.facts.prediction) == labels


def title(threat: Threat) -> str:
    """A threat as text.

    Example:
        >>> title(Threat("linf", 0.1))
        'L∞ 0.1'
    """
    return f"{norm_name(threat.norm)} {threat.epsilon:g}"


def contestants_record(entries: Sequence[Entry], lineup: Lineup, labels: Tensor) -> list[dict[str, Any]]:
    """Return one record a contestant: clean, certified and robust accuracies, costs, and the fate of its claim.

    Args:
        entries: of the contestants that are shown, the undefended one among them.
        lineup: what the configuration says.
        labels: ``(N,)`` true classes of the attacked samples.
    """
    records = [_record(entry, lineup, labels) for entry in entries]
    worst = next(record for record in records if record["name"] == lineup.undefended)["threats"]
    for entry, record in zip(entries, records, strict=True):
        record["claim"] = _claim(entry, record, worst, lineup)
    return records


def _record(entry: Entry, lineup: Lineup, labels: Tensor) -> dict[str, Any]:
    fighter, facts = entry.fighter, entry.facts
    detector = None
    if fighter.calibration is not None:
        calibration = fighter.calibration
        detector = {
            "threshold": calibration.threshold,
            "target_false_positive_rate": calibration.target,
            "false_positive_rate": facts.false_positive_rate,
            "calibration_samples": calibration.samples,
        }
    return {
        "name": fighter.contestant.name,
        "title": fighter.contestant.title,
        "parameters": parameters_of(fighter.deployed),
        "training_seconds": fighter.training_seconds,
        "milliseconds_an_image": round(facts.milliseconds, 4),
        "clean_accuracy": facts.clean_accuracy,
        "clean_accuracy_of_the_attacked": entry.right(labels).double().mean().item(),
        "detector": detector,
        "threats": {threat.name: _under(entry, threat, labels) for threat in lineup.threats},
    }


def _under(entry: Entry, threat: Threat, labels: Tensor) -> dict[str, Any]:
    """What became of a contestant under one threat."""
    right, outcomes = entry.right(labels), entry.outcomes[threat.name]
    columns: dict[str, Tensor] = {}
    for turn, outcome in outcomes:
        column = f"transfer from {turn.view}" if turn.kind == "transfer" else turn.kind
        columns[column] = columns.get(column, right) & ~torch.tensor(outcome.success)
    robust = {column: _share(stands) for column, stands in columns.items()}
    stands = torch.stack(list(columns.values())).all(0)
    distance, success = _nearest(outcomes)
    return {
        "certified": _certified(entry, threat, labels),
        "robust": robust,
        "worst": _share(stands),
        "strongest": min(robust, key=lambda column: (robust[column], -list(robust).index(column))),
        "not_adapted": robust["not adapted"],
        "transfer": min(share for column, share in robust.items() if column.startswith("transfer")),
        "mean_perturbation": _number(mean_perturbation(distance, success)),
        "median_perturbation": _number(median_perturbation(distance, success)),
        "refuted": _refuted(entry, threat, outcomes),
        "detected": _detected(entry, outcomes),
        "control": entry.controls[threat.name],
        "attacks": [
            {
                "kind": turn.kind,
                "name": turn.label,
                "view": turn.view,
                "robust": _share(right & ~torch.tensor(outcome.success)),
                "seconds": outcome.seconds,
                "forward_passes": outcome.forward_passes,
                "backward_passes": outcome.backward_passes,
            }
            for turn, outcome in outcomes
        ],
    }


def _certified(entry: Entry, threat: Threat, labels: Tensor) -> float | None:
    radius = _radius(entry, threat)
    if radius is None:
        return None
    share = certified_accuracy(radius, torch.tensor(entry.facts.prediction), labels, threat.epsilon)
    return round(share.item(), 6)


def _radius(entry: Entry, threat: Threat) -> Tensor | None:
    """Certified radii in the norm of a threat: a pixel each by r in Linf is r times the root of their number in L2."""
    if entry.facts.radius is None:
        return None
    radius = torch.tensor(entry.facts.radius, dtype=torch.float64)
    return radius if threat.norm == "l2" else radius / math.sqrt(entry.pixels)


def _nearest(outcomes: Sequence[tuple[Round, Outcome]]) -> tuple[Tensor, Tensor]:
    """The distance of the nearest example of each sample, and where there is one."""
    distances = torch.tensor(
        [[math.inf if value is None else value for value in outcome.distance] for _, outcome in outcomes],
        dtype=torch.float64,
    )
    nearest = distances.amin(0)
    return nearest, nearest.isfinite()


def _refuted(entry: Entry, threat: Threat, outcomes: Sequence[tuple[Round, Outcome]]) -> int | None:
    """How many certificates are contradicted by an example nearer than their radius; more than none is a bug."""
    radius = _radius(entry, threat)
    return None if radius is None else int((_nearest(outcomes)[0] < radius).sum())


def _detected(entry: Entry, outcomes: Sequence[tuple[Round, Outcome]]) -> dict[str, float | None] | None:
    """Which share of the examples that fool the classifier is flagged, by kind of attack."""
    if not entry.fighter.rejects:
        return None
    found: dict[str, float | None] = {}
    for kind in KINDS:
        turns = [outcome for turn, outcome in outcomes if turn.kind == kind]
        fooled = torch.tensor([outcome.undetected for outcome in turns]).flatten()
        flagged = torch.tensor([outcome.flagged for outcome in turns]).flatten()
        found[kind] = _number(detection_rates(flagged[fooled], fooled[fooled]).true_positive)
    return found


def _claim(
    entry: Entry, record: Mapping[str, Any], undefended: Mapping[str, Any], lineup: Lineup
) -> dict[str, Any] | None:
    claim = entry.fighter.contestant.claim
    if claim is None:
        return None
    threats = [threat for threat in lineup.threats if not claim.threats or threat.name in claim.threats]
    verdicts = {
        threat.name: verdict(
            published=record["threats"][threat.name]["not_adapted"],
            transfer=record["threats"][threat.name]["transfer"],
            worst=record["threats"][threat.name]["worst"],
            undefended=undefended[threat.name]["worst"],
            threat=title(threat),
        )
        for threat in threats
    }
    return {
        "text": claim.text,
        "source": claim.source,
        "fate": overall([found.fate for found in verdicts.values()]),
        "verdicts": {name: {"fate": found.fate, "sentence": found.sentence} for name, found in verdicts.items()},
        "note": claim.note,
    }


def warnings_of(records: Sequence[Mapping[str, Any]], lineup: Lineup) -> list[str]:
    """Return, one sentence each, what a reader must know before believing the table."""
    found = [lineup.caveat] if lineup.caveat else []
    for record in records:
        for threat in lineup.threats:
            found += _doubts(record, record["threats"][threat.name], title(threat), lineup.control)
        detector = record["detector"]
        if detector and abs(detector["false_positive_rate"] - detector["target_false_positive_rate"]) > 0.01:
            found.append(
                f"{record['title']} flags {detector['false_positive_rate']:.1%} of the clean test images, more than a "
                f"point away from the {detector['target_false_positive_rate']:.1%} that it was calibrated to."
            )
    return found


def _doubts(record: Mapping[str, Any], under: Mapping[str, Any], threat: str, factor: float) -> list[str]:
    robust: Mapping[str, float] = under["robust"]
    found = []
    weaker = min((column for column in robust if column != "adaptive"), key=lambda column: robust[column])
    if robust[weaker] < robust["adaptive"] - NOISE:
        found.append(
            f"{record['title']}, {threat}: the adaptive attack is not the strongest ({robust['adaptive']:.1%} against "
            f"{robust[weaker]:.1%} for {weaker}), so that it may be too weak; the worst column counts all of them."
        )
    if under["control"] is not None and under["control"] > UNBROKEN:
        found.append(
            f"{record['title']}, {threat}: even at {factor:g} times the budget {under['control']:.1%} withstand the "
            "first adaptive attack: it is the attack that is weak."
        )
    if under["refuted"]:
        found.append(f"{record['title']}, {threat}: {under['refuted']} certificates were refuted. This is a bug.")
    if under["certified"] is not None and under["worst"] < under["certified"]:
        found.append(f"{record['title']}, {threat}: fewer samples stand than are certified. This is a bug.")
    return found


def columns(records: Sequence[Mapping[str, Any]], threat: Threat) -> list[str]:
    """Return the names of the columns of robust accuracy, in their order."""
    return list(dict.fromkeys(column for record in records for column in record["threats"][threat.name]["robust"]))


def csv_table(records: Sequence[Mapping[str, Any]], lineup: Lineup) -> str:
    """Return the table as CSV, one row a contestant and threat."""
    names = list(dict.fromkeys(name for threat in lineup.threats for name in columns(records, threat)))
    header = ["contestant", "norm", "epsilon", "samples", "clean", "certified", *names, "worst", "strongest", "claim"]
    header += ["false_positive_rate", "training_seconds", "milliseconds_an_image"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for threat in lineup.threats:
        for record in records:
            under, claim = record["threats"][threat.name], record["claim"]
            fate = claim["verdicts"].get(threat.name, {}).get("fate", "") if claim else ""
            detector = record["detector"] or {}
            writer.writerow(
                [
                    *(record["name"], threat.norm, f"{threat.epsilon:g}", lineup.samples),
                    *(_cell(record["clean_accuracy"]), _cell(under["certified"])),
                    *(_cell(under["robust"].get(name)) for name in names),
                    *(_cell(under["worst"]), under["strongest"], fate),
                    _cell(detector.get("false_positive_rate")),
                    *(_cell(record["training_seconds"]), _cell(record["milliseconds_an_image"])),
                ]
            )
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _share(stands: Tensor) -> float:
    return stands.double().mean().item()


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
