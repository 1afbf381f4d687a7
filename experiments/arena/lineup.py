"""The arena's configuration: who takes part, what is attacked, how; checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from lipcert.attacks import Norm
from lipcert.errors import InputError

ROOT = Path(__file__).parents[2]

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


def read_lineup(path: Path) -> Lineup:
    """Read and check a configuration.

    Raises:
        InputError: says what was expected and found.
    """
    content = read_yaml(path)
    _check_keys("the configuration", content, Lineup, needed=("name", "data", "threats", "attacks", "contestants"))
    contestants = {
        name: _contestant(str(name), _mapping(f"contestants.{name}", entry))
        for name, entry in _mapping("contestants", content["contestants"]).items()
    }
    undefended = content.get("undefended", "undefended")
    values = {name: content[name] for name in content if name not in ("threats", "attacks", "contestants", "sources")}
    lineup = Lineup(
        **{**values, "undefended": undefended},
        threats=tuple(_threat(entry) for entry in _list("threats", content["threats"])),
        sources=tuple(content.get("sources", [undefended])),
        attacks=_attacks("attacks", content["attacks"], needed=KINDS),
        contestants=contestants,
    )
    _check(lineup)
    return lineup


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: no such file, or something else in it.
    """
    if not path.is_file():
        raise InputError(f"expected a configuration, found none at {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"expected YAML in {path}: {error}") from error
    return dict(_mapping(str(path), content))


def located(path: str | Path) -> Path:
    """Return a path of the configuration as it is or, if nothing is there, as seen from the repository's root."""
    found = Path(path)
    return found if found.is_absolute() or found.exists() else ROOT / found


def _contestant(name: str, entry: Mapping[str, Any]) -> Contestant:
    where = f"contestants.{name}"
    _check_keys(where, entry, Contestant, needed=("network",), but=("name",))
    values = dict(entry)
    network = values.pop("network")
    if not isinstance(network, str):
        network = _source(f"{where}.network", _mapping(f"{where}.network", network))
    for key in ("adaptive", "slopes", "trained_with"):
        if key in values:
            values[key] = tuple(_list(f"{where}.{key}", values[key]))
    if "attacks" in values:
        values["attacks"] = _attacks(f"{where}.attacks", values["attacks"])
    if "claim" in values:
        claim = _mapping(f"{where}.claim", values["claim"])
        _check_keys(f"{where}.claim", claim, Claim, needed=("text", "source"))
        values["claim"] = Claim(**{**claim, "threats": tuple(claim.get("threats", ()))})
    values.setdefault("title", name.replace("_", " "))
    for view in (values.get("not_adapted", DEPLOYED), *values.get("adaptive", ())):
        if isinstance(view, str) and view not in (DEPLOYED, NETWORK):
            raise InputError(f"expected {DEPLOYED}, {NETWORK} or a class path as a view in {where}, got {view!r}")
    return Contestant(name=name, network=network, **values)


def _source(where: str, entry: Mapping[str, Any]) -> Source:
    _check_keys(where, entry, Source)
    origins = [name for name in ("config", "run", "file") if name in entry]
    if len(origins) != 1:
        raise InputError(f"expected one of config, run and file in {where}, got {', '.join(origins) or 'none'}")
    paths = {name: located(entry[name]) for name in ("config", "run", "file", "results") if name in entry}
    for name, path in paths.items():
        if not path.exists():
            raise InputError(f"expected {name} of {where}, found nothing at {path}")
    arguments = tuple(str(argument) for argument in _list(f"{where}.arguments", entry.get("arguments", [])))
    return Source(arguments=arguments, **paths)


def _threat(entry: Any) -> Threat:
    values = _mapping("threats", entry)
    _check_keys("threats", values, Threat, needed=("norm", "epsilon"))
    norm, epsilon = values["norm"], values["epsilon"]
    if norm not in ("l2", "linf"):
        raise InputError(f"expected the norm of a threat to be l2 or linf, got {norm!r}")
    if not isinstance(epsilon, int | float) or not 0 < epsilon < float("inf"):
        raise InputError(f"expected a finite epsilon > 0 of a threat, got {epsilon!r}")
    return Threat(norm, float(epsilon))


def _attacks(where: str, entry: Any, *, needed: Sequence[str] = ()) -> dict[str, tuple[Spec, ...]]:
    values = _mapping(where, entry)
    unknown = sorted(set(values) - set(KINDS))
    missing = sorted(set(needed) - set(values))
    if unknown or missing:
        found = f"got {', '.join(unknown)}" if unknown else f"found no {', '.join(missing)}"
        raise InputError(f"expected attacks of the kinds {', '.join(KINDS)} in {where}, {found}")
    lists = {kind: tuple(_list(f"{where}.{kind}", specs)) for kind, specs in values.items()}
    for kind, specs in lists.items():
        if not specs:
            raise InputError(f"expected at least one attack in {where}.{kind}, got none")
    return lists


def _check(lineup: Lineup) -> None:
    contestants = lineup.contestants
    if lineup.samples < 1 or lineup.calibration < 1:
        raise InputError(f"expected samples and calibration >= 1, got {lineup.samples} and {lineup.calibration}")
    if not 0 < lineup.false_positive_rate < 1:
        raise InputError(f"expected a false_positive_rate between 0 and 1, got {lineup.false_positive_rate}")
    if not 1 < lineup.control < float("inf"):
        raise InputError(f"expected a finite control > 1, got {lineup.control}")
    if not lineup.threats or len(set(lineup.threats)) < len(lineup.threats):
        raise InputError(f"expected different threats, got {[threat.name for threat in lineup.threats]}")
    if lineup.sources[:1] != (lineup.undefended,):
        raise InputError(f"expected the first of the sources to be {lineup.undefended}, got {list(lineup.sources)}")
    for name in (lineup.undefended, *lineup.sources):
        _check_known(contestants, name, "undefended and sources")
    for contestant in contestants.values():
        _check_contestant(contestant, lineup)


def _check_contestant(contestant: Contestant, lineup: Lineup) -> None:
    where, contestants = f"contestants.{contestant.name}", lineup.contestants
    for other in contestant.trained_with:
        _check_known(contestants, other, f"{where}.trained_with")
    if isinstance(contestant.network, str):
        _check_known(contestants, contestant.network, f"{where}.network")
        if isinstance(contestants[contestant.network].network, str):
            raise InputError(f"expected {where}.network to have a network of its own, got {contestant.network}")
    threats = [threat.name for threat in lineup.threats]
    unknown = sorted(set(contestant.claim.threats) - set(threats)) if contestant.claim else []
    if unknown:
        raise InputError(f"expected threats among {', '.join(threats)} in {where}.claim, got {', '.join(unknown)}")


def _check_known(contestants: Mapping[str, Contestant], name: str, where: str) -> None:
    if name not in contestants:
        raise InputError(f"expected a contestant in {where}, got {name!r}; there are {', '.join(contestants)}")


def _check_keys(
    where: str, entry: Mapping[str, Any], kind: type, *, needed: Sequence[str] = (), but: Sequence[str] = ()
) -> None:
    known = [name for name in kind.__dataclass_fields__ if name not in but]  # type: ignore[attr-defined]
    unknown = [str(name) for name in entry if name not in known]
    missing = [name for name in needed if name not in entry]
    if unknown:
        raise InputError(f"expected {', '.join(known)} in {where}, got {', '.join(unknown)}")
    if missing:
        raise InputError(f"expected {', '.join(missing)} in {where}, found none")


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"expected a mapping in {where}, got {type(value).__name__}")
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"expected a list in {where}, got {type(value).__name__}")
    return value
