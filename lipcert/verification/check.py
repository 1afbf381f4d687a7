"""Whether a report's certificates stand: every check, one finding each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.runs import Run, load_run
from lipcert.verification.document import Row, read_report, read_rows, report_file, schema_errors
from lipcert.verification.figures import figure_errors, violation_errors
from lipcert.verification.recompute import Bounds, dense_bounds, float64_logits, logits_of, recomputed_radii

TOLERANCE = 1e-6
PROBES = 8
SHOWN = 3
ARITHMETICS = {"real": None, "float64": torch.float64, "float32": torch.float32}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: what was checked, one word.
        stands: whether it was found as reported.
        text: what was found, one sentence.
    """

    name: str
    stands: bool
    text: str


def verify_report(report: str | Path, run: str | Path | None = None) -> tuple[Finding, ...]:
    r"""Recompute a report's certificates from weights and data, by other means than the audit did.

    The dense float64 matrix of every linear stretch of the network is built and bounded; with the constants of the
    nonlinear layers that gives :math:`L_{ij}` for all differences of logits, and with float64 logits the radii. A
    reported radius stands if

    .. math:: r \le (1 + 10^{-6}) \min_j (f_y - f_j) / L_{yj}.

    Both sides are computed with bounds that are proved upwards, each up to 1e-6 above the exact norm, so either may be
    the larger one by that much although both are sound; what is altered by less is not noticed. Radii of
    ``"float32"`` arithmetic are the real ones less a slack for rounding: that they do not exceed the real ones and that
    the network as it executes gives the reported classes is checked, the slack itself is not derived again. Neither are
    the attacks repeated; empirical accuracies depend on which samples were attacked, which no file says.

    Args:
        report: ``report.json`` or its folder, with ``samples.csv`` beside it.
        run: run directory; by default the parent of the report's folder.

    Returns:
        One finding a check, in the order in which they were made; without the later ones where the files cannot be
        compared at all.

    Raises:
        InputError: a missing or unreadable file, or a network that is not a chain of layers known here, or one that is
            too large for dense matrices.
    """
    return tuple(findings(report, run))


def findings(report: str | Path, run: str | Path | None = None) -> Iterator[Finding]:
    """Yield the findings of :func:`verify_report` one by one."""
    path = report_file(Path(report))
    document = read_report(path)
    finding = _finding("schema", schema_errors(document), "report.json is what lipcert/report/1 says")
    yield finding
    if not finding.stands:
        return
    loaded = load_run(Path(run) if run is not None else path.resolve().parent.parent)
    split = document["data"]["split"]
    if split not in SPLITS:
        raise InputError(f"expected a report about the split {', '.join(SPLITS)}, got {split!r}")
    images = loaded.data.split(split)
    yield _hash("weights", document["model"]["sha256"], loaded.network_sha256, "network.safetensors")
    yield _hash("data", document["data"]["sha256"], images.sha256, f"the {split} split of {loaded.data.name}")
    try:
        rows = read_rows(path.with_name("samples.csv"))
        errors = list(_row_errors(rows, images))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        rows, errors = (), [f"samples.csv, {error}"]
    finding = _finding("rows", errors, f"samples.csv has one row for each of {len(rows):,} images")
    yield finding
    if not finding.stands:
        return
    yield _finding("labels", _label_errors(rows, images), "all labels are those of the data")
    yield _finding("figures", figure_errors(document, rows), "accuracies, ACR and ratios follow from the rows")
    yield _finding("violations", violation_errors(document, rows), "violations and verdict follow from the rows")
    yield from _certificate_findings(document, rows, loaded, images)


