"""HEART's attack."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipcert.attacks import Norm
from lipcert.errors import InputError
from lipcert.interop.heart.evasion import EvasionAttack, norm_named
from lipcert.interop.heart.items import Array, id_or_random, parts_of
from lipcert.interop.maite.augmentations import extended


class JaticAttack:
    """HEART's attack: a MAITE augmentation.

    Args:
        attack: one of those above.
        norm: of the ``delta`` in the metadata, in the units of the images: 1, 2 or infinity; 0: that of the attack.
        id: of the augmentation; drawn at random if None.

    Raises:
        InputError: no such attack or norm.
    """

    def __init__(self, attack: EvasionAttack, norm: Any = 0, id: str | None = None) -> None:
        if not isinstance(attack, EvasionAttack):
            raise InputError(f"expected an attack of lipcert.interop.heart, got {type(attack).__name__}")
        self._attack = attack
        self._norm: Norm = attack.norm if norm == 0 else norm_named(norm)
        self.metadata = {"id": id_or_random(id)}

    def __call__(self, data: Any, **kwargs: Any) -> tuple[list[Array], Any, list[dict[str, Any]]]:
        """Return attacked images, the targets as they were, and new metadata; see :class:`AttackAugmentation`.

        Args:
            data: a MAITE batch or data set, a mapping of ``images``, ``labels`` and ``metadata``, rows with an image
                and a label, or images alone, whose own classes the attack then leaves.
            **kwargs: of no account.
        """
        images, targets, metadata = parts_of(data)
        changed, _, said = self._attack.attacked(images, targets, metadata)
        differences = [new.astype(np.float64) - np.asarray(old) for new, old in zip(changed, images, strict=True)]
        order = {"l1": 1, "l2": 2, "linf": np.inf}[self._norm]
        delta = [float(np.linalg.norm(difference.ravel(), order)) for difference in differences]
        said = extended(said, {"delta": delta, "norm": [self._norm] * len(said)})
        return changed, None if targets is None else np.asarray([np.asarray(target) for target in targets]), said

    def get_attack(self) -> EvasionAttack:
        """Return what was wrapped."""
        return self._attack
