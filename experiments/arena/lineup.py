"""The arena's configuration: who takes part, what is attacked, how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lipcert.attacks import Norm

Kind = Literal["transfer", "not adapted", "black box", "adaptive"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""How much an adversary knows and does; most published evaluations stopped at the first two."""

Spec = Mapping[str, Any]
"""An object in YAML: ``class_path`` and, if it needs any, ``init_args``.

What is put around a network is called with it; ``around`` names the contestant whose network it is, if not the own one.
"""

DEPLOYED, NETWORK = "deployed", "network"


@dataclass(frozen=True)
class Threat:
    """A norm and a budget."""

    norm: Norm
    epsilon: float

    @property
    def name(self) -> str:
        """How files and tables call it."""
        return f"{self.norm}-{self.epsilon:g}"


@dataclass(frozen=True)
class Source:
    """Where a network comes from: a training configuration, a run directory, or an exported file.

    Attributes:
        config: configuration to train, unless a finished run of its name is found.
        arguments: options of the training command.
        run: run directory.
        file: exported network, ``.safetensors``.
        results: JSON with the ``seconds`` that the training of ``file`` took.
    """

    config: Path | None = None
    arguments: tuple[str, ...] = ()
    run: Path | None = None
    file: Path | None = None
    results: Path | None = None


@dataclass(frozen=True)
class Claim:
    """What was published about a defense.

    Attributes:
        text: the claim, in a sentence.
        source: who made it, and where.
        threats: names of the threats it is about; none: of all.
        note: why it may not fall under every threat, shown where it does not.
    """

    text: str
    source: str
    threats: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Contestant:
    """A network and what is put around it.

    Attributes:
        name: key in the configuration.
        title: what tables call it.
        network: where it comes from, or the name of the contestant that has it.
        defense: what wraps the network.
        detector: what flags inputs, as an object that gives scores; its threshold is calibrated.
        not_adapted: what attacks without adaptation see: ``network``, ``deployed``, or an object around the network.
        adaptive: what adaptive attacks see, one after the other.
        slopes: of a detector: units of logit that a unit of score is worth to adaptive attacks, one after the other.
        attacks: attacks of its own, by kind, in place of those of all.
        trained_with: contestants whose training is part of the cost, such as a teacher.
        certified: whether it comes with certificates.
        claim: what was published.
        shown: whether it has a row; others only lend their networks.
    """

    name: str
    title: str
    network: Source | str
    defense: Spec | None = None
    detector: Spec | None = None
    not_adapted: Spec | str = DEPLOYED
    adaptive: tuple[Spec | str, ...] = (DEPLOYED,)
    slopes: tuple[float, ...] = (1.0,)
    attacks: Mapping[str, tuple[Spec, ...]] = field(default_factory=dict)
    trained_with: tuple[str, ...] = ()
    certified: bool = False
    claim: Claim | None = None
    shown: bool = True


@dataclass(frozen=True)
class Lineup:
    """Everything that the configuration says.

    Attributes:
        name: what the page calls it.
        data: the data module.
        threats: norms and budgets.
        undefended: the contestant that all are compared with.
        sources: contestants on whose networks transferred examples are crafted, the undefended one first.
        attacks: by kind; each kind of attack is as strong as the strongest of its attacks.
        contestants: by name.
        samples: test images that are attacked, evenly spread.
        calibration: validation images for thresholds.
        false_positive_rate: of detectors on clean images.
        control: by what the budgets are multiplied to see whether adaptive attacks can succeed at all.
        seed: the only source of randomness.
        caveat: what readers must know of the data, shown on the page.
    """

    name: str
    data: Spec
    threats: tuple[Threat, ...]
    undefended: str
    sources: tuple[str, ...]
    attacks: Mapping[str, tuple[Spec, ...]]
    contestants: Mapping[str, Contestant]
    samples: int = 500
    calibration: int = 5000
    false_positive_rate: float = 0.05
    control: float = 5.0
    seed: int = 0
    caveat: str = ""

    @property
    def shown(self) -> tuple[Contestant, ...]:
        """The contestants that have a row."""
        return tuple(contestant for contestant in self.contestants.values() if contestant.shown)

    def attacks_of(self, contestant: Contestant, kind: Kind) -> tuple[Spec, ...]:
        """Return the attacks of one kind on a contestant."""
        return contestant.attacks.get(kind, self.attacks[kind])
