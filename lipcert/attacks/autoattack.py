"""The standard AutoAttack: four attacks, one after the other on what is left, or side by side on everything."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import pyautoattack
import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.base import Attack, Findings
from lipcert.attacks.geometry import into_ball, safe_size
from lipcert.attacks.square import SquareAttack
from lipcert.attacks.task import Norm, Task
from lipcert.attacks.verify import distance_upper_bound
from lipcert.errors import InputError

Version = Literal["standard", "plus", "rand"]

COMPONENTS = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
LEAST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  # the losses compare so many logits
SQUARE_TILES = 5  # a side, in the first perturbation of pyautoattack's Square, but for the maximum norm


@dataclass(frozen=True)
class AutoAttack(Attack):
    """The standard AutoAttack, by pyautoattack's own components with their official settings and random numbers.

    As a cascade each component attacks the samples that withstood those before it, batch by batch in their order; that
    is the official procedure, and robust accuracy is that of ``pyautoattack.AutoAttack(...).run_standard_evaluation``
    with the same seed. Side by side, every component attacks every sample, and the nearest example of all is kept. In
    both, ``details["winner"]`` of the outcome names the component of each sample's example. Components share no state:
    more processes are best used for samples, which divide evenly, while most of the time goes into one component.

    What differs from pyautoattack: nothing is printed or logged, the state of the global random number generator is put
    back, its checks of the network (seven passes, one of which stops debuggers) are left out, images may have other
    bounds than [0, 1], and networks with fewer than ten classes are attacked towards all of them. Examples that float32
    rounding carried over the budget are drawn back into it where they survive that. In L2, images whose sides are no
    good multiples of five are beyond pyautoattack's Square: :class:`SquareAttack` takes its place.

    Args:
        version: ``"standard"``: APGD-CE, APGD-T, FAB-T, Square; ``"plus"``: these with restarts, APGD-DLR and FAB;
            ``"rand"``: APGD-CE and APGD-DLR on averaged gradients, for networks that answer at random.
        components: which of the attacks run, in this order; none: those of the version.
        cascade: whether a sample is left alone once a component succeeded.
        batch_size: samples attacked at a time.

    Raises:
        InputError: unknown settings; fewer classes than a component's loss compares (4 for APGD-T, 3 for APGD-DLR);
            images that Square cannot tile in L1.

    Source: Croce and Hein (2020), arXiv 2003.01690; for L1, Croce and Hein (2021), arXiv 2103.01208.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4)).eval()
        >>> with torch.no_grad():
        ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])), model[1].bias.zero_()
        >>> inputs, labels = torch.tensor([[0.6, 0.5], [0.9, 0.1]]).view(2, 1, 1, 2), torch.tensor([0, 0])
        >>> attack = AutoAttack(components=("apgd-ce", "apgd-t"))
        >>> outcome = attack(model, inputs, labels, epsilon=0.1)
        >>> outcome.verified.success.tolist(), outcome.details["winner"]
        ([True, False], ('apgd-ce', None))
    """

    name: ClassVar[str] = "autoattack"
    norms: ClassVar[tuple[Norm, ...]] = ("l1", "l2", "linf")
    fixed_budget: ClassVar[bool] = True

    version: Version = "standard"
    components: tuple[str, ...] = ()
    cascade: bool = True
    batch_size: int = 250

    def __post_init__(self) -> None:
        if self.version not in get_args(Version):
            raise InputError(f"expected a version among {', '.join(get_args(Version))}, got {self.version!r}")
        if isinstance(self.components, str) or not set(self.components) <= set(COMPONENTS):
            raise InputError(f"expected components among {', '.join(COMPONENTS)}, got {self.components!r}")
        if len(set(self.components)) < len(self.components):
            raise InputError(f"expected each component once, got {self.components!r}")
        if self.batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {self.batch_size}")

    def parameters(self) -> dict[str, int | float | str]:
        """Return the settings, for the report."""
        settings: dict[str, int | float | str] = {"version": self.version, "cascade": self.cascade}
        if self.components:
            settings["components"] = ", ".join(self.components)
        return {**settings, "batch_size": self.batch_size}

    @torch.no_grad()
    def run(self, model: nn.Module, task: Task) -> Findings:
        """Return the adversarial examples found, and by which component; the input itself where there is none."""
        prediction, classes = _predictions(model, task.inputs, self.batch_size)
        with _undisturbed():
            ensemble = _Ensemble(model, task, classes, self.version)
            names = self.components or ensemble.standard_components
            ensemble.check(names)
            winners = self._run(ensemble, names, prediction == task.labels)
        candidates = _within_budget(model, task, ensemble.candidates)
        return Findings(candidates, {"winner": tuple(winners)})

    def _run(self, ensemble: _Ensemble, names: tuple[str, ...], right: Tensor) -> list[str | None]:
        """Let the components attack, and return whose example each sample has."""
        winners: list[str | None] = [None] * len(right)
        standing = right.clone()
        for name in names:
            for positions in (standing if self.cascade else right).nonzero().flatten().split(self.batch_size):
                if len(positions) == 0:
                    continue
                for position in ensemble.attack(name, positions).tolist():
                    winners[position] = name
                    standing[position] = False
        return winners


class _Ensemble:
    """Pyautoattack's components, and the nearest examples that they found so far."""

    def __init__(self, model: nn.Module, task: Task, classes: int, version: Version) -> None:
        if task.inputs.ndim != 4:
            raise InputError(f"expected images (N, C, H, W), got shape {tuple(task.inputs.shape)}")
        assert task.epsilon is not None
        self.model = model
        self.task = task
        self.classes = classes
        self.range = _UnitRange(model, task)
        low, high = task.bounds
        self.official = pyautoattack.AutoAttack(
            self.range,
            norm={"l1": "L1", "l2": "L2", "linf": "Linf"}[task.norm],
            eps=task.epsilon / (high - low),
            seed=task.seed,
            version=version,
            device=task.inputs.device,
        )
        for targeted in (self.official.apgd_targeted, self.official.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
        self.standard_components: tuple[str, ...] = tuple(self.official.attacks_to_run)
        self.candidates = task.inputs.clone()
        self.distance = torch.full_like(task.labels, math.inf, dtype=torch.float64)

    def check(self, names: tuple[str, ...]) -> None:
        """Refuse what a component cannot do."""
        for name in names:
            if self.classes < LEAST_CLASSES.get(name, 2):
                least = LEAST_CLASSES.get(name, 2)
                raise InputError(f"expected at least {least} classes for {name}, got {self.classes}; choose components")
        if "square" in names and self.task.norm == "l1" and not _can_be_tiled(self.task.inputs.shape):
            height, width = self.task.inputs.shape[2:]
            raise InputError(f"expected images that 5 x 5 tiles cover for square in L1, got {height} x {width}")

    def attack(self, name: str, positions: Tensor) -> Tensor:
        """Let a component attack some samples; return those ``(M,)`` for which it found the nearest example so far."""
        inputs, labels = self.task.inputs[positions], self.task.labels[positions]
        images = self._examples(name, positions)
        distance = distance_upper_bound(inputs, images, self.task.norm)
        won = (self.model(images).argmax(1) != labels) & (distance < self.distance[positions])
        self.candidates[positions[won]] = images[won]
        self.distance[positions[won]] = distance[won]
        return positions[won]

    def _examples(self, name: str, positions: Tensor) -> Tensor:
        """Return what a component makes of some samples, adversarial or not."""
        task, official = self.task, self.official
        inputs, labels = task.inputs[positions], task.labels[positions]
        if name == "square" and task.norm == "l2" and not _can_be_tiled(inputs.shape):
            return SquareAttack(queries=official.square.n_queries).run(self.model, task.subset(positions))
        if name.startswith("fab"):
            official.fab.targeted = name == "fab-t"
            if official.fab.targeted:
                official.fab.n_restarts = 1  # as the official procedure has it, in every version
        if name in ("apgd-ce", "apgd-dlr"):
            official.apgd.loss = name.removeprefix("apgd-")
        component = {
            "fab": official.fab,
            "fab-t": official.fab,
            "square": official.square,
            "apgd-t": official.apgd_targeted,
        }
        found: Tensor = component.get(name, official.apgd).perturb(self.range.unit(inputs), labels)
        return self.range.images(found)


class _UnitRange(nn.Module):
    """A network on [0, 1] and float32, which is all that pyautoattack knows, around one with its own range and type.

    Where these are the same, nothing is computed.
    """

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.low, self.high = task.bounds
        self.dtype = task.inputs.dtype
        self.eval()

    def unit(self, images: Tensor) -> Tensor:
        """Return images as pyautoattack sees them."""
        if (self.low, self.high) != (0, 1):
            images = ((images - self.low) / (self.high - self.low)).clamp(0, 1)
        return images.float()

    def images(self, unit: Tensor) -> Tensor:
        """Return images as the network sees them."""
        images = unit.to(self.dtype)
        if (self.low, self.high) != (0, 1):
            stretched = self.low + images * (self.high - self.low)
            # clamped for the value only: at the end of the range, rounding must not switch gradients off
            images = stretched + (stretched.clamp(self.low, self.high) - stretched).detach()
        return images

    def forward(self, unit: Tensor) -> Tensor:
        """Return the network's logits ``(N, K)``, in float32."""
        logits: Tensor = self.network(self.images(unit))
        return logits.float()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back the state of the global random number generators, which components seed, and silence their log."""
    log = logging.getLogger("auto-attack")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            yield
    finally:
        log.setLevel(level)


def _can_be_tiled(shape: torch.Size) -> bool:
    """Return whether the first perturbation of pyautoattack's Square fits into images of this shape."""
    height, width = shape[2:]
    side = height // SQUARE_TILES
    margin = (height - SQUARE_TILES * side) // 2
    # tiles of one pixel may stick out: they are cut to nothing
    return side == 1 or (side > 1 and all(margin + size // side * side <= size for size in (height, width)))


def _predictions(model: nn.Module, inputs: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """Return the classes ``(N,)`` and how many there are."""
    logits = torch.cat([model(batch) for batch in inputs.split(batch_size)])
    return logits.argmax(1), logits.shape[1]


def _within_budget(model: nn.Module, task: Task, candidates: Tensor) -> Tensor:
    """Return the candidates, drawn back into the budget where they are a few roundings beyond it and survive that."""
    assert task.epsilon is not None
    size = safe_size(task.epsilon, task.inputs, task.bounds, task.norm)
    over = (distance_upper_bound(task.inputs, candidates, task.norm) > task.epsilon).nonzero().flatten()
    if len(over) == 0 or size == 0:
        return candidates
    inputs, drawn = task.inputs[over], candidates.clone()
    sizes = torch.full_like(task.labels[over], size, dtype=torch.float64)
    moved = (inputs + into_ball(candidates[over] - inputs, sizes, task.norm)).clamp(*task.bounds)
    kept = model(moved).argmax(1) != task.labels[over]
    drawn[over[kept]] = moved[kept]
    return drawn
