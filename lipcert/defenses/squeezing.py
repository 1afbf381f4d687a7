"""Detection of adversarial inputs by what squeezing changes of a network's answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.defenses.base import Transformation
from lipcert.defenses.calibration import calibrate_threshold
from lipcert.errors import InputError


class SqueezingDetector(nn.Module):
    r"""Scores an input by the largest change of a network's probabilities under squeezing.

    .. math:: s(x) = \max_k \; \| \mathrm{softmax} f(x) - \mathrm{softmax} f(q_k(x)) \|_1

    A score lies in [0, 2]; an input is flagged if its score is *above* the threshold. What flagged inputs count as is
    said in :func:`lipcert.metrics.accuracy_with_rejection`. With squeezers whose gradient leads somewhere, the score
    has a slope that an attack on classifier and detector at once can follow, see
    :class:`lipcert.harness.detectors.DetectedNetwork`.

    Args:
        network: gives logits ``(N, K)``.
        squeezers: at least one.
        threshold: given, or to be found by :meth:`calibrate`; nan stands for none.

    Raises:
        InputError: no squeezers, or a threshold out of range.

    Source: Xu et al. (2018), "Feature squeezing", arXiv 1704.01155, on joint detection.

    Example:
        >>> from lipcert.defenses import BitDepth
        >>> detector = SqueezingDetector(nn.Flatten(), [BitDepth(1)], threshold=0.5).eval()
        >>> inputs = torch.tensor([[0.0, 1.0], [0.3, 0.6]]).view(2, 1, 1, 2)
        >>> detector(inputs)[0].item(), detector.flags(inputs).tolist()
        (0.0, [False, False])
    """

    threshold: Tensor

    def __init__(self, network: nn.Module, squeezers: Sequence[Transformation], *, threshold: float = math.nan) -> None:
        super().__init__()
        if not squeezers or not all(isinstance(each, Transformation) for each in squeezers):
            kinds = ", ".join(type(each).__name__ for each in squeezers) or "none"
            raise InputError(f"expected at least one squeezer, and transformations only, got {kinds}")
        if threshold < 0 or threshold == math.inf:
            raise InputError(f"expected a finite threshold >= 0, got {threshold:g}")
        self.network = network
        self.squeezers = nn.ModuleList(squeezers)
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores ``(N,)`` of images ``(N, C, H, W)`` in [0, 1]."""
        return self.scores_by_squeezer(inputs).amax(1)

    def scores_by_squeezer(self, inputs: Tensor) -> Tensor:
        """Return the change of the probabilities ``(N, squeezers)`` under each squeezer."""
        squeezed = [squeezer(inputs) for squeezer in self.squeezers]  # refuses what is no batch of images
        probabilities = self.network(inputs).softmax(-1)
        changes = [(self.network(images).softmax(-1) - probabilities).abs().sum(-1) for images in squeezed]
        return torch.stack(changes, 1)

    def flags(self, inputs: Tensor) -> Tensor:
        """Return which images ``(N,)`` are flagged.

        Raises:
            InputError: there is no threshold yet.
        """
        if self.threshold.isnan():
            raise InputError("expected a threshold, given or calibrated, got none")
        scores: Tensor = self(inputs)
        return scores > self.threshold.to(scores)

    def calibrate(self, inputs: Tensor, false_positive_rate: float, *, confidence: float | None = None) -> float:
        """Set and return the threshold, see :func:`lipcert.defenses.calibration.calibrate_threshold`."""
        return calibrate_threshold(self, inputs, false_positive_rate, confidence=confidence)
