"""Whether a report's certificates stand: every check, one finding each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.runs import load_run
from lipcert.verification.certificates import certificate_findings
from lipcert.verification.document import Row, read_report, read_rows, report_file, schema_errors
from lipcert.verification.figures import figure_errors, violation_errors
from lipcert.verification.finding import Finding, finding_of

SPLITS = ("train", "val", "test")
NO_RULE = "none"
"""The margin rule of a report about a network without certificates."""


def verify_report(report: str | Path, run: str | Path | None = None) -> tuple[Finding, ...]:
    r"""Recompute a report's certificates from weights and data, by other means than the audit did.

    The dense float64 matrix of every linear stretch of the network is built and bounded, that of a patch where a
    convolution's windows do not overlap; with the constants of the nonlinear layers that gives :math:`L_{ij}` for all
    differences of logits, and with float64 logits the radii of the real-valued network. For radii of ``"float32"`` and
    ``"float64"`` arithmetic the rounding errors of the network as it executes are derived again, from matrices of
    absolute weights, in exact rationals, and from how large the arguments of linear and convolution layers are in the
    float64 evaluation, which gives the radii that hold for it. A reported radius stands if

    .. math:: r \le r_\text{recomputed} + 10^{-6} \, r_\text{real}.

    Both sides come from proved bounds, each up to 1e-6 above the exact norm, so either may be the larger one by that
    much although both are sound; what is altered by less is not noticed, and that includes all of the rounding of
    ``"float64"``. The attacks are not repeated; empirical accuracies depend on which samples were attacked, which no
    file says.

    Args:
        report: ``report.json`` or its folder, with ``samples.csv`` beside it.
        run: run directory; by default the parent of the report's folder.

    Returns:
        One finding a check, in the order in which they were made; without the later ones where the files cannot be
        compared at all. Where the network is not a chain of layers known here, or too large for dense matrices, the
        findings say so: they neither stand nor are they wrong.

    Raises:
        InputError: a missing or unreadable file, or a report without certificates.
    """
    return tuple(findings(report, run))


def findings(report: str | Path, run: str | Path | None = None) -> Iterator[Finding]:
    """Yield the findings of :func:`verify_report` one by one."""
    path = report_file(Path(report))
    document = read_report(path)
    finding = finding_of("schema", schema_errors(document), "report.json is what lipcert/report/2 says")
    yield finding
    if not finding.stands:
        return
    if document["certificates"]["rule"] == NO_RULE:
        raise InputError(f"expected certificates to re-check in {path}, got an empirical audit, which has none")
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
    finding = finding_of("rows", errors, f"samples.csv has one row for each of {len(rows):,} images")
    yield finding
    if not finding.stands:
        return
    yield finding_of("labels", _label_errors(rows, images), "all labels are those of the data")
    yield finding_of("figures", figure_errors(document, rows), "accuracies, ACR and ratios follow from the rows")
    yield finding_of("violations", violation_errors(document, rows), "violations and verdict follow from the rows")
    yield from certificate_findings(document, rows, loaded.network, images.inputs())


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
