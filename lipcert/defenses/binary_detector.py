"""Detection of adversarial inputs by a network that was trained to tell them from clean ones."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.defenses.calibration import calibrate_threshold, platt, scores_of
from lipcert.errors import InputError


class BinaryDetector(nn.Module):
    r"""Scores an input by the calibrated log-odds that a network with two logits gives for its being adversarial.

    .. math:: s(x) = a \, (f_1(x) - f_0(x)) + b, \qquad P(\text{adversarial}) = 1 / (1 + e^{-s(x)})

    Class 0 is clean and class 1 adversarial. The score is not squashed to a probability, where it would lose its slope,
    and ties would appear, just where the detector is sure. An input is flagged if its score is *above* the threshold; 0
    is even odds. The probability is that of the mix it was calibrated on, and says nothing about attacks unseen.

    Args:
        network: gives logits ``(N, 2)``.
        threshold: given, or to be found by :meth:`calibrate_threshold`.

    Raises:
        InputError: a threshold that is nan.

    Source: Metzen et al. (2017), arXiv 1702.04267; for the calibration, Platt (1999), "Probabilistic outputs for
    support vector machines".

    Example:
        >>> detector = BinaryDetector(nn.Flatten()).eval()
        >>> inputs = torch.tensor([[0.25, 0.75], [0.75, 0.25]]).view(2, 1, 1, 2)
        >>> detector(inputs).tolist(), detector.flags(inputs).tolist()
        ([0.5, -0.5], [True, False])
    """

    threshold: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, *, threshold: float = 0.0) -> None:
        super().__init__()
        if threshold != threshold:
            raise InputError("expected a threshold, got nan")
        self.network = network
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores ``(N,)`` of images ``(N, C, H, W)``."""
        logits = self.network(inputs)
        if logits.ndim != 2 or logits.shape[1] != 2:
            raise InputError(f"expected two logits, clean and adversarial, got shape {tuple(logits.shape)}")
        log_odds: Tensor = logits[:, 1] - logits[:, 0]
        return log_odds * self.scale.to(logits) + self.shift.to(logits)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return the probabilities ``(N,)`` of being adversarial."""
        return self(inputs).sigmoid()  # type: ignore[no-any-return]

    def flags(self, inputs: Tensor) -> Tensor:
        """Return which images ``(N,)`` are flagged."""
        scores = self(inputs)
        return scores > self.threshold.to(scores)  # type: ignore[no-any-return]

    @torch.no_grad()
    def calibrate(self, inputs: Tensor, labels: Tensor) -> None:
        """Set scale and shift so that probabilities are those of a held-out mix, by Platt's method.

        The threshold keeps its value: it belongs to the scores that it was chosen for, so choose it afterwards.

        Args:
            inputs: ``(N, C, H, W)``, clean and adversarial images that were not trained on.
            labels: ``(N,)``, 0 for clean and 1 for adversarial.

        Raises:
            InputError: labels other than these, or of one kind only.
        """
        scale, shift = platt(scores_of(self, inputs), labels)
        self.shift.mul_(scale).add_(shift)
        self.scale.mul_(scale)

    def calibrate_threshold(
        self, inputs: Tensor, false_positive_rate: float, *, confidence: float | None = None
    ) -> float:
        """Set and return the threshold, see :func:`lipcert.defenses.calibration.calibrate_threshold`."""
        return calibrate_threshold(self, inputs, false_positive_rate, confidence=confidence)
