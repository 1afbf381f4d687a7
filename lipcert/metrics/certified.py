"""Metrics of certified classifiers: pure functions, and the torchmetrics state around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lipcert.errors import InputError
from lipcert.metrics.state import SampleMean


def certified_accuracy(radius: Tensor, preds: Tensor, target: Tensor, epsilon: float) -> Tensor:
    r"""Return the share of all samples that are classified right and certified at ``epsilon`` (VRA).

    .. math:: \frac{1}{N} \sum_i [\hat{y}_i = y_i \wedge r_i \geq \epsilon]

    Args:
        radius: ``(N,)`` certified radii, in the units of ``epsilon``.
        preds: ``(N,)`` predicted classes.
        target: ``(N,)`` true classes.
        epsilon: budget, at least 0.

    Returns:
        A scalar in [0, 1].

    Raises:
        InputError: ``epsilon`` is negative or not finite.

    Example:
        >>> certified_accuracy(torch.tensor([0.5, 0.1, 0.9]), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), 0.3)
        tensor(0.3333)
    """
    check_epsilons([epsilon])
    return ((preds == target) & (radius >= epsilon)).float().mean()


def average_certified_radius(radius: Tensor, preds: Tensor, target: Tensor) -> Tensor:
    r"""Return the mean certified radius over all samples, counted as 0 where the class is wrong (ACR).

    .. math:: \frac{1}{N} \sum_i r_i [\hat{y}_i = y_i]

    It has no upper limit: a classifier that always answers the same is right for one class and certified at any radius.
    Read it beside the accuracy.

    Args:
        radius: ``(N,)`` certified radii.
        preds: ``(N,)`` predicted classes.
        target: ``(N,)`` true classes.

    Returns:
        A scalar in the units of ``radius``.

    Source: Zhai et al. (2020), arXiv 2001.02378, section 5.

    Example:
        >>> average_certified_radius(torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), torch.tensor([0, 0]))
        tensor(0.2500)
    """
    return torch.where(preds == target, radius, 0).mean()


def check_epsilons(epsilons: Sequence[float]) -> tuple[float, ...]:
    """Return the budgets as a tuple, or say which of them is not a finite number of at least 0."""
    for epsilon in epsilons:
        if not 0 <= epsilon < float("inf"):
            raise InputError(f"expected epsilon >= 0, got {epsilon}")
    return tuple(epsilons)


class CertifiedAccuracy(SampleMean):
    """Certified accuracy (VRA) at several budgets, see :func:`certified_accuracy`.

    ``update(radius, preds, target)`` takes ``(N,)`` tensors; ``compute()`` returns one value a budget.

    Args:
        epsilons: budgets, in the units of the radii.

    Example:
        >>> metric = CertifiedAccuracy([0.0, 0.3])
        >>> metric.update(torch.tensor([0.5, 0.1]), torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> metric.compute().tolist()
        [1.0, 0.5]
    """

    epsilons: Tensor

    def __init__(self, epsilons: Sequence[float]) -> None:
        super().__init__((len(check_epsilons(epsilons)),))
        self.register_buffer("epsilons", torch.tensor(epsilons, dtype=torch.float64), persistent=False)

    def update(self, radius: Tensor, preds: Tensor, target: Tensor) -> None:
        """Count a batch: ``(N,)`` radii, predicted and true classes."""
        self.add((preds == target)[:, None] & (radius[:, None] >= self.epsilons))


class AverageCertifiedRadius(SampleMean):
    """Average certified radius (ACR), see :func:`average_certified_radius`.

    ``update(radius, preds, target)`` takes ``(N,)`` tensors.

    Example:
        >>> metric = AverageCertifiedRadius()
        >>> metric.update(torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.25
    """

    def update(self, radius: Tensor, preds: Tensor, target: Tensor) -> None:
        """Count a batch: ``(N,)`` radii, predicted and true classes."""
        self.add(torch.where(preds == target, radius, 0).double())


class KantorovichRubinstein(Metric):
    r"""Mean over classes of the one-against-all Kantorovich-Rubinstein term, over all samples seen.

    .. math:: \frac{1}{K} \sum_k \left( \mathbb{E}_{y = k}[f_k(x)] - \mathbb{E}_{y \neq k}[f_k(x)] \right)

    For outputs that are 1-Lipschitz one by one it is a lower estimate of the mean Wasserstein-1 distance between each
    class and the rest. ``update(logits, target)`` takes ``(N, K)`` logits and ``(N,)`` classes. Classes that were never
    seen, or alone, count as 0.

    Args:
        num_classes: K.

    Source: Serrurier et al. (2021), arXiv 2006.06520, equation 4.

    Example:
        >>> metric = KantorovichRubinstein(2)
        >>> metric.update(torch.tensor([[1.0, -1.0], [-2.0, 2.0]]), torch.tensor([0, 1]))
        >>> metric.compute().item()
        3.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    own: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("own", "total", "count"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: ``(N, K)`` logits and ``(N,)`` true classes."""
        of_own_class = logits.gather(1, target[:, None]).squeeze(1).double()
        self.own.index_add_(0, target, of_own_class)
        self.count.index_add_(0, target, torch.ones_like(of_own_class))
        self.total += logits.double().sum(0)

    def compute(self) -> Tensor:
        """Return the scalar."""
        others = self.count.sum() - self.count
        terms = self.own / self.count - (self.total - self.own) / others
        return torch.where((self.count > 0) & (others > 0), terms, 0).mean()
