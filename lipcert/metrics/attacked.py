"""Metrics of classifiers under attack: accuracies, and how far successful examples had to go."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lipcert.errors import InputError
from lipcert.metrics.state import SampleMean


def clean_accuracy(preds: Tensor, target: Tensor) -> Tensor:
    r"""Return the share of all samples that are classified right.

    .. math:: \frac{1}{N} \sum_i [\hat{y}_i = y_i]

    A classifier that may reject gives rejected inputs a class of their own, K. No label is K, so that a clean input
    that is rejected counts as wrong.

    Args:
        preds: ``(N,)`` predicted classes.
        target: ``(N,)`` true classes.

    Returns:
        A scalar in [0, 1]; not a number without samples.

    Raises:
        InputError: not one class a sample.

    Example:
        >>> clean_accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0]))
        tensor(0.7500)
    """
    check_classes(preds=preds, target=target)
    return (preds == target).float().mean()


def withstands(preds: Tensor, adversarial_preds: Tensor, target: Tensor, *, rejected: int | None = None) -> Tensor:
    r"""Return which samples are classified right and stay so under attack, or have the attack rejected.

    .. math:: \hat{y}_i = y_i \wedge (\hat{y}'_i = y_i \vee \hat{y}'_i = \text{rejected})

    Of a sample that is wrong before the attack nothing is left to defend, whatever becomes of the attacked image: an
    adversary may hand in the image as it is.

    Args:
        preds: ``(N,)`` predicted classes of the clean images.
        adversarial_preds: ``(N,)`` predicted classes of the attacked images.
        target: ``(N,)`` true classes.
        rejected: the class that stands for rejection, K for K classes; None: nothing is rejected.

    Returns:
        ``(N,)`` bool.

    Raises:
        InputError: not one class a sample.

    Example:
        >>> preds, adversarial = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 2])
        >>> withstands(preds, adversarial, torch.zeros(4, dtype=torch.int64)).tolist()
        [True, False, False, False]
        >>> withstands(preds, torch.tensor([0, 2, 2, 2]), torch.zeros(4, dtype=torch.int64), rejected=2).tolist()
        [True, True, False, False]
    """
    check_classes(preds=preds, adversarial_preds=adversarial_preds, target=target)
    harmless = adversarial_preds == target
    if rejected is not None:
        harmless = harmless | (adversarial_preds == rejected)
    return (preds == target) & harmless


def robust_accuracy(preds: Tensor, adversarial_preds: Tensor, target: Tensor, *, rejected: int | None = None) -> Tensor:
    """Return the share of *all* samples that withstand an attack, see :func:`withstands`.

    It is never above the clean accuracy, and an upper bound of what a stronger attack would leave.

    Args:
        preds: see :func:`withstands`, as for what follows.
        adversarial_preds: ``(N,)``.
        target: ``(N,)``.
        rejected: the class that stands for rejection.

    Returns:
        A scalar in [0, 1]; not a number without samples.

    Raises:
        InputError: not one class a sample.

    Example:
        >>> robust_accuracy(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 0, 0]), torch.zeros(4, dtype=torch.int64))
        tensor(0.5000)
    """
    return withstands(preds, adversarial_preds, target, rejected=rejected).float().mean()


def adversarial_accuracy(
    preds: Tensor, adversarial_preds: Tensor, target: Tensor, *, rejected: int | None = None
) -> Tensor:
    """Return the share of the samples *that were classified right before* that withstand an attack.

    It is robust over clean accuracy; 1 minus it is the attack's success rate. It says nothing of the samples that were
    wrong to begin with: a classifier that is right once and stays so has 1.

    Args:
        preds: see :func:`withstands`, as for what follows.
        adversarial_preds: ``(N,)``.
        target: ``(N,)``.
        rejected: the class that stands for rejection.

    Returns:
        A scalar in [0, 1]; not a number if none was right before.

    Raises:
        InputError: not one class a sample.

    Example:
        >>> zeros = torch.zeros(4, dtype=torch.int64)
        >>> adversarial_accuracy(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 0, 0]), zeros)
        tensor(0.6667)
    """
    stands = withstands(preds, adversarial_preds, target, rejected=rejected)
    return stands.float().sum() / (preds == target).sum()


def successful(preds: Tensor, adversarial_preds: Tensor, target: Tensor, *, rejected: int | None = None) -> Tensor:
    """Return on which samples ``(N,)`` an attack succeeded: right before it, and not withstanding it.

    Args:
        preds: see :func:`withstands`, as for what follows.
        adversarial_preds: ``(N,)``.
        target: ``(N,)``.
        rejected: the class that stands for rejection.

    Example:
        >>> successful(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0, 0])).tolist()
        [True, False]
    """
    return (preds == target) & ~withstands(preds, adversarial_preds, target, rejected=rejected)


def mean_perturbation(distance: Tensor, success: Tensor) -> Tensor:
    """Return the mean distance of the successful examples only.

    A mean over all attacked images would count the images on which an attack gave up as near or as far as it pleases.

    Args:
        distance: ``(N,)`` floats, between each image and what became of it, in any norm.
        success: ``(N,)`` bool, see :func:`successful`.

    Returns:
        A scalar in the units of ``distance``; not a number without success.

    Raises:
        InputError: other shapes or types.

    Example:
        >>> mean_perturbation(torch.tensor([0.25, 0.75, 9.0]), torch.tensor([True, True, False]))
        tensor(0.5000)
    """
    return _chosen(distance, success).mean()


def median_perturbation(distance: Tensor, success: Tensor) -> Tensor:
    """Return the median distance of the successful examples only, the mean of the middle two of an even number.

    Args:
        distance: ``(N,)`` floats, see :func:`mean_perturbation`.
        success: ``(N,)`` bool.

    Returns:
        A scalar in the units of ``distance``; not a number without success.

    Raises:
        InputError: other shapes or types.

    Example:
        >>> median_perturbation(torch.tensor([0.25, 1.0, 0.5, 9.0]), torch.tensor([True, True, True, False]))
        tensor(0.5000)
    """
    return _median(_chosen(distance, success))


def check_classes(**classes: Tensor) -> None:
    """Refuse what is not one class a sample for equally many samples; one-hot rows and logits are none.

    Raises:
        InputError: names the argument.

    Example:
        >>> check_classes(preds=torch.zeros(2, dtype=torch.int64), target=torch.zeros(2, 10))
        Traceback (most recent call last):
        lipcert.errors.InputError: expected integer target of shape (2,), one class a sample, got torch.float32 (2, 10)
    """
    samples = len(next(iter(classes.values())))
    for name, values in classes.items():
        if values.is_floating_point() or values.dtype == torch.bool or values.shape != (samples,):
            found = f"{values.dtype} {tuple(values.shape)}"
            raise InputError(f"expected integer {name} of shape ({samples},), one class a sample, got {found}")


def _chosen(distance: Tensor, success: Tensor) -> Tensor:
    if success.dtype != torch.bool or success.ndim != 1 or distance.shape != success.shape:
        found = f"{tuple(distance.shape)} and {success.dtype} {tuple(success.shape)}"
        raise InputError(f"expected distances and bool successes, both of shape (N,), got {found}")
    return distance[success]


def _median(values: Tensor) -> Tensor:
    return values.quantile(0.5) if len(values) else values.new_full((), torch.nan)


class CleanAccuracy(SampleMean):
    """Clean accuracy, see :func:`clean_accuracy`; ``update(preds, target)`` takes ``(N,)`` classes.

    Example:
        >>> metric = CleanAccuracy()
        >>> metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.5
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch: predicted and true classes."""
        check_classes(preds=preds, target=target)
        self.add(preds == target)


class RobustAccuracy(SampleMean):
    """Robust accuracy, of all samples, see :func:`robust_accuracy`.

    ``update(preds, adversarial_preds, target)`` takes ``(N,)`` classes.

    Args:
        rejected: the class that stands for rejection.

    Example:
        >>> metric = RobustAccuracy()
        >>> metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0, 0]))
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.25
    """

    def __init__(self, *, rejected: int | None = None) -> None:
        super().__init__()
        self.rejected = rejected

    def update(self, preds: Tensor, adversarial_preds: Tensor, target: Tensor) -> None:
        """Count a batch: classes of clean images, of attacked images, and the true ones."""
        self.add(withstands(preds, adversarial_preds, target, rejected=self.rejected))


class AdversarialAccuracy(RobustAccuracy):
    """Adversarial accuracy, of the samples that were right before, see :func:`adversarial_accuracy`.

    ``update(preds, adversarial_preds, target)`` takes ``(N,)`` classes.

    Args:
        rejected: the class that stands for rejection.

    Example:
        >>> metric = AdversarialAccuracy()
        >>> metric.update(torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]))
        >>> metric.compute().item()
        0.5
    """

    def update(self, preds: Tensor, adversarial_preds: Tensor, target: Tensor) -> None:
        """Count a batch: classes of clean images, of attacked images, and the true ones."""
        self.total += withstands(preds, adversarial_preds, target, rejected=self.rejected).sum()
        self.count += (preds == target).sum()


class SuccessfulPerturbation(Metric):
    """Mean and median distance of the successful examples, see :func:`mean_perturbation`.

    ``update(distance, preds, adversarial_preds, target)`` takes ``(N,)`` tensors; ``compute()`` returns a dictionary
    with ``mean`` and ``median``. A median needs every value, so they are all kept.

    Args:
        rejected: the class that stands for rejection.

    Example:
        >>> metric = SuccessfulPerturbation()
        >>> zeros = torch.zeros(3, dtype=torch.int64)
        >>> metric.update(torch.tensor([0.25, 0.75, 9.0]), zeros, torch.tensor([1, 1, 0]), zeros)
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'mean': 0.5, 'median': 0.5}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    distances: list[Tensor] | Tensor

    def __init__(self, *, rejected: int | None = None) -> None:
        super().__init__()
        self.rejected = rejected
        self.add_state("distances", [], dist_reduce_fx="cat")

    def update(self, distance: Tensor, preds: Tensor, adversarial_preds: Tensor, target: Tensor) -> None:
        """Count a batch: distances, classes of clean images, of attacked images, and the true ones."""
        success = successful(preds, adversarial_preds, target, rejected=self.rejected)
        assert isinstance(self.distances, list)
        self.distances.append(_chosen(distance, success).double())

    def compute(self) -> dict[str, Tensor]:
        """Return mean and median; not a number without success."""
        known = self.distances if isinstance(self.distances, Tensor) else [torch.zeros(0).double(), *self.distances]
        values = dim_zero_cat(known)
        return {"mean": values.mean(), "median": _median(values)}
