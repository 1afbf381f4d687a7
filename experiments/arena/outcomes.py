"""What is known of a contestant and what attacks on it found, and the files in which that is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineup import Kind, Spec

from lipcert.files import write_atomically


@dataclass(frozen=True)
class Round:
    """One attack on one contestant under one threat.

    Attributes:
        kind: how much the adversary knows.
        label: what the attack is called.
        view: what it sees: a contestant's name for transfer, else the position among the views of its kind.
        attack: its description.
    """

    kind: Kind
    label: str
    view: str | int
    attack: Spec


@dataclass(frozen=True)
class Outcome:
    """What a round found; lists have one entry an attacked sample of the arena, in its order.

    Attributes:
        success: whether the sample was right before and is misclassified, not rejected, within the budget.
        distance: of successful examples; None for others.
        undetected: of a network that rejects: whether the classifier alone was fooled.
        flagged: of a network that rejects: whether what was crafted is flagged.
        seconds: of the search.
        forward_passes: images pushed forward by it.
        backward_passes: images pushed backward.
    """

    success: list[bool]
    distance: list[float | None]
    undetected: list[bool]
    flagged: list[bool]
    seconds: float
    forward_passes: int
    backward_passes: int


@dataclass(frozen=True)
class Facts:
    """What is known of a contestant before it is attacked.

    Attributes:
        prediction: class of each attacked sample; the number of classes where it is rejected.
        clean_accuracy: on the whole split; rejected inputs count as wrong.
        false_positive_rate: share of the whole split that is flagged; None without a detector.
        radius: certified L2 radius of each attacked sample, 0 where the class is wrong; None without certificates.
        milliseconds: of inference an image.
    """

    prediction: list[int]
    clean_accuracy: float
    false_positive_rate: float | None
    radius: list[float] | None
    milliseconds: float


def read_kept(path: Path, key: str) -> dict[str, Any] | None:
    """What a file of the journal holds; None if it is not there, or is about something else."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    found: dict[str, Any] = content["found"]
    return found


def keep(path: Path, key: str, found: Mapping[str, Any]) -> None:
    """Write a file of the journal in one step."""
    write_atomically(path, (json.dumps({"key": key, "found": found}, allow_nan=False) + "\n").encode())
