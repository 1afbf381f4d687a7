"""Which networks' adversarial examples fool which networks."""

from __future__ import annotations

from torch import Tensor

from lipcert.errors import InputError
from lipcert.metrics.attacked import withstands
from lipcert.metrics.state import SampleMean


def transfer_matrix(preds: Tensor, crafted_preds: Tensor, target: Tensor, *, rejected: int | None = None) -> Tensor:
    """Return the robust accuracy of every network on the examples crafted on every source.

    A row is the network that an attack saw, a column the one that was evaluated. Where both are the same the entry is
    that of a white-box attack. Definitions as for :func:`lipcert.metrics.robust_accuracy`: shares of all samples, right
    before and after, so that entries of one column compare, and no entry is above the clean accuracy of its network.

    Args:
        preds: ``(M, N)`` classes that M networks give the clean images.
        crafted_preds: ``(S, M, N)`` classes that they give the examples of S sources.
        target: ``(N,)`` true classes.
        rejected: the class that stands for rejection.

    Returns:
        ``(S, M)`` shares.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> import torch
        >>> preds = torch.tensor([[0, 0], [0, 1]])
        >>> crafted = torch.tensor([[[1, 1], [0, 1]], [[0, 1], [1, 1]]])
        >>> transfer_matrix(preds, crafted, torch.tensor([0, 0])).tolist()
        [[0.0, 0.5], [0.5, 0.0]]
    """
    return _standing(preds, crafted_preds, target, rejected).float().mean(2)


def _standing(preds: Tensor, crafted_preds: Tensor, target: Tensor, rejected: int | None) -> Tensor:
    """Return which samples stand: ``(S, M, N)`` bool."""
    networks, samples = preds.shape if preds.ndim == 2 else (0, 0)
    if networks == 0 or crafted_preds.ndim != 3 or crafted_preds.shape[1:] != preds.shape or target.shape != (samples,):
        found = f"{tuple(preds.shape)}, {tuple(crafted_preds.shape)} and {tuple(target.shape)}"
        raise InputError(f"expected classes of shapes (M, N), (S, M, N) and (N,), got {found}")
    shape = crafted_preds.shape
    flat = [classes.expand(shape).reshape(-1) for classes in (preds, crafted_preds, target)]
    return withstands(flat[0], flat[1], flat[2], rejected=rejected).view(shape)


class TransferMatrix(SampleMean):
    """Robust accuracy of every network on the examples of every source, see :func:`transfer_matrix`.

    ``update(preds, crafted_preds, target)`` takes ``(M, N)``, ``(S, M, N)`` and ``(N,)`` classes.

    Args:
        sources: S.
        networks: M.
        rejected: the class that stands for rejection.

    Example:
        >>> import torch
        >>> metric = TransferMatrix(1, 2)
        >>> for crafted in ([[[1], [0]]], [[[0], [0]]]):
        ...     metric.update(torch.tensor([[0], [0]]), torch.tensor(crafted), torch.tensor([0]))
        >>> metric.compute().tolist()
        [[0.5, 1.0]]
    """

    def __init__(self, sources: int, networks: int, *, rejected: int | None = None) -> None:
        super().__init__((sources, networks))
        self.rejected = rejected

    def update(self, preds: Tensor, crafted_preds: Tensor, target: Tensor) -> None:
        """Count a batch: classes of clean images, of crafted ones, and the true ones."""
        standing = _standing(preds, crafted_preds, target, self.rejected)
        if standing.shape[:2] != self.total.shape:
            raise InputError(
                f"expected {tuple(self.total.shape)} sources and networks, got {tuple(standing.shape[:2])}"
            )
        self.add(standing.permute(2, 0, 1))
