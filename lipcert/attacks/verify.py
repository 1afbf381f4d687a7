"""An independent check of what attacks return."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.task import MEASURES, Norm, check_batch, within
from lipcert.certificates.margin import float64_logits
from lipcert.certificates.rounding import gamma
from lipcert.errors import InputError


@dataclass(frozen=True, slots=True)
class Verified:
    """What an independent check found about N candidates.

    Attributes:
        success: ``(N,)`` bool: the candidate is a valid image and the deployed network gives it another class, or the
            target's if there is one.
        confirmed: ``(N,)`` bool: a success in float64 arithmetic too, with the very same weights; a network that does
            not run in float64 is taken at its word.
        distance: ``(N,)`` float64: distance to the input, rounded up; infinite without success.
        prediction: ``(N,)`` int64: class of the candidate; of candidates that are not valid images, the class to leave.
    """

    success: Tensor
    confirmed: Tensor
    distance: Tensor
    prediction: Tensor


def verify(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    candidates: Tensor,
    *,
    targets: Tensor | None = None,
    norm: Norm = "l2",
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 500,
) -> Verified:
    """Decide which candidates are adversarial examples, and how far away they are, without believing the attack.

    A candidate counts if it is finite, lies within the bounds as it is (nothing is clipped after the fact), and the
    network gives it another class than ``labels``, or ``targets`` where they are given, both within a batch and alone:
    floating-point logits can depend on the size of the batch, and an example that works in only one of them is none.

    Distances are recomputed in float64 and rounded *up*, for both of their uses. A certificate of radius r is refuted
    by an example whose true distance is certainly below r: an upper bound below r proves that, a lower bound below r
    would also accuse examples that lie at r or beyond. And a distance that is reported must be one within which the
    example really lies.

    Args:
        model: the deployed network, in eval mode.
        inputs: ``(N, C, H, W)`` floats within ``bounds``.
        labels: ``(N,)`` int64, the classes to leave.
        candidates: ``(N, C, H, W)``, of the inputs' type.
        targets: ``(N,)`` int64, the classes to reach; None: any other.
        norm: in which distances are measured.
        bounds: smallest and largest value of a valid image.
        batch_size: candidates evaluated at a time.

    Returns:
        Success, distance and class of every candidate.

    Raises:
        InputError: unusable inputs, labels or targets, an unknown norm, a network in training mode, or shapes or types
            that do not fit.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
        >>> _ = model.load_state_dict({"1.weight": torch.tensor([[1.0], [0.0]]), "1.bias": torch.tensor([0.0, 0.25])})
        >>> inputs = torch.full((3, 1, 1, 1), 0.5)
        >>> candidates = torch.tensor([0.125, -0.5, 0.5]).view(3, 1, 1, 1)
        >>> found = verify(model, inputs, torch.tensor([0, 0, 0]), candidates)
        >>> found.success.tolist(), round(found.distance[0].item(), 12)
        ([True, False, False], 0.375)
    """
    check_batch(model, inputs, labels, targets=targets, bounds=bounds)
    if norm not in MEASURES:
        raise InputError(f"expected a norm among {', '.join(MEASURES)}, got {norm!r}")
    if candidates.shape != inputs.shape or candidates.dtype != inputs.dtype:
        expected = f"{inputs.dtype} of shape {tuple(inputs.shape)}"
        raise InputError(f"expected candidates as {expected}, got {candidates.dtype} of {tuple(candidates.shape)}")
    prediction = labels.clone()
    valid = within(candidates, bounds)
    prediction[valid] = predictions(model, candidates[valid], batch_size=batch_size)
    success = fooled(prediction, labels, targets)
    for position in success.nonzero().flatten().tolist():
        one = slice(position, position + 1)
        alone = predictions(model, candidates[one], batch_size=1)
        success[one] = fooled(alone, labels[one], None if targets is None else targets[one])
    confirmed = success.clone()
    exact = _float64_predictions(model, candidates[success], batch_size=batch_size)
    if exact is not None:
        confirmed[success] = fooled(exact, labels[success], None if targets is None else targets[success])
    distance = torch.where(success, distance_upper_bound(inputs, candidates, norm), math.inf)
    return Verified(success, confirmed, distance, prediction)


def _float64_predictions(model: nn.Module, candidates: Tensor, *, batch_size: int) -> Tensor | None:
    """Return the classes in float64 arithmetic; None if there are no candidates or the network casts on its way."""
    if len(candidates) == 0:
        return None
    try:
        return float64_logits(model, candidates, batch_size=batch_size).argmax(1).to(candidates.device)
    except RuntimeError:
        return None


def fooled(prediction: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Return where ``(N,)`` the class is the one to reach, or any but the one to leave if there is none to reach."""
    return prediction != labels if targets is None else prediction == targets


