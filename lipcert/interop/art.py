"""The Adversarial Robustness Toolbox (ART): its classifiers as networks, and a network as one of its classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor

from lipcert.data.tensors import as_tensor
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.interop.batches import classes
from lipcert.interop.called import CalledNetwork
from lipcert.interop.inputs import UNIT, Bounds, RescaledInputs, check_bounds

Array = NDArray[np.float32]

PROBES = 4
_CLOSE = 1e-4  # of the largest logit: far above what the order of sums does, far below what a forgotten layer does


class ArtClassifier:
    """A network with the methods of an ART classifier, for code that asks for these and not for ART's own classes.

    ART's own attacks ask for ART's classes: give them ``art.estimators.classification.PyTorchClassifier`` of the
    exported network, with ``clip_values=(0, 1)`` and ``channels_first=True``; it needs nothing from here.

    Args:
        network: from images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``; a plain copy of it is kept.
        input_shape: ``(C, H, W)``.
        clip_values: smallest and largest value of a pixel in the images that the methods are handed.

    Attributes:
        network: the copy, in eval mode, without gradients of its parameters.
        nb_classes: K.

    Raises:
        InputError: a network that does not run on such images, or unusable clip values.

    Example:
        >>> classifier = ArtClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), input_shape=(1, 2, 2))
        >>> images = np.zeros((5, 1, 2, 2), dtype=np.float32)
        >>> classifier.predict(images).shape, classifier.class_gradient(images).shape, classifier.nb_classes
        ((5, 3), (5, 3, 1, 2, 2), 3)
    """

    channels_first = True
    preprocessing = None

    def __init__(self, network: nn.Module, *, input_shape: Sequence[int], clip_values: Any = UNIT) -> None:
        if not isinstance(network, nn.Module):
            raise InputError(f"expected a network, got {type(network).__name__}")
        self.network = export(network).requires_grad_(False)
        self.clip_values: Bounds = check_bounds(clip_values)
        self.input_shape = tuple(int(size) for size in input_shape)
        self.nb_classes = _number_of_classes(self.network, self.input_shape)

    @property
    def model(self) -> nn.Module:
        """The network, which takes images in [0, 1]."""
        return self.network

    def predict(self, x: Any, batch_size: int = 128, **kwargs: Any) -> Array:
        """Return the logits ``(N, K)`` of images ``(N, C, H, W)`` within the clip values."""
        with torch.no_grad():
            parts = [self.network(part) for part in self._units(x).split(_positive(batch_size))]
        return _array(torch.cat(parts))

    def class_gradient(self, x: Any, label: Any = None, **kwargs: Any) -> Array:
        """Return the gradients of logits.

        Args:
            x: ``(N, C, H, W)``.
            label: one class for all, or ``(N,)`` classes; None for all classes.
            **kwargs: what ART's classifiers take beside these; of no account.

        Returns:
            ``(N, K, C, H, W)`` for all classes, otherwise ``(N, 1, C, H, W)``.
        """
        inputs = self._units(x).requires_grad_()
        with torch.enable_grad():
            logits = self.network(inputs)
            if label is None:
                sums = list(logits.sum(0))
            else:
                chosen = self._checked(np.broadcast_to(np.asarray(label), len(inputs)))
                sums = [logits.gather(1, chosen[:, None]).sum()]
            found = [torch.autograd.grad(each, inputs, retain_graph=True)[0] for each in sums]
        return _array(torch.stack(found, 1) / self._width)

    def loss_gradient(self, x: Any, y: Any, **kwargs: Any) -> Array:
        """Return the gradient of each image's own cross-entropy.

        Args:
            x: ``(N, C, H, W)``.
            y: classes ``(N,)``, or one-hot ``(N, K)``.
            **kwargs: what ART's classifiers take beside these; of no account.

        Returns:
            ``(N, C, H, W)``.
        """
        inputs = self._units(x).requires_grad_()
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(self.network(inputs), self._checked(y), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, inputs)
        return _array(gradient / self._width)

    @property
    def _width(self) -> float:
        return self.clip_values[1] - self.clip_values[0]

    def _units(self, x: Any) -> Tensor:
        found = as_tensor(x, "images").to(torch.float32)
        if found.ndim == 0 or tuple(found.shape[1:]) != self.input_shape or len(found) == 0:
            raise InputError(f"expected images (N, {str(self.input_shape)[1:-1]}), got {tuple(found.shape)}")
        return found.clone() if self.clip_values == UNIT else (found - self.clip_values[0]) / self._width

    def _checked(self, y: Any) -> Tensor:
        found = classes(y, what="labels")
        if int(found.min()) < 0 or int(found.max()) >= self.nb_classes:
            raise InputError(f"expected labels from 0 to {self.nb_classes - 1}, got {found.min()} to {found.max()}")
        return found


def from_art(classifier: Any) -> nn.Module:
    """Return the network of an ART classifier, made for images in [0, 1].

    Of a PyTorch classifier it is the ``model``, with clip values and ``preprocessing`` as layers in front of it: a
    network like any other, which can be certified. That it gives what ``predict`` does is tried on random images. Any
    other classifier, or one with defences that are no layers, is taken by its ``predict`` and, for attacks, its
    ``class_gradient``; nothing of that can be certified.

    Args:
        classifier: has ``predict``, ``input_shape`` and ``clip_values``, channels first.

    Returns:
        A network in eval mode on the CPU, from ``(N, C, H, W)`` in [0, 1] to what ``predict`` gives.

    Raises:
        InputError: something of that is missing.

    Example:
        >>> made_of = ArtClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), input_shape=(1, 2, 2))
        >>> from_art(made_of)(torch.zeros(1, 1, 2, 2)).shape
        torch.Size([1, 3])
    """
    if isinstance(classifier, ArtClassifier):
        return export(classifier.network)
    if not callable(getattr(classifier, "predict", None)):
        raise InputError(f"expected an ART classifier with predict, got {type(classifier).__name__}")
    if not getattr(classifier, "channels_first", True):
        raise InputError("expected a classifier with channels_first=True, got one whose channels are last")
    bounds, shape = _clip_values(classifier), _input_shape(classifier)
    called = _called(classifier, bounds)
    model = getattr(classifier, "model", None)
    if not isinstance(model, nn.Module):
        return called
    network: nn.Module = export(model).cpu()
    mean, std = _preprocessing(classifier)
    if bounds != UNIT or mean is not None or std is not None:
        network = RescaledInputs(network, bounds=bounds, mean=mean, std=std)
    return network if _agree(network, called, shape) else called


def _agree(network: nn.Module, called: nn.Module, shape: tuple[int, ...]) -> bool:
    probes = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = called(probes)
        try:
            found = network(probes)
        except (RuntimeError, TypeError, ValueError):
            return False
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _CLOSE * expected.abs().max().clamp_min(1e-6))


def _called(classifier: Any, bounds: Bounds) -> CalledNetwork:
    low, width = bounds[0], bounds[1] - bounds[0]

    def predict(images: Array) -> Any:
        return classifier.predict(images * width + low if bounds != UNIT else images)

    def gradient(images: Array) -> Any:
        return width * np.asarray(classifier.class_gradient(images * width + low if bounds != UNIT else images))

    has_gradient: Callable[[Array], Any] | None = None
    if callable(getattr(classifier, "class_gradient", None)):
        has_gradient = gradient
    return CalledNetwork(predict, has_gradient).eval()


def _clip_values(classifier: Any) -> Bounds:
    found = getattr(classifier, "clip_values", None)
    if found is None or len(found) != 2:
        raise InputError("expected a classifier with clip_values, which say what a pixel can be, got none")
    low, high = (np.unique(np.asarray(values)) for values in found)
    if len(low) != 1 or len(high) != 1:
        raise InputError("expected the same clip_values for all pixels")
    return check_bounds((low[0], high[0]))


def _input_shape(classifier: Any) -> tuple[int, ...]:
    found = getattr(classifier, "input_shape", None)
    try:
        shape = tuple(int(size) for size in found)  # type: ignore[union-attr]
    except TypeError:
        raise InputError(f"expected a classifier with an input_shape (C, H, W), got {found!r}") from None
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"expected a classifier with an input_shape (C, H, W), got {shape}")
    return shape


def _preprocessing(classifier: Any) -> tuple[Any, Any]:
    """Return what ART's classifiers subtract and divide by: a pair, or an object that has both."""
    found = getattr(classifier, "preprocessing", None)
    if isinstance(found, tuple | list) and len(found) == 2:
        return found[0], found[1]
    return getattr(found, "mean", None), getattr(found, "std", None)


def _number_of_classes(network: nn.Module, shape: tuple[int, ...]) -> int:
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, *shape))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"expected a network that runs on images {shape}: {' '.join(str(error).split())}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"expected a network that gives logits (N, K) of images {shape}")
    return logits.shape[1]


def _positive(batch_size: int) -> int:
    if batch_size < 1:
        raise InputError(f"expected batch_size >= 1, got {batch_size}")
    return batch_size


def _array(values: Tensor) -> Array:
    return values.detach().cpu().numpy().astype(np.float32)
