"""One pass over the inputs: logits, and all that is needed to say how far rounding may have taken them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.certificates.execution import check_execution
from lipcert.certificates.float_error import (
    LogitErrors,
    MeasuredErrors,
    centre_evaluation,
    logit_errors,
    norms_upper_bound,
    rounded_margin_radius,
)
from lipcert.certificates.measured import measured_errors, measuring


@dataclass(frozen=True)
class Executed:
    """Logits of a network as it executes, and bounds of their errors.

    Attributes:
        logits: ``(N, K)`` float64, enclosing the exact ones with the errors of ``centre``.
        errors: of the network itself, anywhere in the box.
        centre: of these logits.
        norms: ``(N,)`` upper bounds of the norms of the inputs.
        measured: errors of the network in terms of the norms of its activations, if they could be measured.
        found: ``(N, G)`` these norms.
    """

    logits: Tensor
    errors: LogitErrors
    centre: LogitErrors
    norms: Tensor
    measured: MeasuredErrors | None
    found: Tensor | None

    def radii(self, pair_upper_bounds: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions and radii ``(N,)``, see :func:`~lipcert.certificates.rounded_margin_radius`."""
        return rounded_margin_radius(
            self.logits,
            pair_upper_bounds,
            self.errors,
            self.norms,
            centre=self.centre,
            measured=self.measured,
            found=self.found,
        )


def execute(model: nn.Module, inputs: Tensor, *, batch_size: int = 100) -> Executed:
    """Evaluate a network on inputs, with the rounding errors of its execution bounded.

    Args:
        model: network in eval mode, float32 or float64, with weights that no call moves.
        inputs: ``(N, C, H, W)`` in [0, 1].
        batch_size: inputs evaluated at a time.

    Raises:
        InputError: a layer whose rounding has no known bound, numbers that may overflow, or settings of this process
            that make its arithmetic another one.
    """
    check_execution(model, inputs)
    shape = inputs.shape[1:]
    errors = logit_errors(model, shape)
    network, centre = centre_evaluation(model, inputs, errors)
    measured = measured_errors(model, network, shape, errors, centre)
    network, norms_found = measuring(network)
    with torch.no_grad():
        chunks = [network(chunk.to(centre.dtype)).cpu().double() for chunk in inputs.split(batch_size)]
    found = norms_found() if measured is not None else None
    return Executed(torch.cat(chunks), errors, centre, norms_upper_bound(inputs), measured, found)
