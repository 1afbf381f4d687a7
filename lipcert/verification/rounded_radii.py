"""The radii that rounding leaves of those of a real-valued network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.errors import InputError
from lipcert.verification.rounding import (
    RoundedChain,
    difference_errors,
    measured_argument_errors,
    measured_difference_errors,
)

_UP = 1 + 2.0**-40  # the few float64 roundings of sums over sizes


def rounded_radii(
    logits: Tensor, pairs: Tensor, chain: RoundedChain, norms: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    r"""Return predicted classes and the radii that hold for the network as it is computed.

    With E the errors of the differences of logits in ``dtype``, and E' those of their evaluation in float64, a radius r
    holds if

    .. math:: f_y(x) - f_j(x) - E'_{yj}(\|x\|) - E_{yj}\big(\min(\sqrt d, \|x\| + r)\big) \ge L_{yj} r.

    The same with errors in terms of the measured norms, each of which changes by at most its Lipschitz constant times
    r. For every pair of classes the larger radius counts.

    Args:
        logits: ``(N, K)``, evaluated in float64.
        pairs: ``(K, K)`` Lipschitz bounds of the logits' differences.
        chain: the network as it rounds.
        norms: ``(N, 1 + G)`` float64, see :func:`~lipcert.verification.recompute.measured_logits`.
        dtype: the arithmetic of the network.

    Returns:
        ``(N,)`` int64 and float64, to within a few roundings; 0 where nothing is certified.
    """
    if norms.shape[1] != 1 + len(chain.measured):
        raise InputError(f"expected {len(chain.measured)} measured layers, each used once, got {norms.shape[1] - 1}")
    prediction = logits.argmax(1)
    slope, constant, there_slope, there_constant = (
        table[prediction] for kind in (torch.float64, dtype) for table in difference_errors(chain, kind)
    )
    norm = norms[:, :1]
    steepness = pairs[prediction]
    margin = logits.gather(1, prediction[:, None]) - logits - slope * norm - constant
    everywhere = _quotient(margin - there_constant - there_slope * chain.reach, steepness)
    nearby = _quotient(margin - there_constant - there_slope * norm, steepness + there_slope)
    spent, growth = _at_measured(chain, norms, prediction, dtype)
    measured = _quotient(margin - spent, steepness + growth)
    best = torch.maximum(torch.maximum(everywhere, nearby), measured)
    reached = best.scatter(1, prediction[:, None], math.inf).min(1).values
    return prediction, torch.where(logits.isfinite().all(1), reached, 0)


def _at_measured(chain: RoundedChain, norms: Tensor, prediction: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Errors at the inputs in terms of measured norms, and how fast they grow with the distance, both ``(N, K)``."""
    tables = measured_difference_errors(chain, dtype)
    # What is measured was computed in float64, and is off by this.
    off = measured_argument_errors(chain, torch.float64)
    exact = norms[:, 1:] + norms[:, :1] * off[:, 0] + off[:, 1]
    sizes = [norms[:, 0], torch.ones_like(norms[:, 0]), *exact.unbind(1)]
    spent = torch.zeros(len(norms), chain.classes, dtype=torch.float64)
    growth = torch.zeros_like(tables[0])
    for size, steepness, table in zip(sizes, (1.0, 0.0, *chain.measured), tables, strict=True):
        spent += size[:, None] * table[prediction]
        growth += steepness * table
    return spent * _UP, growth[prediction] * _UP


def _quotient(numerator: Tensor, divisor: Tensor) -> Tensor:
    return torch.where(numerator > 0, numerator / divisor, 0)
