"""How hard an audit tries: a budget is a short list of stages, and maybe a time.

Budgets name attacks in every norm; those that cannot search in that of the certificates are left out. Against patches
the certified side is attacked first, where nothing may be found, and then those above it, which shows how tight it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import lipcert.attacks
from lipcert.attacks import (
    Attack,
    AutoAttack,
    BoundaryAttack,
    BoundaryWalk,
    CarliniWagner,
    DecoupledDirection,
    DeepFool,
    ElasticNet,
    FastMinimumNorm,
    HopSkipJump,
    Pointwise,
    ProjectedGradient,
    SparseAscent,
    SquareAttack,
    VotePatch,
)
from lipcert.errors import InputError
from lipcert.harness.selection import WHICH, Which

CHUNK = 100  # samples attacked at a time: what a kill can lose
LEAST = 10  # samples of a share, in the budgets below

Epsilons = Sequence[float]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of an audit: an attack, and the samples on which it is worth its passes.

    Attributes:
        attack: what is run.
        which: ``"all"`` samples of the audit, the ``"certified"`` ones, or the ``"missed"`` ones, for which no
            adversarial example is known.
        share: how much of them, those with the smallest distance over radius.
        least: samples that a share has in any case, if there are so many.
        epsilon: budget of the attack; samples that have an adversarial example within it are left out.
        chunk: samples attacked at a time.
        optional: whether an attack that cannot be run on this network is left out, with a warning.

    Raises:
        InputError: a setting is out of range, or the attack needs a budget and has none.
    """

    attack: Attack
    which: Which = "all"
    share: float = 1.0
    least: int = 1
    epsilon: float | None = None
    chunk: int = CHUNK
    optional: bool = False

    def __post_init__(self) -> None:
        if self.which not in WHICH:
            raise InputError(f"expected samples among {', '.join(WHICH)}, got {self.which!r}")
        if not 0 < self.share <= 1:
            raise InputError(f"expected a share above 0 and at most 1, got {self.share:g}")
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise InputError(f"expected a finite epsilon > 0, got {self.epsilon:g}")
        if self.epsilon is None and self.attack.fixed_budget:
            raise InputError(f"expected an epsilon for {self.attack.name}, got none")
        for setting in ("least", "chunk"):
            if getattr(self, setting) < 1:
                raise InputError(f"expected {setting} >= 1, got {getattr(self, setting)}")


@dataclass(frozen=True, slots=True)
class Budget:
    """What an audit spends.

    Attributes:
        name: ``"quick"``, ``"standard"`` and so on.
        stages: one after the other.
        everything: whether all samples are attacked; otherwise the first correctly classified one of each class.
        seconds: when the audit stops; None if it runs through its stages.
        again: with a time, stages to go round and round until it is over.
    """

    name: str
    stages: tuple[Stage, ...]
    everything: bool = True
    seconds: float | None = None
    again: tuple[Stage, ...] = ()

    def rounds(self) -> Iterator[Stage]:
        """Yield the stages in order; without end if there are some to go round."""
        yield from self.stages
        while self.seconds is not None and self.again:
            yield from self.again


def quick(epsilons: Epsilons) -> Budget:
    """A first look: one image a class, by the attacks that come nearest and by one that shares nothing with them."""
    attacks = (
        BoundaryWalk(restarts=2),
        DeepFool(),
        DecoupledDirection(),
        FastMinimumNorm(),
        CarliniWagner(),
        SparseAscent(),
        ElasticNet(),
        SparseAscent(reach=2.0),
        Pointwise(),
    )
    patches = (
        Stage(VotePatch(last=0, places=8, restarts=4, steps=30), "certified"),
        Stage(VotePatch(first=1, last=1, places=8, restarts=4, steps=30)),
        Stage(VotePatch(first=2, last=12), "missed"),
    )
    stages = (*(Stage(attack, optional=True) for attack in attacks), *patches)
    return Budget("quick", stages, everything=False)


def standard(epsilons: Epsilons) -> Budget:
    """Every sample once by what comes near at little cost, then the closest calls by what digs deeper."""
    stages = (
        Stage(BoundaryWalk(), optional=True),
        Stage(FastMinimumNorm(), "missed", optional=True),
        _some(BoundaryWalk(rivals=9, steps=20, restarts=2), 0.2),
        _some(FastMinimumNorm(), 0.05),
        _some(CarliniWagner(), 0.001),
        *_standard_on_votes(),
    )
    return Budget("standard", stages)


def _standard_on_votes() -> tuple[Stage, ...]:
    """Every certified patch at its side and above; every L1 radius, then the closest calls."""
    return (
        Stage(VotePatch(last=0, places=3, restarts=1, steps=12), "certified"),
        Stage(VotePatch(first=1, last=1, places=3, restarts=1, steps=15)),
        Stage(VotePatch(first=2, last=12, places=2, restarts=0, steps=12), "missed"),
        _some(VotePatch(places=8, restarts=8, steps=40), 0.02),
        Stage(SparseAscent(steps=25), "certified", optional=True),
        _some(ElasticNet(), 0.05),
        _some(Pointwise(), 0.05),
    )


