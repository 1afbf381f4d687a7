"""What every loss checks about its parameters and its inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.errors import InputError


def positive(name: str, value: float) -> float:
    """Return ``value`` if it is finite and above 0."""
    if not 0 < value < math.inf:
        raise InputError(f"expected {name} > 0, got {value}")
    return value


def not_negative(name: str, value: float) -> float:
    """Return ``value`` if it is finite and at least 0."""
    if not 0 <= value < math.inf:
        raise InputError(f"expected {name} >= 0, got {value}")
    return value


def share(name: str, value: float) -> float:
    """Return ``value`` if it is between 0 and 1."""
    if not 0 <= value <= 1:
        raise InputError(f"expected {name} between 0 and 1, got {value}")
    return value


def logits_and_classes(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits in at least float32 and targets as classes.

    Args:
        logits: ``(N, K)``, K at least 2.
        targets: classes ``(N,)`` int64, or ``(N, K)`` with the largest entry of a row at its class.

    Raises:
        InputError: shapes that do not fit.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InputError(f"expected logits of shape (N, K) with at least 2 classes, got {tuple(logits.shape)}")
    if targets.shape not in (logits.shape, logits.shape[:1]):
        raise InputError(
            f"expected targets of shape {tuple(logits.shape[:1])} or {tuple(logits.shape)}, got {tuple(targets.shape)}"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, targets if targets.ndim == 1 else targets.argmax(1)
