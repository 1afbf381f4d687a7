"""Attacks and certification as MAITE augmentations: what they find goes into fresh metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcert.attacks import Attack, Norm
from lipcert.attacks.geometry import lengths
from lipcert.attacks.task import NORMS
from lipcert.attacks.verify import fooled
from lipcert.data.tensors import as_tensor
from lipcert.errors import InputError
from lipcert.interop.batches import classes, images_within, unit_images
from lipcert.interop.maite.models import ClassifierModel, metadata_of

Batch = tuple[Sequence[Any], Sequence[Any], Sequence[Any]]


class AttackAugmentation:
    """An attack as an augmentation: every image that the model gets right is attacked, the others are left alone.

    To the metadata of each image it adds

    ====================== ==========================================================================================
    delta                  distance between the image and what became of it, in [0, 1] pixel units
    norm                   of that distance: ``"l1"``, ``"l2"`` or ``"linf"``
    benign_prediction      the model's class of the image before
    adversarial_prediction and after
    success                whether the image was right before and is not any more, or has the class that was to be
                           reached
    ====================== ==========================================================================================

    Images, targets and metadata are new objects; those that are handed in stay as they are. An image that is wrong to
    begin with is returned unchanged: an adversary may hand it in as it is, and no attack may turn it right.

    Args:
        attack: one of ``lipcert.attacks``, with its settings.
        model: whose network is attacked.
        norm: in which distances are measured.
        epsilon: largest distance, in [0, 1] pixel units; attacks with a fixed budget need one.
        targeted: the targets of the batch are the classes to reach; images that have them already are left alone.
        seed: of everything random.
        id: of the augmentation; by default the attack's name.

    Raises:
        InputError: no such attack, model, norm or epsilon, or one that the attack cannot do.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lipcert.attacks import ProjectedGradient
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.eye(2))
        >>> augmentation = AttackAugmentation(ProjectedGradient(), ClassifierModel(network), epsilon=0.5)
        >>> _, _, metadata = augmentation(([torch.tensor([0.75, 0.25]).view(1, 1, 2)], [0], [{"id": 7}]))
        >>> metadata[0]["id"], metadata[0]["success"], 0.353 < metadata[0]["delta"] <= 0.5
        (7, True, True)
    """

    def __init__(
        self,
        attack: Attack,
        model: ClassifierModel,
        *,
        norm: Norm = "l2",
        epsilon: float | None = None,
        targeted: bool = False,
        seed: int = 0,
        id: str | None = None,
    ) -> None:
        if not isinstance(attack, Attack):
            raise InputError(f"expected an attack of lipcert.attacks, got {type(attack).__name__}")
        _check_model(model)
        if norm not in NORMS or norm not in attack.norms:
            raise InputError(f"expected a norm among {', '.join(attack.norms)} for {attack.name}, got {norm!r}")
        if epsilon is None and attack.fixed_budget:
            raise InputError(f"expected an epsilon for {attack.name}, got none")
        if epsilon is not None and not 0 < epsilon < math.inf:
            raise InputError(f"expected a finite epsilon > 0, got {epsilon:g}")
        if targeted and not attack.targeted:
            raise InputError(f"expected targeted=False for {attack.name}, which cannot be told which class to reach")
        self.attack = attack
        self.model = model
        self.norm: Norm = norm
        self.epsilon = epsilon
        self.targeted = targeted
        self.seed = seed
        self.metadata = metadata_of(attack.name if id is None else id, ())

    def __call__(self, batch: Batch, /) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
        """Attack a batch.

        Args:
            batch: images within the model's bounds, their true classes (or those to reach), and their metadata.

        Returns:
            The attacked images, the same targets, and new metadata.

        Raises:
            InputError: no such batch, or targets that are not the model's classes.
        """
        images, targets, metadata = parts_of(batch)
        inputs, wanted = unit_images(images, self.model.bounds), classes(targets)
        benign = self.model.logits(inputs).argmax(1)
        changed = self._changed(images, inputs, self._attacked(inputs, benign, wanted))
        handed_on = unit_images(changed, self.model.bounds)  # what is measured is what the model will be given
        after = self.model.logits(handed_on).argmax(1)
        success = self._worth(benign, wanted) & fooled(after, wanted, wanted if self.targeted else None)
        delta = lengths((handed_on - inputs).double(), self.norm)
        columns = {
            "delta": delta.tolist(),
            "norm": [self.norm] * len(images),
            "benign_prediction": benign.tolist(),
            "adversarial_prediction": after.tolist(),
            "success": success.tolist(),
        }
        return changed, targets, extended(metadata, columns)

    def _worth(self, benign: Tensor, wanted: Tensor) -> Tensor:
        """Return where ``(N,)`` there is something to gain."""
        return benign != wanted if self.targeted else benign == wanted

    def _attacked(self, inputs: Tensor, benign: Tensor, wanted: Tensor) -> Tensor:
        """Return what the attack makes of the images that there is something to gain from."""
        found, worth = inputs.clone(), self._worth(benign, wanted)
        if worth.any():
            outcome = self.attack(
                self.model.network,
                inputs[worth],
                benign[worth],
                targets=wanted[worth] if self.targeted else None,
                norm=self.norm,
                epsilon=self.epsilon,
                seed=self.seed,
            )
            found[worth] = outcome.candidates
        return found

    def _changed(self, images: Sequence[Any], inputs: Tensor, found: Tensor) -> list[NDArray[np.float32]]:
        """Return the images in the model's units; one that was not changed keeps the very values that it came with."""
        moved = (found != inputs).flatten(1).any(1).tolist()
        return [
            new if has_moved else as_tensor(old, "images").to(torch.float32, copy=True).numpy()
            for new, old, has_moved in zip(images_within(found, self.model.bounds), images, moved, strict=True)
        ]


