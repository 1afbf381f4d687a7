"""Whether bound, predictions and radii of a report are what its network gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError
from lipcert.verification.document import Row
from lipcert.verification.finding import Errors, Finding
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
from lipcert.verification.rounding import RoundedChain

TOLERANCE = 1e-6
PROBES = 8
ARITHMETICS = {"real": None, "float64": torch.float64, "float32": torch.float32}


def certificate_findings(
    document: Mapping[str, Any], blocks: Iterator[tuple[Sequence[Row], Tensor]], network: nn.Module
) -> Iterator[Finding]:
    """Yield what is found about a report's bound, predictions and radii.

    Args:
        document: a report that satisfies the schema.
        blocks: all rows with their images ``(N, C, H, W)`` float32, in order; on the first of them matrices and
            network are compared.
        network: plain network in eval mode.

    Raises:
        InputError: certificates of a kind that is not known here.
    """
    certificates = document["certificates"]
    arithmetic = certificates["arithmetic"]
    if certificates["norm"] != "l2" or arithmetic not in ARITHMETICS:
        kinds = ", ".join(ARITHMETICS)
        found = f"{arithmetic} arithmetic in norm {certificates['norm']}"
        raise InputError(f"expected certificates in norm l2 and {kinds} arithmetic, got {found}")
    first = next(blocks)
    probe = first[1][:PROBES]
    bounds: Bounds | None = None
    try:
        bounds = dense_bounds(network, probe)
    except InputError as error:
        yield from (Finding(name, None, str(error)) for name in ("matrices", "bound"))
    else:
        yield _matrices(bounds)
        yield _bound(document["lipschitz"]["upper_bound"], bounds.whole)
    predictions = Errors()
    radii = None if bounds is None else Radii(network, tuple(probe.shape[1:]), bounds, arithmetic)
    for rows, inputs in chain([first], blocks):
        if radii is None:
            logits = float64_logits(network, inputs)
        else:
            logits, norms = measured_logits(network, inputs)
            radii.add(rows, logits, norms)
        executed = logits_of(network, inputs, torch.float32).argmax(1)
        predictions.add(_prediction_errors(rows, logits.argmax(1), executed, arithmetic))
    yield predictions.finding("predictions", "all predictions are the network's")
    if radii is None:
        yield from (Finding(name, None, "none without the matrices") for name in ("rounding", "radii"))
    else:
        yield from radii.findings()


def _matrices(bounds: Bounds) -> Finding:
    text = f"dense matrices and network differ by {bounds.disagreement:.1g}, relatively, on {PROBES} images"
    return Finding("matrices", bounds.disagreement <= TOLERANCE, text)


def _bound(reported: float | None, recomputed: float) -> Finding:
    stands = reported is not None and recomputed <= reported * (1 + TOLERANCE)
    comparison = "is at least" if stands else "is below"
    return Finding("bound", stands, f"the reported Lipschitz bound {reported} {comparison} the recomputed {recomputed}")


def _prediction_errors(rows: Sequence[Row], exact: Tensor, executed: Tensor, arithmetic: str) -> Iterator[str]:
    """Where nothing is certified the class of either arithmetic may stand; elsewhere the report's own counts."""
    counted = executed if ARITHMETICS[arithmetic] is torch.float32 else exact
    columns = zip(rows, exact.tolist(), executed.tolist(), counted.tolist(), strict=True)
    for row, in_float64, in_float32, due in columns:
        allowed = (due,) if row.radius > 0 else (in_float64, in_float32)
        if row.prediction not in allowed:
            yield f"sample {row.index} has prediction {row.prediction}, the network gives {due}"


class Radii:
    """Radii once more, a block of rows at a time.

    Args:
        network: plain network in eval mode.
        input_shape: ``(C, H, W)``.
        bounds: of the network.
        arithmetic: of the report.
    """

    def __init__(self, network: nn.Module, input_shape: Sequence[int], bounds: Bounds, arithmetic: str) -> None:
        self._bounds, self._arithmetic = bounds, arithmetic
        self._chain: RoundedChain | None = None
        self._unknown = ""
        self._errors = Errors()
        self._count, self._largest = 0, 0.0
        self._shares: list[Tensor] = []
        if ARITHMETICS[arithmetic] is not None:
            try:
                self._chain = rounded_chain(network, input_shape, bounds)
            except InputError as error:
                self._unknown = str(error)

    def add(self, rows: Sequence[Row], logits: Tensor, norms: Tensor) -> None:
        """Look at some rows.

        Args:
            rows: N of them.
            logits: ``(N, K)`` float64.
            norms: ``(N, 1 + G)``, see :func:`~lipcert.verification.recompute.measured_logits`.
        """
        prediction, real = recomputed_radii(logits, self._bounds.pairs)
        sound = real
        dtype = ARITHMETICS[self._arithmetic]
        if self._chain is not None and dtype is not None:
            try:
                _, sound = rounded_radii(logits, self._bounds.pairs, self._chain, norms, dtype=dtype)
            except InputError as error:
                self._chain, self._unknown = None, str(error)
        certified = (real > 0) & real.isfinite()
        self._shares.append(((real - sound) / real)[certified])
        reported = torch.tensor([row.radius for row in rows], dtype=torch.float64)
        same = prediction == torch.tensor([row.prediction for row in rows])
        limits = torch.where(same, sound, 0)
        # Where rounding leaves little, bounds that are 1e-6 too large take more than that share of it.
        tolerated = limits + TOLERANCE * torch.where(same & real.isfinite(), real, 0)
        wrong = (reported > tolerated).nonzero().flatten().tolist()
        self._errors.add(
            f"sample {rows[i].index} has radius {rows[i].radius}, at most {float(limits[i])} is recomputed"
            for i in wrong
        )
        self._count += len(rows)
        self._largest = max(
            self._largest, float((reported / limits)[limits > 0].amax()) if bool((limits > 0).any()) else 0.0
        )

    def findings(self) -> Iterator[Finding]:
        """Yield what was found."""
        if self._unknown:
            yield Finding("rounding", None, self._unknown)
        else:
            yield Finding("rounding", True, self._rounding())
        kind = "real ones, and what rounding leaves of these is not known" if self._unknown else "recomputed ones"
        text = f"all {self._count:,} radii ({self._arithmetic}) are at most {self._largest:.9f} times the {kind}"
        found = self._errors.finding("radii", text)
        yield Finding("radii", None, text) if self._unknown and found.stands else found

    def _rounding(self) -> str:
        if ARITHMETICS[self._arithmetic] is None:
            return "not counted, as the report says: its radii are those of the real-valued network"
        shares = torch.cat(self._shares)
        if not len(shares):
            return f"derived for {self._arithmetic}, and nothing is certified"
        share = float(shares.median())
        noticed = "" if share > TOLERANCE else f", less than the {TOLERANCE:g} that is noticed"
        told = f"{self._arithmetic} takes {share:.2g} of a radius (median)"
        return f"{told}, from absolute weights in exact rationals{noticed}"
