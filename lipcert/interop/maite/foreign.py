"""Back from MAITE: any model and data set, trained, certified and audited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.data import ImageSet, ImageTensors
from lipcert.data.tensors import as_tensor, image_set
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.harness import AuditResult, Subject, run_audit
from lipcert.harness.foreign import certify_or_not
from lipcert.interop.batches import classes, images_within, scores, unit_images
from lipcert.interop.called import CalledNetwork
from lipcert.interop.inputs import UNIT, Bounds, RescaledInputs, check_bounds
from lipcert.interop.maite.data import check_dataset
from lipcert.interop.maite.models import ClassifierModel

ATTRIBUTES = ("network", "model", "_model", "module", "_module", "net", "classifier")
PROBES = 4
_CLOSE = 1e-4  # of the largest score: far above what the order of sums does


def network_of(model: Any, images: Sequence[Any], *, bounds: Any = UNIT) -> nn.Module:
    """Return the network of a MAITE model, made for images in [0, 1].

    A model that is a PyTorch module, or keeps one in an attribute of a usual name, is that module itself: it can be
    trained, certified (see :func:`lipcert.export`) and followed by gradients. That it gives the model's scores, or
    logits whose softmax does, is tried on the images. Any other model is called: attacks that ask for nothing else can
    be run against it, and nothing is certified.

    Args:
        model: any MAITE image classification model.
        images: a few arrays ``(C, H, W)`` that it takes.
        bounds: smallest and largest value of a pixel in the images that it is handed.

    Returns:
        From ``(N, C, H, W)`` in [0, 1] to scores ``(N, K)``.

    Raises:
        InputError: what cannot be called on these images, or returns something else than N rows of scores.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> network_of(ClassifierModel(network), [torch.zeros(1, 2, 2)])
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=4, out_features=3, bias=True)
        )
    """
    if isinstance(model, ClassifierModel):
        return model.network
    if not callable(model):
        raise InputError(f"expected a MAITE model, which can be called, got {type(model).__name__}")
    limits = check_bounds(bounds)
    inputs = unit_images(list(images)[:PROBES], limits)
    expected = _called(model, limits)(inputs)
    for candidate in _candidates(model):
        network = candidate if limits == UNIT else RescaledInputs(candidate, bounds=limits)
        if _agree(network, inputs, expected):
            return network
    return _called(model, limits).eval()


def image_set_of(dataset: Any) -> ImageSet:
    """Return the images and classes of a MAITE data set.

    Args:
        dataset: items of an image ``(C, H, W)``, a one-hot row, scores or class number, and metadata. Images are
            integers from 0 to 255 or floats in [0, 1].

    Raises:
        InputError: no such data set, or images of several shapes.
    """
    check_dataset(dataset)
    images: list[Tensor] = []
    targets: list[Any] = []
    for place in range(len(dataset)):
        image, target = dataset[place][:2]
        images.append(as_tensor(image, f"image {place}"))
        targets.append(target)
        if images[-1].ndim != 3 or images[-1].shape != images[0].shape or images[-1].dtype != images[0].dtype:
            expected, found = (f"{each.dtype} {tuple(each.shape)}" for each in (images[0], images[-1]))
            raise InputError(f"expected images (C, H, W) of one shape, got {expected} and, for image {place}, {found}")
    return image_set(torch.stack(images), classes(targets), layout="channels_first")


def image_data_of(train: Any, *, test: Any = None, val: Any = None, **options: Any) -> ImageTensors:
    """Return MAITE data sets as a data module for training and audit.

    Args:
        train: training data set.
        test: test data set; drawn from the training images if None.
        val: validation data set; drawn likewise if None.
        **options: see :class:`lipcert.data.ImageTensors`; name and class names are by default those of ``train``.

    Raises:
        InputError: as for :func:`image_set_of`.
    """
    options = {"name": str(_metadata(train).get("id", "images")), "class_names": _class_names(train), **options}
    of_test, of_val = (None if each is None else image_set_of(each) for each in (test, val))
    return ImageTensors(image_set_of(train), test=of_test, val=of_val, **options)


def audit(model: Any, dataset: Any, *, bounds: Any = UNIT, **options: Any) -> AuditResult:
    """Certify what can be certified of a MAITE model on a MAITE data set, attack it, and compare.

    Args:
        model: any MAITE model; it is audited as it is deployed, see :func:`lipcert.export`.
        dataset: any MAITE data set, see :func:`image_set_of`.
        bounds: smallest and largest value of a pixel in the images that the model is handed.
        **options: see :func:`lipcert.run_audit`.

    Raises:
        InputError: as for :func:`network_of`, :func:`image_set_of` and :func:`lipcert.run_audit`.
    """
    images = image_set_of(dataset)
    limits = check_bounds(model.bounds if isinstance(model, ClassifierModel) else bounds)
    some = images_within(images.inputs(torch.arange(min(PROBES, len(images)))), limits)
    network = export(network_of(model, some, bounds=limits)).requires_grad_(False)
    names = [str(_metadata(each).get("id", default)) for each, default in ((model, "network"), (dataset, "images"))]
    subject = Subject(
        model_name=names[0], data_name=names[1], class_names=_class_names(model) or _class_names(dataset) or ()
    )
    return run_audit(network, images, **{"certifier": certify_or_not, "subject": subject, **options})


def _called(model: Any, bounds: Bounds) -> CalledNetwork:
    def call(images: Any) -> Any:
        handed = images_within(torch.from_numpy(images), bounds)
        try:
            returned = model(handed)
        except Exception as error:  # whatever a stranger's code can raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"expected a model that takes images {images.shape[1:]}, got an error: {reason}"
            ) from error
        return scores(returned).numpy()

    return CalledNetwork(call)


def _candidates(model: Any) -> Iterator[nn.Module]:
    if isinstance(model, nn.Module):
        yield model
    for name in ATTRIBUTES:
        found = getattr(model, name, None)
        if isinstance(found, nn.Module):
            yield found


def _agree(network: nn.Module, inputs: Tensor, expected: Tensor) -> bool:
    """Return whether a network, as it would be deployed, gives the scores, or logits of them."""
    try:
        with torch.no_grad():
            found = export(network)(inputs)
    except Exception:  # whatever a stranger's module can raise; it is then no candidate
        return False
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    return any(_close(each, expected) for each in (found, found.softmax(1), found.log_softmax(1)))


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= _CLOSE * expected.abs().max().clamp_min(1e-6))


def _metadata(component: Any) -> dict[str, Any]:
    found: Any = getattr(component, "metadata", None)
    return dict(found) if hasattr(found, "keys") else {}


def _class_names(component: Any) -> tuple[str, ...] | None:
    """Return the names of the classes 0 to K - 1, if the metadata have them all."""
    names = _metadata(component).get("index2label")
    if not names or set(names) != set(range(len(names))):
        return None
    return tuple(str(names[number]) for number in range(len(names)))
