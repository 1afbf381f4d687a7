"""What accuracy means where inputs can be flagged."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.errors import InputError


def accepted_accuracy(preds: Tensor, flagged: Tensor, target: Tensor) -> Tensor:
    r"""Return the share of *all* clean samples that are classified right and not flagged.

    .. math:: \frac{1}{N} \sum_i [\hat{y}_i = y_i \wedge \neg r_i]

    A clean sample that is flagged is lost, like one that is misclassified: a detector cannot gain by flagging.

    Args:
        preds: ``(N,)`` predicted classes.
        flagged: ``(N,)`` bool.
        target: ``(N,)`` true classes.

    Example:
        >>> accepted_accuracy(torch.tensor([0, 1, 1]), torch.tensor([False, True, False]), torch.tensor([0, 1, 0]))
        tensor(0.3333)
    """
    _check(preds, flagged, target)
    return ((preds == target) & ~flagged).float().mean()


def selective_accuracy(preds: Tensor, flagged: Tensor, target: Tensor) -> Tensor:
    r"""Return the share of the samples that are *not flagged* which are classified right; nan if all are flagged.

    .. math:: \sum_i [\hat{y}_i = y_i \wedge \neg r_i] \; / \; \sum_i [\neg r_i]

    Read it beside the share that is flagged: it is perfect for a detector that lets only the easiest sample through.

    Args:
        preds: ``(N,)`` predicted classes.
        flagged: ``(N,)`` bool.
        target: ``(N,)`` true classes.

    Example:
        >>> selective_accuracy(torch.tensor([0, 1, 1]), torch.tensor([False, True, False]), torch.tensor([0, 1, 0]))
        tensor(0.5000)
    """
    _check(preds, flagged, target)
    return (preds == target)[~flagged].float().mean()


def robust_accuracy_with_rejection(
    clean_preds: Tensor, clean_flagged: Tensor, preds: Tensor, flagged: Tensor, target: Tensor
) -> Tensor:
    r"""Return the share of *all* samples that are handled right, both as they are and under attack.

    .. math:: \frac{1}{N} \sum_i [\hat{y}_i = y_i \wedge \neg r_i] \; [\hat{y}'_i = y_i \vee r'_i]

    Under attack, to be flagged is to be defended; unattacked, it is to be lost. Never more than
    :func:`accepted_accuracy` on the clean samples. It means something only for attacks that knew of the detector.

    Args:
        clean_preds: ``(N,)`` predicted classes of the clean samples.
        clean_flagged: ``(N,)`` bool, which of these are flagged.
        preds: ``(N,)`` predicted classes under attack.
        flagged: ``(N,)`` bool, which are flagged under attack.
        target: ``(N,)`` true classes.

    Source: after Tramèr (2022), arXiv 2107.11630, section 2.

    Example:
        >>> no, target = torch.zeros(2, dtype=torch.bool), torch.tensor([0, 1])
        >>> robust_accuracy_with_rejection(target, no, torch.tensor([1, 0]), torch.tensor([True, False]), target)
        tensor(0.5000)
    """
    _check(clean_preds, clean_flagged, target)
    _check(preds, flagged, target)
    return ((clean_preds == target) & ~clean_flagged & ((preds == target) | flagged)).float().mean()


def _check(preds: Tensor, flagged: Tensor, target: Tensor) -> None:
    if not preds.shape == flagged.shape == target.shape or target.ndim != 1 or len(target) == 0:
        shapes = ", ".join(str(tuple(each.shape)) for each in (preds, flagged, target))
        raise InputError(f"expected predictions, flags and classes of one shape (N,), got {shapes}")
    if flagged.dtype != torch.bool:
        raise InputError(f"expected flags as bool, got {flagged.dtype}")