class CertifyAugmentation:
    """Certification as an augmentation: images stay as they are, and their metadata say what is proved of them.

    To the metadata of each image it adds ``radius`` (in [0, 1] pixel units; 0 certifies nothing), ``radius_norm``,
    ``certified_prediction`` and ``arithmetic``, see :class:`lipcert.Certificate`.

    Args:
        model: whose predictions are certified.
        arithmetic: see :func:`lipcert.certify`; where that cannot be certified, the metadata say what could.
        id: of the augmentation.

    Raises:
        InputError: no model of lipcert's.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.eye(2))
        >>> augmentation = CertifyAugmentation(ClassifierModel(network))
        >>> _, _, metadata = augmentation(([torch.tensor([0.75, 0.25]).view(1, 1, 2)], [0], [{"id": 7}]))
        >>> round(metadata[0]["radius"], 4), metadata[0]["radius_norm"], metadata[0]["certified_prediction"]
        (0.3536, 'l2', 0)
    """

    def __init__(self, model: ClassifierModel, *, arithmetic: str = "float32", id: str = "certify") -> None:
        _check_model(model)
        self.model = model
        self.arithmetic = arithmetic
        self.metadata = metadata_of(id, ())

    def __call__(self, batch: Batch, /) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
        """Certify a batch, see :class:`AttackAugmentation` for its parts."""
        images, targets, metadata = parts_of(batch)
        found = self.model.certify(images, arithmetic=self.arithmetic)
        columns = {
            "radius": found.radius.tolist(),
            "radius_norm": [found.norm] * len(images),
            "certified_prediction": found.prediction.tolist(),
            "arithmetic": [found.arithmetic] * len(images),
        }
        return images, targets, extended(metadata, columns)


class Composed:
    """Augmentations one after the other, as one: to certify clean images and attack them in the same pass.

    Args:
        *augmentations: at least one.
        id: of the augmentation.

    Raises:
        InputError: none.
    """

    def __init__(self, *augmentations: Any, id: str = "composed") -> None:
        if not augmentations or not all(map(callable, augmentations)):
            raise InputError("expected at least one augmentation, and nothing else")
        self.augmentations = augmentations
        self.metadata = metadata_of(id, ())

    def __call__(self, batch: Batch, /) -> Batch:
        """Return what the last augmentation makes of what those before it made of the batch."""
        for augmentation in self.augmentations:
            batch = augmentation(batch)
        return batch


def parts_of(batch: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Return images, targets and metadata of a batch, as many of each.

    Raises:
        InputError: it has other parts, or metadata that are no mappings.
    """
    try:
        images, targets, metadata = (list(part) for part in batch)
    except (TypeError, ValueError):
        raise InputError("expected a batch of images, targets and metadata, one sequence each") from None
    if not len(images) == len(targets) == len(metadata) > 0:
        found = f"{len(images)}, {len(targets)} and {len(metadata)}"
        raise InputError(f"expected as many images as targets and metadata, at least one, got {found}")
    if not all(hasattr(entry, "keys") for entry in metadata):
        raise InputError("expected metadata that are dictionaries")
    return images, targets, metadata


def extended(metadata: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return new metadata, with an entry of each column for each image.

    Example:
        >>> extended([{"id": 3}], {"delta": [0.5]})
        [{'id': 3, 'delta': 0.5}]
    """
    return [
        {**entry, **{name: values[place] for name, values in columns.items()}} for place, entry in enumerate(metadata)
    ]


def _check_model(model: Any) -> None:
    if not isinstance(model, ClassifierModel):
        hint = "; wrap it by ClassifierModel(network_of(model, images))" if callable(model) else ""
        raise InputError(f"expected a ClassifierModel, got {type(model).__name__}{hint}")