def _certificate_findings(
    document: Mapping[str, Any], rows: tuple[Row, ...], run: Run, images: ImageSet
) -> Iterator[Finding]:
    certificates = document["certificates"]
    arithmetic = certificates["arithmetic"]
    if certificates["norm"] != "l2" or arithmetic not in ARITHMETICS:
        kinds = ", ".join(ARITHMETICS)
        found = f"{arithmetic} arithmetic in norm {certificates['norm']}"
        raise InputError(f"expected certificates in norm l2 and {kinds} arithmetic, got {found}")
    inputs = images.inputs()
    bounds = dense_bounds(run.network, inputs[:PROBES])
    yield _matrices(bounds)
    yield _bound(document["lipschitz"]["upper_bound"], bounds.whole)
    exact = float64_logits(run.network, inputs)
    prediction, radii = recomputed_radii(exact, bounds.pairs)
    executed = logits_of(run.network, inputs, torch.float32).argmax(1)
    in_arithmetic = executed if ARITHMETICS[arithmetic] is torch.float32 else prediction
    yield _finding(
        "predictions",
        _prediction_errors(rows, prediction, executed, in_arithmetic),
        "all predictions are the network's",
    )
    yield _radii(rows, prediction, radii, arithmetic)


def _finding(name: str, errors: Iterable[str], otherwise: str) -> Finding:
    found = list(errors)
    more = f"; and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return Finding(name, not found, "; ".join(found[:SHOWN]) + more if found else otherwise)


def _hash(name: str, reported: str, found: str, what: str) -> Finding:
    if reported == found:
        return Finding(name, True, f"SHA-256 of {what} as reported")
    return Finding(name, False, f"SHA-256 of {what} is {found[:12]}..., the report says {reported[:12]}...")


def _row_errors(rows: tuple[Row, ...], images: ImageSet) -> Iterator[str]:
    if len(rows) != len(images):
        yield f"samples.csv has {len(rows):,} rows, the data {len(images):,} images"
    misplaced = [place for place, row in enumerate(rows) if row.index != place]
    if misplaced:
        yield f"row {misplaced[0]} of samples.csv has index {rows[misplaced[0]].index}"


def _label_errors(rows: tuple[Row, ...], images: ImageSet) -> Iterator[str]:
    for row, label in zip(rows, images.labels.tolist(), strict=True):
        if row.label != label:
            yield f"sample {row.index} has label {row.label}, the data say {label}"


def _matrices(bounds: Bounds) -> Finding:
    text = f"dense matrices and network differ by {bounds.disagreement:.1g}, relatively, on {PROBES} images"
    return Finding("matrices", bounds.disagreement <= TOLERANCE, text)


def _bound(reported: float | None, recomputed: float) -> Finding:
    stands = reported is not None and recomputed <= reported * (1 + TOLERANCE)
    comparison = "is at least" if stands else "is below"
    return Finding("bound", stands, f"the reported Lipschitz bound {reported} {comparison} the recomputed {recomputed}")


def _prediction_errors(rows: tuple[Row, ...], exact: Tensor, executed: Tensor, counted: Tensor) -> Iterator[str]:
    """Where nothing is certified the class of either arithmetic may stand; elsewhere the report's own counts."""
    columns = zip(rows, exact.tolist(), executed.tolist(), counted.tolist(), strict=True)
    for row, in_float64, in_float32, due in columns:
        allowed = (due,) if row.radius > 0 else (in_float64, in_float32)
        if row.prediction not in allowed:
            yield f"sample {row.index} has prediction {row.prediction}, the network gives {due}"


def _radii(rows: tuple[Row, ...], prediction: Tensor, recomputed: Tensor, arithmetic: str) -> Finding:
    reported = torch.tensor([row.radius for row in rows], dtype=torch.float64)
    same = prediction == torch.tensor([row.prediction for row in rows])
    limits = torch.where(same, recomputed, 0)
    wrong = (reported > limits * (1 + TOLERANCE)).nonzero().flatten().tolist()
    errors = [f"sample {i} has radius {rows[i].radius}, at most {float(limits[i])} is recomputed" for i in wrong]
    largest = float((reported / limits)[limits > 0].max()) if bool((limits > 0).any()) else 0.0
    text = f"all {len(rows):,} radii ({arithmetic}) are at most {largest:.9f} times the recomputed real ones"
    return _finding("radii", errors, text)
