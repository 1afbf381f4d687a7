"""Metrics of detectors: how much they flag, and what accuracy means where inputs are rejected."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from lipcert.errors import InputError
from lipcert.metrics.attacked import check_classes
from lipcert.metrics.state import SampleMean

Rejection = Literal["wrong", "right", "left out"]
"""What a flagged input counts as."""


class DetectionRates(NamedTuple):
    """Scalars in [0, 1]; not a number where there was nothing of the kind.

    Attributes:
        true_positive: share of the tampered inputs that were flagged.
        false_positive: share of the clean inputs that were flagged.
    """

    true_positive: Tensor
    false_positive: Tensor


def detection_rates(flags: Tensor, tampered: Tensor) -> DetectionRates:
    """Return which share of tampered and of clean inputs a detector flags.

    What counts as tampered is the caller's to say. Hand in *successful* adversarial examples: an attacked image that
    keeps its class harms nobody, and flagging it is no merit.

    Args:
        flags: ``(N,)`` bool, what was flagged.
        tampered: ``(N,)`` bool, what should have been.

    Returns:
        True and false positive rate.

    Raises:
        InputError: not two bool tensors of shape (N,).

    Example:
        >>> rates = detection_rates(torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False]))
        >>> rates.true_positive.item(), rates.false_positive.item()
        (0.5, 0.5)
    """
    _check_flags(flags, tampered)
    return DetectionRates(flags[tampered].float().mean(), flags[~tampered].float().mean())


def accuracy_with_rejection(preds: Tensor, flags: Tensor, target: Tensor, *, flagged: Rejection) -> Tensor:
    r"""Return the accuracy of a classifier some of whose inputs are flagged, which count as one says.

    =============== ===================================================================== ============================
    ``flagged``     share                                                                 of
    =============== ===================================================================== ============================
    ``"wrong"``     not flagged and right: what a user gets of clean inputs                all inputs
    ``"right"``     flagged or right: what does no harm of attacked inputs                 all inputs
    ``"left out"``  right: flatters whoever flags all but the easiest                      inputs that are not flagged
    =============== ===================================================================== ============================

    Args:
        preds: ``(N,)`` predicted classes.
        flags: ``(N,)`` bool, what was flagged.
        target: ``(N,)`` true classes.
        flagged: what a flagged input counts as.

    Returns:
        A scalar in [0, 1]; not a number without inputs to count.

    Raises:
        InputError: other shapes or types, or an unknown way to count.

    Example:
        >>> preds, flags = torch.tensor([0, 1, 2, 3]), torch.tensor([True, True, False, False])
        >>> target = torch.tensor([0, 0, 2, 0])
        >>> ways = ("wrong", "right", "left out")
        >>> [accuracy_with_rejection(preds, flags, target, flagged=way).item() for way in ways]
        [0.25, 0.75, 0.5]
    """
    values, counted = _credited(preds, flags, target, flagged)
    return values.float().sum() / counted.sum()


def _credited(preds: Tensor, flags: Tensor, target: Tensor, flagged: Rejection) -> tuple[Tensor, Tensor]:
    """Return which samples ``(N,)`` count as right, and which count at all."""
    check_classes(preds=preds, target=target)
    _check_flags(flags, torch.zeros_like(target, dtype=torch.bool))
    if flagged not in get_args(Rejection):
        raise InputError(f"expected flagged among {', '.join(get_args(Rejection))}, got {flagged!r}")
    right = preds == target
    everything = torch.ones_like(right)
    if flagged == "right":
        return right | flags, everything
    return right & ~flags, everything if flagged == "wrong" else ~flags


def _check_flags(flags: Tensor, tampered: Tensor) -> None:
    for name, values in (("flags", flags), ("tampered", tampered)):
        if values.dtype != torch.bool or values.shape != (len(flags),):
            found = f"{values.dtype} {tuple(values.shape)}"
            raise InputError(f"expected bool {name} of shape ({len(flags)},), got {found}")
    if flags.shape != tampered.shape:
        raise InputError(f"expected one flag a sample, got {len(flags)} flags for {len(tampered)} samples")


class Detection(Metric):
    """True and false positive rate of a detector, see :func:`detection_rates`.

    ``update(flags, tampered)`` takes ``(N,)`` bools; ``compute()`` returns :class:`DetectionRates`.

    Example:
        >>> metric = Detection()
        >>> metric.update(torch.tensor([True, False]), torch.tensor([True, True]))
        >>> metric.update(torch.tensor([True, False]), torch.tensor([False, False]))
        >>> [rate.item() for rate in metric.compute()]
        [0.5, 0.5]
    """

    is_differentiable = False
    full_state_update = False
    flagged: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("flagged", "count"):
            self.add_state(name, torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, flags: Tensor, tampered: Tensor) -> None:
        """Count a batch: what was flagged, and what should have been."""
        _check_flags(flags, tampered)
        kinds = torch.stack([tampered, ~tampered])
        self.flagged += (kinds & flags).sum(1)
        self.count += kinds.sum(1)

    def compute(self) -> DetectionRates:
        """Return the rates."""
        true_positive, false_positive = self.flagged / self.count
        return DetectionRates(true_positive, false_positive)


class AccuracyWithRejection(SampleMean):
    """Accuracy where flagged inputs count as one says, see :func:`accuracy_with_rejection`.

    ``update(preds, flags, target)`` takes ``(N,)`` tensors.

    Args:
        flagged: what a flagged input counts as: ``"wrong"``, ``"right"`` or ``"left out"``.

    Example:
        >>> metric = AccuracyWithRejection(flagged="wrong")
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([True, False]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.5
    """

    def __init__(self, *, flagged: Rejection) -> None:
        super().__init__()
        self.flagged: Rejection = flagged

    def update(self, preds: Tensor, flags: Tensor, target: Tensor) -> None:
        """Count a batch: predicted classes, what was flagged, and the true classes."""
        values, counted = _credited(preds, flags, target, self.flagged)
        self.total += values.sum()
        self.count += counted.sum()