def thorough(epsilons: Epsilons) -> Budget:
    """Every kind of attack, on as many samples as its cost allows: those without gradients on a few."""
    budgets = sorted(epsilon for epsilon in epsilons if epsilon > 0)
    stages = (
        *(
            Stage(attack, optional=True)
            for attack in (
                BoundaryWalk(),
                BoundaryWalk(rivals=9, steps=30, restarts=5),
                DeepFool(),
                DecoupledDirection(steps=300),
                FastMinimumNorm(steps=300),
            )
        ),
        _some(CarliniWagner(binary_search_steps=6, steps=1000), 0.01),
        *(_some(ProjectedGradient(restarts=3), 0.1, epsilon) for epsilon in budgets),
        *(_some(AutoAttack(), 0.02, epsilon) for epsilon in budgets),
        *(_some(SquareAttack(), 0.005, epsilon) for epsilon in budgets),
        _some(HopSkipJump(), 0.005),
        _some(BoundaryAttack(), 0.005),
        Stage(VotePatch(last=0, places=12, restarts=8, steps=40), "certified"),
        Stage(VotePatch(first=1, last=1, places=12, restarts=8, steps=60)),
        Stage(VotePatch(first=2, last=12, places=8, restarts=4, steps=40), "missed"),
        *(Stage(SparseAscent(reach), "certified", optional=True) for reach in (1.0, 1.5, 3.0)),
        _some(ElasticNet(binary_search_steps=6, steps=100), 0.2),
        _some(Pointwise(queries=1000), 0.2),
    )
    return Budget("thorough", stages)


def timed(epsilons: Epsilons, seconds: float) -> Budget:
    """What the standard budget does; then walks from other places, again and again, most often on the closest calls."""
    attacks = (BoundaryWalk(rivals=9, steps=20, restarts=4), VotePatch(places=8, restarts=8, steps=40), Pointwise())
    again = tuple(_some(attack, share) for attack in attacks for share in (0.05, 0.2, 1.0))
    return Budget(f"{seconds:g} s", standard(epsilons).stages, seconds=seconds, again=again)


def _some(attack: Attack, share: float, epsilon: float | None = None) -> Stage:
    return Stage(attack, share=share, least=LEAST, epsilon=epsilon, optional=True)


BUDGETS: Mapping[str, Callable[[Epsilons], Budget]] = {"quick": quick, "standard": standard, "thorough": thorough}


def budget_of(
    wanted: str | float | Budget,
    *,
    epsilons: Epsilons,
    attacks: Sequence[Attack] | None = None,
    norm: str | None = None,
) -> Budget:
    """Return a budget by its name or its seconds.

    Args:
        wanted: ``"quick"``, ``"standard"``, ``"thorough"``, a number of seconds, or a budget as it is.
        epsilons: budgets for the attacks that need one.
        attacks: run on all samples in place of the budget's own stages.
        norm: attacks of the budget that cannot search in it are left out, those that were asked for are refused; None
            if the norm is not known yet.

    Raises:
        InputError: an unknown name, seconds that are not a positive number, an attack that cannot search in this norm,
            or one that needs an epsilon where there is none.

    Example:
        >>> budget_of("quick", epsilons=[0.5]).everything, budget_of(60, epsilons=[0.5]).seconds
        (False, 60.0)
    """
    budget = wanted if isinstance(wanted, Budget) else _named(wanted, epsilons)
    if attacks is None:
        stages, again = (_able(part, norm) for part in (budget.stages, budget.again))
    else:
        stages = _asked_for(attacks, epsilons, norm)
        again = stages if budget.seconds is not None else ()
    if not stages:
        raise InputError(f"expected at least one attack in {norm or 'any'} norm, got none")
    return replace(budget, stages=stages, again=again)


def attack_classes() -> dict[str, type[Attack]]:
    """Return the attacks of the library by name.

    Example:
        >>> "carlini-wagner-l2" in attack_classes()
        True
    """
    exported = (getattr(lipcert.attacks, name) for name in lipcert.attacks.__all__)
    found = [item for item in exported if isinstance(item, type) and issubclass(item, Attack) and item is not Attack]
    return {attack.name: attack for attack in sorted(found, key=lambda attack: attack.name)}


def _named(wanted: str | float, epsilons: Epsilons) -> Budget:
    if wanted in BUDGETS:
        return BUDGETS[str(wanted)](epsilons)
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"expected a budget among {', '.join(BUDGETS)}, or a number of seconds, got {wanted}")
    return timed(epsilons, seconds)


def _able(stages: Sequence[Stage], norm: str | None) -> tuple[Stage, ...]:
    return tuple(stage for stage in stages if norm is None or norm in stage.attack.norms)


def _asked_for(attacks: Sequence[Attack], epsilons: Epsilons, norm: str | None) -> tuple[Stage, ...]:
    """Return a stage an attack, or one for each epsilon, the smallest first: who falls at one is spared the others."""
    stages: list[Stage] = []
    positive = sorted(epsilon for epsilon in epsilons if epsilon > 0)
    for attack in attacks:
        if norm is not None and norm not in attack.norms:
            raise InputError(f"expected attacks that search in {norm} norm, got {attack.name}")
        if not attack.fixed_budget:
            stages.append(Stage(attack))
        elif not positive:
            raise InputError(f"expected an epsilon above 0 for {attack.name}, got none")
        else:
            stages += [Stage(attack, epsilon=epsilon) for epsilon in positive]
    return tuple(stages)
