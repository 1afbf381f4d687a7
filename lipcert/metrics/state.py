"""What metrics sum up: values of samples, and how many there were."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class SampleMean(Metric):
    """A sum over samples and their number; a subclass adds ``(N, ...)`` values and says of what."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, size: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Count the values ``(N, ...)`` of N samples."""
        self.total += values.sum(0)
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean; not a number without samples."""
        return self.total / self.count


class MeanLoss(SampleMean):
    """Mean of a loss over samples; unlike torchmetrics' ``MeanMetric`` it never waits for the device.

    ``update(loss, samples)`` takes the mean loss of a batch and its size. A loss that is not a number stays one.

    Example:
        >>> metric = MeanLoss()
        >>> metric.update(torch.tensor(1.0), 3)
        >>> metric.update(torch.tensor(2.0), 1)
        >>> metric.compute().item()
        1.25
    """

    higher_is_better = False

    def update(self, loss: Tensor, samples: int) -> None:
        """Count a batch: its mean loss and its size."""
        self.total += loss * samples
        self.count += samples
