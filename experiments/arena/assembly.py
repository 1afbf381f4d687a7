"""From class paths to objects, and from contestants to networks that are attacked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn as nn
from lineup import DEPLOYED, NETWORK, Contestant, Lineup, Spec
from trainings import Trained

from lipcert.attacks import Attack
from lipcert.data import ImageSet
from lipcert.defenses.calibration import scores_of, threshold_at
from lipcert.errors import InputError
from lipcert.harness.detectors import DetectedNetwork

AROUND = "around"


def built(spec: Any, kind: type = object, *given: Any) -> Any:
    """Return the object that ``class_path`` and ``init_args`` describe, objects within its arguments included.

    Args:
        spec: the description; ``around`` in it is read by :func:`assembled`.
        kind: what it must be.
        given: positional arguments.

    Raises:
        InputError: the import or the call failed, or gave something else.

    Example:
        >>> built({"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}}, nn.Module)
        Linear(in_features=2, out_features=3, bias=True)
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("class_path"), str):
        raise InputError(f"expected class_path and init_args, got {spec!r}")
    unknown = sorted(set(spec) - {"class_path", "init_args", AROUND})
    if unknown:
        raise InputError(f"expected class_path and init_args, got {', '.join(unknown)} for {spec['class_path']}")
    factory = imported(spec["class_path"])
    arguments = {name: _argument(value) for name, value in (spec.get("init_args") or {}).items()}
    try:
        found = factory(*given, **arguments)
    except TypeError as error:
        raise InputError(f"expected arguments that {spec['class_path']} accepts: {error}") from error
    if not isinstance(found, kind):
        raise InputError(f"expected {spec['class_path']} to give {kind.__name__}, got {type(found).__name__}")
    return found


def imported(class_path: str) -> Any:
    """Return what a class path leads to.

    Raises:
        InputError: nothing, or nothing that can be called.
    """
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"expected the import path of a class or function, got {class_path!r}: {error}") from error
    if not callable(found):
        raise InputError(f"expected {class_path} to be a class or function, got {type(found).__name__}")
    return found


def _argument(value: Any) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        return built(value)
    return [_argument(entry) for entry in value] if isinstance(value, list) else value


def check_classes(lineup: Lineup) -> None:
    """Refuse what cannot be imported, or is no attack, before anything is trained.

    Raises:
        InputError: names it.
    """
    for contestant in lineup.contestants.values():
        for spec in (contestant.defense, contestant.detector, contestant.not_adapted, *contestant.adaptive):
            for class_path in _class_paths(spec):
                imported(class_path)
        for name in lent(contestant):
            if name not in lineup.contestants:
                raise InputError(f"expected a contestant for {AROUND} in {contestant.name}, got {name!r}")
    for attacks in (lineup.attacks, *(contestant.attacks for contestant in lineup.contestants.values())):
        for kind, specs in attacks.items():
            for spec in specs:
                attack = built(spec, Attack)
                missing = [threat.norm for threat in lineup.threats if threat.norm not in attack.norms]
                if missing:
                    raise InputError(f"expected {kind} attacks for {', '.join(missing)}, which {attack.name} cannot do")


def _class_paths(spec: Any) -> list[str]:
    if isinstance(spec, Mapping):
        own = [spec["class_path"]] if isinstance(spec.get("class_path"), str) else []
        return own + [path for value in spec.values() for path in _class_paths(value)]
    return [path for value in spec for path in _class_paths(value)] if isinstance(spec, list) else []


def lent(contestant: Contestant) -> list[str]:
    """Return the contestants whose networks a contestant's objects are put around, other than its own."""
    specs = (contestant.defense, contestant.detector, contestant.not_adapted, *contestant.adaptive)
    return [spec[AROUND] for spec in specs if isinstance(spec, Mapping) and AROUND in spec]


@dataclass(frozen=True)
class Calibration:
    """A detector's operating point.

    Attributes:
        threshold: score above which an input is flagged.
        target: false positive rate that was asked for.
        samples: validation images that it was set on.
    """

    threshold: float
    target: float
    samples: int


@dataclass(frozen=True)
class Fighter:
    """A contestant, ready to be attacked.

    Attributes:
        contestant: its configuration.
        network: the plain network.
        deployed: what decides: the network and its defense; with a detector, K + 1 logits.
        not_adapted: what attacks without adaptation see; it never rejects.
        adaptive: what adaptive attacks see.
        calibration: of its detector.
        training_seconds: what its training took, with all that it needs; None if unknown.
        identity: a hash of all that decides what it answers.
    """

    contestant: Contestant
    network: nn.Module
    deployed: nn.Module
    not_adapted: nn.Module
    adaptive: tuple[nn.Module, ...]
    calibration: Calibration | None
    training_seconds: float | None
    identity: str

    @property
    def rejects(self) -> bool:
        """Whether the deployed network may reject inputs."""
        return self.calibration is not None


def assembled(contestant: Contestant, lineup: Lineup, trained: Mapping[str, Trained], held_out: ImageSet) -> Fighter:
    """Return a contestant with its defense around its network, and its detector calibrated.

    Args:
        contestant: who.
        lineup: of which it is one.
        trained: what every contestant with a network of its own trained, by name.
        held_out: validation images.

    Raises:
        InputError: a class refuses its arguments.
    """
    own = contestant.network if isinstance(contestant.network, str) else contestant.name
    network = trained[own].network

    def around(spec: Spec) -> nn.Module:
        return _ready(built(spec, nn.Module, trained[spec.get(AROUND, own)].network))

    defended = network if contestant.defense is None else around(contestant.defense)
    deployed, calibration = defended, None
    whole: tuple[nn.Module, ...] = (defended,)
    if contestant.detector is not None:
        detector = around(contestant.detector)
        calibration = _calibrated(detector, lineup, held_out)
        threshold = calibration.threshold
        deployed = _ready(DetectedNetwork(defended, detector, threshold=threshold))
        whole = tuple(
            _ready(DetectedNetwork(defended, detector, threshold=threshold, slope=slope)) for slope in contestant.slopes
        )

    def views(spec: Spec | str, of_deployed: tuple[nn.Module, ...]) -> tuple[nn.Module, ...]:
        return (around(spec),) if not isinstance(spec, str) else {NETWORK: (network,), DEPLOYED: of_deployed}[spec]

    needed = dict.fromkeys((own, *lent(contestant), *contestant.trained_with))
    seconds = [trained[name].seconds for name in needed]
    return Fighter(
        contestant=contestant,
        network=network,
        deployed=deployed,
        not_adapted=views(contestant.not_adapted, (defended,))[0],
        adaptive=tuple(view for spec in contestant.adaptive for view in views(spec, whole)),
        calibration=calibration,
        training_seconds=None if None in seconds else sum(value for value in seconds if value is not None),
        identity=_identity(contestant, [trained[name].network for name in needed], calibration),
    )


def _calibrated(detector: nn.Module, lineup: Lineup, held_out: ImageSet) -> Calibration:
    count = min(lineup.calibration, len(held_out))
    scores = scores_of(detector, held_out.inputs(torch.arange(count)))
    threshold = threshold_at(scores, lineup.false_positive_rate)
    return Calibration(threshold, lineup.false_positive_rate, count)


def _ready(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def _identity(contestant: Contestant, networks: list[nn.Module], calibration: Calibration | None) -> str:
    digest = hashlib.sha256()
    objects = (contestant.defense, contestant.detector, contestant.not_adapted, contestant.adaptive, contestant.slopes)
    threshold = None if calibration is None else calibration.threshold
    digest.update(json.dumps([objects, threshold], default=str).encode())
    for network in networks:
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def parameters_of(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
