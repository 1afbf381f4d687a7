"""ART's evasion attacks, as HEART's guides make them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from lipcert.attacks import Attack, FastGradient, Norm, ProjectedGradient
from lipcert.attacks import AutoAttack as OfficialAutoAttack
from lipcert.attacks import HopSkipJump as DecisionAttack
from lipcert.data.tensors import as_tensor
from lipcert.errors import InputError
from lipcert.interop.heart.classifier import JaticPyTorchClassifier
from lipcert.interop.heart.items import Array
from lipcert.interop.maite.augmentations import AttackAugmentation

_SEARCH = 30  # queries of a step and a bisection


class EvasionAttack:
    """An attack in ART's manner: made for a classifier, its budget in the units of the images.

    Args:
        estimator: the classifier to attack.
        attack: of lipcert.
        norm: in which it searches.
        eps: largest distance, in the units of the classifier's images; None: as near as possible.
        targeted: whether labels are the classes to reach.
    """

    def __init__(self, estimator: Any, attack: Attack, *, norm: Norm, eps: Any, targeted: bool) -> None:
        if not isinstance(estimator, JaticPyTorchClassifier):
            raise InputError(f"expected a JaticPyTorchClassifier of lipcert, got {type(estimator).__name__}")
        self.estimator = estimator
        self.norm: Norm = norm
        low, high = estimator.clip_values
        epsilon = None if eps is None else _positive(eps, "eps") / (high - low)
        self.augmentation = AttackAugmentation(
            attack, estimator.classifier, norm=norm, epsilon=epsilon, targeted=bool(targeted)
        )

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Array:
        """Return the attacked images ``(N, C, H, W)``.

        Args:
            x: ``(N, C, H, W)``.
            y: the true classes, or those to reach; the classifier's own classes if None.
            **kwargs: what ART's attacks take beside these; of no account.
        """
        images = list(as_tensor(x, "images").to(torch.float32).numpy())
        return np.stack(self.attacked(images, y, [{} for _ in images])[0])

    def attacked(self, images: list[Any], targets: Any, metadata: list[Any]) -> tuple[list[Any], Any, list[Any]]:
        """Return attacked images, the same targets, and new metadata."""
        labels = self.estimator(images) if targets is None else targets
        if targets is None and self.augmentation.targeted:
            raise InputError("expected the classes to reach, got none")
        changed, _, said = self.augmentation((images, list(labels), metadata))
        return changed, targets, said


class ProjectedGradientDescentPyTorch(EvasionAttack):
    """ART's projected gradient descent; arguments that are not named are of no account."""

    def __init__(
        self,
        estimator: Any,
        norm: Any = math.inf,
        eps: float = 0.3,
        eps_step: float = 0.1,
        *,
        max_iter: int = 100,
        targeted: bool = False,
        num_random_init: int = 0,
        **others: Any,
    ) -> None:
        share = _positive(eps_step, "eps_step") / _positive(eps, "eps")
        attack = ProjectedGradient(steps=max_iter, step_size=share, restarts=num_random_init)
        super().__init__(estimator, attack, norm=norm_named(norm), eps=eps, targeted=targeted)


ProjectedGradientDescent = ProjectedGradientDescentPyTorch


class FastGradientMethod(EvasionAttack):
    """ART's fast gradient method; arguments that are not named are of no account."""

    def __init__(
        self, estimator: Any, norm: Any = math.inf, eps: float = 0.3, *, targeted: bool = False, **others: Any
    ) -> None:
        name = norm_named(norm)
        attack = FastGradient(step="sign" if name == "linf" else "l2")
        super().__init__(estimator, attack, norm=name, eps=eps, targeted=targeted)


class HopSkipJump(EvasionAttack):
    """ART's HopSkipJump, with as many queries an image as its settings come to."""

    def __init__(
        self,
        classifier: Any,
        *,
        targeted: bool = False,
        norm: Any = 2,
        max_iter: int = 50,
        max_eval: int = 10_000,
        init_eval: int = 100,
        init_size: int = 100,
        **others: Any,
    ) -> None:
        turns = range(1, max_iter + 1)
        queries = init_size + sum(min(int(init_eval * math.sqrt(turn)), max_eval) + _SEARCH for turn in turns)
        attack = DecisionAttack(queries=queries, initial_probes=init_eval, start_tries=init_size)
        super().__init__(classifier, attack, norm=norm_named(norm), eps=None, targeted=targeted)


class AutoAttack(EvasionAttack):
    """The official AutoAttack in the place of ART's, which has other components; untargeted."""

    def __init__(self, estimator: Any, norm: Any = math.inf, eps: float = 0.3, **others: Any) -> None:
        if others.get("attacks"):
            raise InputError("expected AutoAttack without attacks, whose own components are run")
        super().__init__(estimator, OfficialAutoAttack(), norm=norm_named(norm), eps=eps, targeted=False)


def norm_named(norm: Any) -> Norm:
    """Return the norm that ART gives by its order.

    Raises:
        InputError: another order.

    Example:
        >>> norm_named(2), norm_named(math.inf)
        ('l2', 'linf')
    """
    known: dict[Any, Norm] = {1: "l1", 2: "l2", math.inf: "linf", "inf": "linf"}
    if isinstance(norm, bool) or norm not in known:
        raise InputError(f"expected norm 1, 2 or inf, got {norm!r}")
    return known[norm]


def _positive(value: Any, name: str) -> float:
    if not isinstance(value, int | float | np.number) or not 0 < float(value) < math.inf:
        raise InputError(f"expected {name} as a finite number > 0, got {value!r}")
    return float(value)