def distance_upper_bound(inputs: Tensor, candidates: Tensor, norm: Norm = "l2") -> Tensor:
    r"""Return distances, rounded up.

    .. math:: \bar d = (1 + \gamma_{n+4}) \, \mathrm{fl}_{64}\big(\|c - x\|\big) \ge d

    A difference has one rounding and, in the subnormal range, none; the L1 and L2 norms sum n of them, the maximum
    rounds nothing. Sides of patches are whole numbers, see :func:`patch_sides`.

    Args:
        inputs: ``(N, ...)`` float32 or float64, n numbers each.
        candidates: the same shape.
        norm: of the difference.

    Returns:
        ``(N,)`` float64, never below the true distances, and 0 only where nothing differs.

    Example:
        >>> image, candidate = torch.zeros(1, 1, 1, 2), torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
        >>> [round(distance_upper_bound(image, candidate, norm).item(), 9) for norm in MEASURES]
        [7.0, 5.0, 4.0, 2.0]
    """
    if norm == "patch":
        return patch_sides(inputs, candidates)
    difference = (candidates.double() - inputs.double()).flatten(1)
    if norm == "l2":
        distance = difference.square().sum(1).sqrt()
    else:
        distance = difference.abs().sum(1) if norm == "l1" else difference.abs().amax(1)
    distance = distance * (1 + gamma(difference.shape[1] + 4))
    # Squares of very small differences underflow; each difference is then below 1e-150.
    tiny = math.sqrt(difference.shape[1]) * 1e-150 if norm == "l2" else 0.0
    return torch.where((difference != 0).any(1), distance + tiny, 0.0)


def patch_sides(inputs: Tensor, candidates: Tensor) -> Tensor:
    """Return the side of the smallest upright square that holds every pixel in which two images differ.

    A pixel differs if any of its channels does, by however little. Up to the shorter side of the image there is such a
    square inside of it, so that a side is that of a legal patch.

    Args:
        inputs: ``(N, C, H, W)``.
        candidates: the same shape.

    Returns:
        ``(N,)`` float64 whole numbers; 0 where nothing differs.

    Raises:
        InputError: no images.

    Example:
        >>> patched = torch.zeros(1, 3, 8, 8)
        >>> patched[0, 0, 2, 1] = patched[0, 2, 4, 2] = 1
        >>> patch_sides(torch.zeros(1, 3, 8, 8), patched)
        tensor([3.], dtype=torch.float64)
    """
    if inputs.ndim != 4:
        raise InputError(f"expected images (N, C, H, W) to measure a patch in, got shape {tuple(inputs.shape)}")
    changed = (candidates != inputs).any(1)
    return torch.maximum(_extent(changed.any(2)), _extent(changed.any(1))).double()


def _extent(flags: Tensor) -> Tensor:
    """Return how many places ``(N,)`` there are from the first to the last one that is flagged ``(N, L)``."""
    places = torch.arange(flags.shape[1], device=flags.device).expand_as(flags)
    last = torch.where(flags, places, -1).amax(1)
    return torch.where(flags.any(1), last - torch.where(flags, places, len(places[0])).amin(1) + 1, 0)


def predictions(model: nn.Module, inputs: Tensor, *, batch_size: int = 500) -> Tensor:
    """Return the classes ``(N,)`` that the network gives in its own arithmetic."""
    if len(inputs) == 0:
        return torch.zeros(0, dtype=torch.int64, device=inputs.device)
    with torch.no_grad():
        return torch.cat([model(chunk).argmax(1) for chunk in torch.split(inputs, batch_size)])
