"""The arena's configuration from its file, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lineup import DEPLOYED, KINDS, NETWORK, Claim, Contestant, Lineup, Source, Spec, Threat

from lipcert.errors import InputError

ROOT = Path(__file__).parents[2]


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
