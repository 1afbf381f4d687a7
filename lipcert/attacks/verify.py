"""An independent check of what attacks return."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.certificates.margin import check_inputs, float64_logits
from lipcert.certificates.rounding import gamma
from lipcert.errors import InputError


@dataclass(frozen=True, slots=True)
class Verified:
    """What an independent check found about N candidates.

    Attributes:
        success: ``(N,)`` bool: the candidate is a valid image and the deployed network gives it another class.
        confirmed: ``(N,)`` bool: a success whose class differs in float64 arithmetic too, with the very same weights.
        distance: ``(N,)`` float64: L2 distance to the input, rounded up; infinite without success.
        prediction: ``(N,)`` int64: class of the candidate; of candidates that are not valid images, the class to leave.
    """

    success: Tensor
    confirmed: Tensor
    distance: Tensor
    prediction: Tensor


def verify(model: nn.Module, inputs: Tensor, labels: Tensor, candidates: Tensor, *, batch_size: int = 500) -> Verified:
    """Decide which candidates are adversarial examples, and how far away they are, without believing the attack.

    A candidate counts if it is finite, lies in [0, 1] as it is (nothing is clipped after the fact), and the network
    gives it another class than ``labels`` both within a batch and alone: floating-point logits can depend on the size
    of the batch, and an example that works in only one of them is none. Distances are recomputed in float64 and rounded
    up, because a certificate is refuted only if the *true* distance is certainly below its radius, and because a
    distance that is reported must be one at which the example really lies.

    Args:
        model: the deployed network, in eval mode.
        inputs: ``(N, C, H, W)`` floats in [0, 1].
        labels: ``(N,)`` int64, the classes to leave.
        candidates: ``(N, C, H, W)``, of the inputs' type.
        batch_size: candidates evaluated at a time.

    Returns:
        Success, distance and class of every candidate.

    Raises:
        InputError: unusable inputs or labels, a network in training mode, or shapes or types that do not fit.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
        >>> _ = model.load_state_dict({"1.weight": torch.tensor([[1.0], [0.0]]), "1.bias": torch.tensor([0.0, 0.25])})
        >>> inputs = torch.full((3, 1, 1, 1), 0.5)
        >>> candidates = torch.tensor([0.125, -0.5, 0.5]).view(3, 1, 1, 1)
        >>> found = verify(model, inputs, torch.tensor([0, 0, 0]), candidates)
        >>> found.success.tolist(), round(found.distance[0].item(), 12)
        ([True, False, False], 0.375)
    """
    check_batch(model, inputs, labels)
    if candidates.shape != inputs.shape or candidates.dtype != inputs.dtype:
        expected = f"{inputs.dtype} of shape {tuple(inputs.shape)}"
        raise InputError(f"expected candidates as {expected}, got {candidates.dtype} of {tuple(candidates.shape)}")
    prediction = labels.clone()
    valid = ((candidates >= 0) & (candidates <= 1)).flatten(1).all(1)  # False for nan as well
    prediction[valid] = predictions(model, candidates[valid], batch_size=batch_size)
    success = prediction != labels
    for position in success.nonzero().flatten().tolist():
        alone = predictions(model, candidates[position : position + 1], batch_size=1)
        success[position] = bool(alone != labels[position])
    confirmed = success.clone()
    if success.any():
        exact = float64_logits(model, candidates[success], batch_size=batch_size).argmax(1)
        confirmed[success] = exact.to(labels.device) != labels[success]
    distance = torch.where(success, distance_upper_bound(inputs, candidates), math.inf)
    return Verified(success, confirmed, distance, prediction)


def distance_upper_bound(inputs: Tensor, candidates: Tensor) -> Tensor:
    r"""Return L2 distances, rounded up.

    .. math:: \bar d = (1 + \gamma_{n+4}) \, \mathrm{fl}_{64}\Big(\sqrt{\textstyle\sum_i (c_i - x_i)^2}\Big) \ge d

    Args:
        inputs: ``(N, ...)`` float32 or float64, n numbers each.
        candidates: the same shape.

    Returns:
        ``(N,)`` float64, never below the true distances, and 0 only where nothing differs.

    Example:
        >>> distance_upper_bound(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).item() >= 5
        True
    """
    difference = (candidates.double() - inputs.double()).flatten(1)
    distance = difference.square().sum(1).sqrt() * (1 + gamma(difference.shape[1] + 4))
    # The squares of very small differences underflow; each is then below 1e-150.
    tiny = math.sqrt(difference.shape[1]) * 1e-150
    return torch.where((difference != 0).any(1), distance + tiny, 0.0)


def predictions(model: nn.Module, inputs: Tensor, *, batch_size: int = 500) -> Tensor:
    """Return the classes ``(N,)`` that the network gives in its own arithmetic."""
    if len(inputs) == 0:
        return torch.zeros(0, dtype=torch.int64, device=inputs.device)
    with torch.no_grad():
        return torch.cat([model(chunk).argmax(1) for chunk in torch.split(inputs, batch_size)])


def check_batch(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Refuse a network in training mode, unusable inputs, and labels that are not its classes.

    Raises:
        InputError: says what was expected and found.
    """
    if any(module.training for module in model.modules()):
        raise InputError("expected a network in eval mode, got one in training mode")
    check_inputs(inputs)
    if labels.dtype != torch.int64 or labels.shape != (len(inputs),):
        raise InputError(f"expected int64 labels of shape ({len(inputs)},), got {labels.dtype} {tuple(labels.shape)}")
    with torch.no_grad():
        classes = model(inputs[:1]).shape[-1]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(f"expected labels from 0 to {classes - 1}, got {low} to {high}")
