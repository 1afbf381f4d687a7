"""A network as a MAITE model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor

from lipcert.certificates import Certificate
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.harness.foreign import certify_or_not
from lipcert.interop.batches import unit_images
from lipcert.interop.inputs import UNIT, check_bounds
from lipcert.runs import load_run

Output = Literal["logits", "probabilities"]


class ClassifierModel:
    """A network as a model: sequences of images in, one row of scores an image out.

    A defended network is a network like any other, for example :class:`lipcert.defenses.TransformedNetwork`; of one
    that can be certified, :meth:`certify` says more than its scores do. Images are never clipped: values out of bounds
    are the mark of wrong units, and are refused.

    Args:
        network: from ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``; a plain copy in eval mode is kept.
        id: of the model.
        class_names: one name a class, by the number of the class; none: no ``index2label``.
        bounds: smallest and largest value of a pixel in the images that the model is handed.
        output: what it returns. Probabilities are the softmax of the logits, so the network must not apply one itself.
        batch_size: images evaluated at a time.

    Attributes:
        metadata: ``id`` and ``index2label``.
        network: the copy.

    Raises:
        InputError: no network, or an unusable setting.

    Example:
        >>> model = ClassifierModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), class_names=["ant", "bee", "cat"])
        >>> scores = model([np.zeros((1, 2, 2), dtype=np.float32)] * 5)
        >>> len(scores), scores[0].shape, model.metadata["index2label"][2]
        (5, (3,), 'cat')
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        id: str = "lipcert",
        class_names: Sequence[str] = (),
        bounds: Any = UNIT,
        output: Output = "logits",
        batch_size: int = 500,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise InputError(f"expected a network, got {type(network).__name__}")
        if output not in get_args(Output):
            raise InputError(f"expected output {' or '.join(get_args(Output))}, got {output!r}")
        if batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {batch_size}")
        self.metadata = metadata_of(id, class_names)
        self.network = export(network).requires_grad_(False)
        self.bounds = check_bounds(bounds)
        self.output = output
        self.batch_size = batch_size

    @classmethod
    def from_run(cls, directory: str | Path, **options: Any) -> ClassifierModel:
        """Return the network of a run directory, with the class names of its data.

        Args:
            directory: ``runs/<name>``.
            **options: of the model.

        Raises:
            InputError: no finished run.
        """
        run = load_run(directory)
        name = run.directory.resolve().name
        return cls(run.network, **{"id": name, "class_names": run.data.class_names, **options})

    def __call__(self, batch_input: Sequence[Any], /) -> list[NDArray[np.float32]]:
        """Return the scores of images.

        Args:
            batch_input: N arrays ``(C, H, W)`` within the bounds.

        Returns:
            N arrays ``(K,)`` float32.

        Raises:
            InputError: no such images, or a network that gives no logits, or probabilities where logits are expected.
        """
        logits = self.logits(unit_images(batch_input, self.bounds))
        if self.output == "probabilities":
            if are_probabilities(logits):
                raise InputError("expected logits of the network, got probabilities; choose output='logits'")
            logits = logits.softmax(1)
        return list(logits.cpu().to(torch.float32).numpy())

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs ``(N, K)`` for images ``(N, C, H, W)`` in [0, 1]."""
        with torch.no_grad():
            logits = torch.cat([self.network(part) for part in inputs.split(self.batch_size)])
        if logits.ndim != 2:
            raise InputError(f"expected logits ({len(inputs)}, K) of the network, got {tuple(logits.shape)}")
        return logits

    def certify(self, batch_input: Sequence[Any], /, **options: Any) -> Certificate:
        """Return the certificates of images, in [0, 1] pixel units; radius 0 where nothing can be proved.

        Args:
            batch_input: N arrays ``(C, H, W)`` within the bounds.
            **options: see :func:`lipcert.harness.foreign.certify_or_not`.
        """
        return certify_or_not(self.network, unit_images(batch_input, self.bounds), **options)


def are_probabilities(scores: Tensor) -> bool:
    """Return whether all rows ``(N, K)`` are probabilities, as far as rounding lets tell.

    Example:
        >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[-0.25, 1.25]]))
        (True, False)
    """
    return bool((scores >= 0).all() and ((scores.sum(1) - 1).abs() <= 1e-4).all())


def metadata_of(id: str, class_names: Sequence[str]) -> dict[str, Any]:
    """Return MAITE's metadata of a component: its name and, if there are any, those of the classes."""
    if not isinstance(id, str) or not id:
        raise InputError(f"expected an id, got {id!r}")
    names = {"index2label": {number: str(name) for number, name in enumerate(class_names)}} if class_names else {}
    return {"id": id, **names}
