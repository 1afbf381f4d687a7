"""The contest itself: every contestant under every threat and every kind of attack, kept on disk as it goes."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from assembly import Fighter, built
from judging import judged
from lineup import KINDS, Lineup, Spec, Threat
from outcomes import Facts, Outcome, Round, keep, read_kept
from torch import Tensor

from lipcert import certify
from lipcert.attacks import Attack
from lipcert.attacks.verify import predictions
from lipcert.data import ImageSet
from lipcert.harness.checks import spread
from lipcert.harness.detectors import DetectedNetwork
from lipcert.harness.joint_attack import jointly

TIMED = 256  # images of one timing
ROUNDS = 5
CONTROLLED = 50  # images that are attacked with a budget that nothing should withstand


class Arena:
    """The samples, and the journal of what was found on them.

    Args:
        lineup: what the configuration says.
        images: the test split.
        journal: folder of the files in which outcomes are kept.
    """

    def __init__(self, lineup: Lineup, images: ImageSet, journal: Path) -> None:
        self.lineup = lineup
        self.images = images
        self.journal = journal
        self.index = spread(range(len(images)), lineup.samples)
        self.inputs, self.labels = images.inputs(self.index), images.labels[self.index]
        self.data_sha256 = images.subset(self.index).sha256
        self._crafted: dict[tuple[str, str], Tensor] = {}

    def facts(self, fighter: Fighter) -> Facts:
        """Return what is known of a contestant before it is attacked."""
        path, key = self._place(fighter, "facts", {"split": self.images.sha256, "samples": len(self.index)})
        kept = read_kept(path, key)
        if kept is None:
            kept = asdict(self._measured(fighter))
            keep(path, key, kept)
        return Facts(**kept)

    def _measured(self, fighter: Fighter) -> Facts:
        classes = predictions(fighter.deployed, self.images.inputs())
        rejected, radius = None, None
        if fighter.rejects:
            with torch.no_grad():
                rejected = fighter.deployed(self.inputs[:1]).shape[1] - 1
        if fighter.contestant.certified:
            found = certify(fighter.network, self.inputs)
            radius = torch.where(found.prediction == self.labels, found.radius, 0.0).tolist()
        return Facts(
            prediction=classes[self.index].tolist(),
            clean_accuracy=(classes == self.images.labels).double().mean().item(),
            false_positive_rate=None if rejected is None else (classes == rejected).double().mean().item(),
            radius=radius,
            milliseconds=_milliseconds(
                fighter.deployed, self.images.inputs(torch.arange(min(TIMED, len(self.images))))
            ),
        )

    def rounds(self, fighter: Fighter) -> Iterator[tuple[Threat, Round]]:
        """Return the rounds that a contestant has to stand."""
        for threat in self.lineup.threats:
            for kind in KINDS:
                for attack in self.lineup.attacks_of(fighter.contestant, kind):
                    views: Sequence[str | int] = (0,)
                    if kind == "transfer":
                        views = self.lineup.sources
                    elif kind == "adaptive":
                        views = range(len(fighter.adaptive))
                    for view in views:
                        yield threat, Round(kind, _label(attack), view, attack)

    def fought(
        self,
        fighter: Fighter,
        facts: Facts,
        sources: Mapping[str, nn.Module],
        on_round: Callable[[Threat, Round], object] = lambda threat, turn: None,
    ) -> dict[str, list[tuple[Round, Outcome]]]:
        """Return the outcomes of all rounds, by the name of the threat.

        Adaptive attacks are run one after the other on what stands; all others attack every sample that was right.

        Args:
            fighter: who is attacked.
            facts: what is known of it.
            sources: networks on which transferred examples are crafted, by name.
            on_round: called before each round, to show progress.
        """
        found: dict[str, list[tuple[Round, Outcome]]] = {threat.name: [] for threat in self.lineup.threats}
        right = torch.tensor(facts.prediction) == self.labels
        for threat, turn in self.rounds(fighter):
            on_round(threat, turn)
            standing = right.clone()
            if turn.kind == "adaptive":
                for before, outcome in found[threat.name]:
                    if before.kind == "adaptive":
                        standing &= ~torch.tensor(outcome.success)
            found[threat.name].append((turn, self._outcome(fighter, standing, threat, turn, sources)))
        return found

    def controlled(self, fighter: Fighter, facts: Facts, threat: Threat) -> float | None:
        """Return which share of some samples withstands the first adaptive attacks at a budget that none should.

        A share that is not near 0 says that the attack is weak, not that the defense is strong.

        Args:
            fighter: who is attacked.
            facts: what is known of it.
            threat: norm, and the budget that is multiplied.

        Returns:
            The share; None if no sample is right before the attack.
        """
        right = (torch.tensor(facts.prediction) == self.labels).nonzero().flatten()[:CONTROLLED]
        standing = torch.zeros_like(self.labels, dtype=torch.bool)
        standing[right] = True
        large = replace(threat, epsilon=threat.epsilon * self.lineup.control)
        attack = self.lineup.attacks_of(fighter.contestant, "adaptive")[0]
        for view in range(len(fighter.adaptive)):
            turn = Round("adaptive", f"control-{_label(attack)}", view, attack)
            standing &= ~torch.tensor(self._outcome(fighter, standing, large, turn, {}).success)
        return standing.double().sum().item() / len(right) if len(right) else None

    def _outcome(
        self, fighter: Fighter, standing: Tensor, threat: Threat, turn: Round, sources: Mapping[str, nn.Module]
    ) -> Outcome:
        """The outcome of a round, from the journal if it is there."""
        seen = _sha256_of(sources[str(turn.view)]) if turn.kind == "transfer" else turn.view
        what = {"threat": asdict(threat), "round": [turn.kind, seen, turn.attack], "seed": self.lineup.seed}
        what["standing"] = standing.nonzero().flatten().tolist()
        name = f"{threat.name}-{turn.kind}-{turn.view}-{turn.label}".replace(" ", "-")
        path, key = self._place(fighter, name, what)
        kept = read_kept(path, key)
        if kept is None:
            kept = asdict(self._attacked(fighter, standing, threat, turn, sources))
            keep(path, key, kept)
        return Outcome(**kept)

    def _attacked(
        self, fighter: Fighter, standing: Tensor, threat: Threat, turn: Round, sources: Mapping[str, nn.Module]
    ) -> Outcome:
        if turn.kind == "transfer":
            candidates = self._transferred(str(turn.view), sources[str(turn.view)], threat, turn.attack)[standing]
            return self._entered(fighter, threat, standing, candidates, (0.0, 0, 0))
        attack = built(turn.attack, Attack)
        if not bool(standing.any()):
            return self._entered(fighter, threat, standing, self.inputs[standing], (0.0, 0, 0))
        view = fighter.deployed
        if turn.kind == "not adapted":
            view = fighter.not_adapted
        elif turn.kind == "adaptive":
            view = fighter.adaptive[int(turn.view)]
        if isinstance(view, DetectedNetwork):
            attack = jointly(attack)
        inputs, labels = self.inputs[standing], self.labels[standing]
        found = attack(view, inputs, labels, norm=threat.norm, epsilon=threat.epsilon, seed=self.lineup.seed)
        cost = (found.seconds, found.forward_passes, found.backward_passes)
        return self._entered(fighter, threat, standing, found.candidates, cost)

    def _transferred(self, name: str, network: nn.Module, threat: Threat, attack: Spec) -> Tensor:
        """What is crafted on a source, of all samples; the same for every contestant."""
        key = (name, json.dumps([asdict(threat), attack]))
        if key not in self._crafted:
            found = built(attack, Attack)(
                network, self.inputs, self.labels, norm=threat.norm, epsilon=threat.epsilon, seed=self.lineup.seed
            )
            self._crafted[key] = found.candidates
        return self._crafted[key]

    def _entered(
        self, fighter: Fighter, threat: Threat, standing: Tensor, candidates: Tensor, cost: tuple[float, int, int]
    ) -> Outcome:
        """The outcome of candidates for the samples that stood before."""
        size = len(self.labels)
        success, fooled, flagged = (torch.zeros(size, dtype=torch.bool) for _ in range(3))
        distance = torch.full((size,), math.inf, dtype=torch.float64)
        if len(candidates):
            found = judged(
                fighter.deployed,
                self.inputs[standing],
                self.labels[standing],
                candidates,
                norm=threat.norm,
                epsilon=threat.epsilon,
                rejects=fighter.rejects,
            )
            success[standing], distance[standing] = found.success, found.distance
        if fighter.rejects and len(candidates):
            logits = _logits(fighter.deployed, candidates)
            fooled[standing] = logits[:, :-1].argmax(1) != self.labels[standing]
            flagged[standing] = logits.argmax(1) == logits.shape[1] - 1
        seconds, forward_passes, backward_passes = cost
        return Outcome(
            success=success.tolist(),
            distance=[value if math.isfinite(value) else None for value in distance.tolist()],
            undetected=fooled.tolist(),
            flagged=flagged.tolist(),
            seconds=round(seconds, 3),
            forward_passes=forward_passes,
            backward_passes=backward_passes,
        )

    def _place(self, fighter: Fighter, name: str, what: Mapping[str, Any]) -> tuple[Path, str]:
        """Where an outcome is kept, and the key without which it is another's."""
        text = json.dumps([fighter.identity, self.data_sha256, what], sort_keys=True)
        path = self.journal / fighter.contestant.name / f"{name}.json"
        return path, hashlib.sha256(text.encode()).hexdigest()


def _label(attack: Spec) -> str:
    """A short name of an attack that tells its settings apart."""
    digest = hashlib.sha256(json.dumps(attack, sort_keys=True).encode()).hexdigest()[:6]
    return f"{built(attack, Attack).name}-{digest}"


def _sha256_of(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([network(chunk) for chunk in inputs.split(500)])


@torch.no_grad()
def _milliseconds(network: nn.Module, inputs: Tensor) -> float:
    """The median time of inference an image, in one batch."""
    network(inputs)
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        network(inputs)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times) / len(inputs)
