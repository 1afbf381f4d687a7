"""Attacks on a classifier and what rejects its inputs at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Attack, Findings, Task
from lipcert.attacks.task import within
from lipcert.harness.budget import Budget, Stage
from lipcert.harness.detectors import KeepsClass


@dataclass(frozen=True)
class _Jointly(Attack):
    """An attack on networks with K + 1 logits, the last of which is rejection."""

    attack: Attack

    def run(self, model: nn.Module, task: Task) -> Findings:
        """Attack class by class; return the input itself where it is rejected, before or after."""
        candidates = task.inputs.clone()
        details: dict[str, list[str | int | None]] = {}
        with torch.no_grad():
            last = model(task.inputs[:1]).shape[1] - 1
        for label in task.labels.unique().tolist():
            chosen = (task.labels == label).nonzero().flatten()
            if label == last:  # what is rejected as it is has no class to leave
                continue
            found = self.attack.run(KeepsClass(model, label).eval(), _part(task, chosen))
            if isinstance(found, Findings):
                _enter(details, found, chosen.tolist(), samples=len(task.labels))
                found = found.candidates
            candidates[chosen] = found.detach().to(candidates)
        unusable = ~within(candidates, task.bounds) | _rejected(model, candidates, last)
        candidates = torch.where(unusable.view(-1, *[1] * (candidates.ndim - 1)), task.inputs, candidates)
        return Findings(candidates, {name: tuple(values) for name, values in details.items()})

    def parameters(self) -> dict[str, int | float | str]:
        """Return the settings of the attack."""
        return self.attack.parameters()

    def forward_budget(self, samples: int) -> int | None:
        """Return the passes of the attack, and those that look for rejection."""
        budget = self.attack.forward_budget(samples)
        return None if budget is None else budget + 2 * samples + 1


def _part(task: Task, chosen: Tensor) -> Task:
    tensors: dict[str, Any] = {
        field.name: value[chosen]
        for field in dataclasses.fields(task)
        if isinstance(value := getattr(task, field.name), Tensor)
    }
    return dataclasses.replace(task, **tensors)


def _enter(details: dict[str, list[str | int | None]], found: Findings, chosen: Sequence[int], *, samples: int) -> None:
    for name, values in found.details.items():
        of_all = details.setdefault(name, [None] * samples)
        for place, value in zip(chosen, values, strict=True):
            of_all[place] = value


@torch.no_grad()
def _rejected(model: nn.Module, candidates: Tensor, last: int) -> Tensor:
    """Return what is rejected ``(N,)`` in the batch or alone: verification looks at both."""
    alone = torch.cat([model(chunk).argmax(1) for chunk in candidates.split(1)])
    together: Tensor = model(candidates).argmax(1)
    return (together == last) | (alone == last)


def jointly(attack: Attack) -> Attack:
    """Return an attack on networks with K + 1 logits whose examples count only if misclassified and not rejected.

    The attack is run as it is, on the network as :class:`KeepsClass` shows it. An input that is rejected unattacked is
    left alone.

    Args:
        attack: any attack.

    Example:
        >>> from lipcert.attacks import CarliniWagner
        >>> jointly(CarliniWagner()).name
        'carlini-wagner-l2 with detector'
    """
    facts = {
        "name": f"{attack.name} with detector",
        "norms": attack.norms,
        "targeted": attack.targeted,
        "fixed_budget": attack.fixed_budget,
        "black_box": attack.black_box,
        "__doc__": _Jointly.__doc__,
    }
    kind: type[_Jointly] = type("Jointly", (_Jointly,), facts)
    return kind(attack)


def joint_budget(budget: Budget) -> Budget:
    """Return a budget whose attacks are those on networks with K + 1 logits.

    Example:
        >>> from lipcert.harness.budget import quick
        >>> joint_budget(quick([0.5])).stages[0].attack.name
        'boundary-walk with detector'
    """

    def together(stages: Sequence[Stage]) -> tuple[Stage, ...]:
        return tuple(dataclasses.replace(stage, attack=jointly(stage.attack)) for stage in stages)

    return dataclasses.replace(budget, stages=together(budget.stages), again=together(budget.again))
