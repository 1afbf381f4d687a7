"""HEART's classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn as nn

from lipcert.errors import InputError
from lipcert.interop.art import ArtClassifier
from lipcert.interop.heart.items import Array, id_or_random, parts_of
from lipcert.interop.inputs import UNIT, RescaledInputs, check_bounds
from lipcert.interop.maite.models import ClassifierModel


class JaticPyTorchClassifier(ArtClassifier):
    """HEART's classifier: a MAITE model with the methods of an ART classifier.

    Args:
        provider: only ``""``: the network itself is handed in as ``model``.
        id: of the model; drawn at random if None.
        metadata: what else the metadata hold.
        model: from images, preprocessed, to logits; a copy is put into eval mode.
        input_shape: ``(C, H, W)``.
        nb_classes: K.
        clip_values: smallest and largest value of a pixel.
        preprocessing: what is subtracted from the images, and what they are divided by then.
        channels_first: only True.
        preprocessing_defences: only None; see :class:`lipcert.defenses.TransformedNetwork`.
        **training: ``loss``, ``optimizer`` and the like, of no account here.

    Raises:
        InputError: one of these is not as it says.
    """

    def __init__(
        self,
        provider: str = "",
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        model: nn.Module,
        input_shape: Sequence[int],
        nb_classes: int,
        clip_values: Any = UNIT,
        preprocessing: Any = (0.0, 1.0),
        channels_first: bool = True,
        preprocessing_defences: Any = None,
        **training: Any,
    ) -> None:
        if provider or not isinstance(model, nn.Module):
            raise InputError("expected the network itself as model, and no provider")
        if not channels_first:
            raise InputError("expected channels_first=True, and images (C, H, W)")
        if preprocessing_defences:
            raise InputError("expected no preprocessing_defences; put them before the network by TransformedNetwork")
        bounds = check_bounds(clip_values)
        mean, std = (0.0, 1.0) if preprocessing is None else preprocessing
        plain = bounds == UNIT and np.all(np.asarray(mean) == 0) and np.all(np.asarray(std) == 1)
        network = model if plain else RescaledInputs(model, bounds=bounds, mean=mean, std=std)
        super().__init__(network, input_shape=input_shape, clip_values=bounds)
        if self.nb_classes != nb_classes:
            raise InputError(f"expected nb_classes={self.nb_classes}, the number of logits, got {nb_classes}")
        self.metadata = {**(metadata or {}), "id": id_or_random(id)}
        self.classifier = ClassifierModel(self.network, bounds=bounds)

    def __call__(self, data: Any, /) -> list[Array]:
        """Return the logits ``(K,)`` of each image of a batch, a data set or an array."""
        return self.classifier(parts_of(data)[0])
