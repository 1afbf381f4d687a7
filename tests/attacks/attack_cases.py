"""Every attack by gradients with settings for small problems, and what must hold for all of them."""

from dataclasses import dataclass

import torch
from torch import nn

from lipcert.attacks import (
    Attack,
    BoundaryWalk,
    DecoupledDirection,
    DeepFool,
    FastGradient,
    FastMinimumNorm,
    ProjectedGradient,
)


@dataclass(frozen=True)
class Case:
    """An attack in a norm that it can do."""

    attack: Attack
    norm: str
    epsilon: float | None = None
    label: str = ""

    @property
    def name(self):
        return f"{self.attack.name}-{self.norm}{self.label}"

    def __call__(self, network, inputs, labels, **more):
        return self.attack(network, inputs, labels, **{"norm": self.norm, "epsilon": self.epsilon, **more})


MINIMUM = [
    Case(BoundaryWalk(steps=4, restarts=1), "l2"),
    Case(DecoupledDirection(40), "l2"),
    *(Case(attack, norm) for attack in (FastMinimumNorm(40), DeepFool(20)) for norm in ("l1", "l2", "linf")),
]
BUDGETS = {"l1": 1.0, "l2": 0.5, "linf": 0.15}
FIXED = [
    Case(FastGradient("sign", loss="cross-entropy"), "linf", 0.15, "-sign"),
    Case(FastGradient("l2"), "l2", 0.5, "-l2"),
    *(Case(ProjectedGradient(10, restarts=1), norm, size) for norm, size in BUDGETS.items()),
    Case(ProjectedGradient(10, loss="cross-entropy"), "l2", 0.5, "-cross-entropy"),
]
EVERY = MINIMUM + FIXED


def ids(cases):
    """Readable names for pytest."""
    return [case.name for case in cases]


def small_problem(samples=10, seed=0, classes=4):
    """A smooth network, images (N, 1, 6, 6) of which many pixels are black or white, and the network's classes."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Softplus(beta=5), nn.Flatten(), nn.Linear(216, classes)
    ).eval()
    images = (torch.rand(samples, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.3).clamp(0, 1)
    with torch.no_grad():
        everyone = (torch.rand(100, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.3).clamp(0, 1)
        network[3].bias -= network(everyone).mean(0)  # no class is all others' favourite
        return network, images, network(images).argmax(1)
