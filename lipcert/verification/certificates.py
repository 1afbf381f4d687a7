"""Whether bound, predictions and radii of a report are what its network gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError
from lipcert.verification.document import Row
from lipcert.verification.finding import Finding, finding_of
from lipcert.verification.recompute import (
    Bounds,
    dense_bounds,
    float64_logits,
    logits_of,
    measured_logits,
    recomputed_radii,
)
from lipcert.verification.rounded_layers import rounded_chain
from lipcert.verification.rounded_radii import rounded_radii

TOLERANCE = 1e-6
PROBES = 8
ARITHMETICS = {"real": None, "float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Recomputed:
    """Radii once more.

    Attributes:
        prediction: ``(N,)`` classes of the network in float64.
        real: ``(N,)`` radii of the real-valued network.
        executed: ``(N,)`` radii of the network as it executes in the report's arithmetic; None where they are unknown.
    """

    prediction: Tensor
    real: Tensor
    executed: Tensor | None


def certificate_findings(
    document: Mapping[str, Any], rows: Sequence[Row], network: nn.Module, inputs: Tensor
) -> Iterator[Finding]:
    """Yield what is found about a report's bound, predictions and radii.

    Args:
        document: a report that satisfies the schema.
        rows: the lines of ``samples.csv``, one an input.
        network: plain network in eval mode.
        inputs: ``(N, C, H, W)`` float32.

    Raises:
        InputError: certificates of a kind that is not known here.
    """
    certificates = document["certificates"]
    arithmetic = certificates["arithmetic"]
    if certificates["norm"] != "l2" or arithmetic not in ARITHMETICS:
        kinds = ", ".join(ARITHMETICS)
        found = f"{arithmetic} arithmetic in norm {certificates['norm']}"
        raise InputError(f"expected certificates in norm l2 and {kinds} arithmetic, got {found}")
    bounds: Bounds | None = None
    try:
        bounds = dense_bounds(network, inputs[:PROBES])
    except InputError as error:
        yield from (Finding(name, None, str(error)) for name in ("matrices", "bound"))
    else:
        yield _matrices(bounds)
        yield _bound(document["lipschitz"]["upper_bound"], bounds.whole)
    norms: Tensor | None = None
    if bounds is None:
        logits = float64_logits(network, inputs)
    else:
        logits, norms = measured_logits(network, inputs)
    yield _predictions(rows, logits.argmax(1), logits_of(network, inputs, torch.float32).argmax(1), arithmetic)
    if bounds is None or norms is None:
        yield from (Finding(name, None, "none without the matrices") for name in ("rounding", "radii"))
        return
    rounding, recomputed = _recomputed(network, inputs.shape[1:], logits, norms, bounds=bounds, arithmetic=arithmetic)
    yield rounding
    yield _radii(rows, recomputed, arithmetic)


def _matrices(bounds: Bounds) -> Finding:
    text = f"dense matrices and network differ by {bounds.disagreement:.1g}, relatively, on {PROBES} images"
    return Finding("matrices", bounds.disagreement <= TOLERANCE, text)


def _bound(reported: float | None, recomputed: float) -> Finding:
    stands = reported is not None and recomputed <= reported * (1 + TOLERANCE)
    comparison = "is at least" if stands else "is below"
    return Finding("bound", stands, f"the reported Lipschitz bound {reported} {comparison} the recomputed {recomputed}")


def _predictions(rows: Sequence[Row], exact: Tensor, executed: Tensor, arithmetic: str) -> Finding:
    counted = executed if ARITHMETICS[arithmetic] is torch.float32 else exact
    errors = _prediction_errors(rows, exact, executed, counted)
    return finding_of("predictions", errors, "all predictions are the network's")


def _prediction_errors(rows: Sequence[Row], exact: Tensor, executed: Tensor, counted: Tensor) -> Iterator[str]:
    """Where nothing is certified the class of either arithmetic may stand; elsewhere the report's own counts."""
    columns = zip(rows, exact.tolist(), executed.tolist(), counted.tolist(), strict=True)
    for row, in_float64, in_float32, due in columns:
        allowed = (due,) if row.radius > 0 else (in_float64, in_float32)
        if row.prediction not in allowed:
            yield f"sample {row.index} has prediction {row.prediction}, the network gives {due}"


def _recomputed(
    network: nn.Module, shape: Sequence[int], logits: Tensor, norms: Tensor, *, bounds: Bounds, arithmetic: str
) -> tuple[Finding, Recomputed]:
    prediction, real = recomputed_radii(logits, bounds.pairs)
    dtype = ARITHMETICS[arithmetic]
    if dtype is None:
        text = "not counted, as the report says: its radii are those of the real-valued network"
        return Finding("rounding", True, text), Recomputed(prediction, real, real)
    try:
        chain = rounded_chain(network, shape, bounds)
        _, executed = rounded_radii(logits, bounds.pairs, chain, norms, dtype=dtype)
    except InputError as error:
        return Finding("rounding", None, str(error)), Recomputed(prediction, real, None)
    return Finding("rounding", True, _rounding(real, executed, arithmetic)), Recomputed(prediction, real, executed)


def _rounding(real: Tensor, executed: Tensor, arithmetic: str) -> str:
    certified = (real > 0) & real.isfinite()
    if not bool(certified.any()):
        return f"derived for {arithmetic}, and nothing is certified"
    share = float(((real - executed) / real)[certified].median())
    noticed = "" if share > TOLERANCE else f", less than the {TOLERANCE:g} that is noticed"
    return f"{arithmetic} takes {share:.2g} of a radius (median), from absolute weights in exact rationals{noticed}"


def _radii(rows: Sequence[Row], recomputed: Recomputed, arithmetic: str) -> Finding:
    known = recomputed.executed is not None
    sound = recomputed.real if recomputed.executed is None else recomputed.executed
    reported = torch.tensor([row.radius for row in rows], dtype=torch.float64)
    same = recomputed.prediction == torch.tensor([row.prediction for row in rows])
    limits = torch.where(same, sound, 0)
    # Where rounding leaves little, bounds that are 1e-6 too large take more than that share of it.
    tolerated = limits + TOLERANCE * torch.where(same & recomputed.real.isfinite(), recomputed.real, 0)
    wrong = (reported > tolerated).nonzero().flatten().tolist()
    errors = [f"sample {i} has radius {rows[i].radius}, at most {float(limits[i])} is recomputed" for i in wrong]
    largest = float((reported / limits)[limits > 0].max()) if bool((limits > 0).any()) else 0.0
    kind = "recomputed ones" if known else "real ones, and what rounding leaves of these is not known"
    text = f"all {len(rows):,} radii ({arithmetic}) are at most {largest:.9f} times the {kind}"
    return finding_of("radii", errors, text) if known or errors else Finding("radii", None, text)
