"""Whether a report's certificates stand: every check, one finding each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.data import ImageSet, ImageSource
from lipcert.data.image_set import sha256_of
from lipcert.errors import InputError
from lipcert.runs import load_run
from lipcert.verification.certificates import certificate_findings
from lipcert.verification.document import Row, read_report, report_file, schema_errors
from lipcert.verification.elections import vote_findings
from lipcert.verification.examples import read_examples
from lipcert.verification.figures import GRIDS, Figures, Violations
from lipcert.verification.finding import Errors, Finding, finding_of
from lipcert.verification.rows import ReportRows, rows_beside

SPLITS = ("train", "val", "test")
NO_RULE = "none"
"""The margin rule of a report about a network without certificates."""
IMAGES_AT_ONCE = 1000


def verify_report(report: str | Path, run: str | Path | None = None) -> tuple[Finding, ...]:
    r"""Recompute a report's certificates from weights and data, by other means than the audit did.

    **L2.** The dense float64 matrix of every linear stretch of the network is built and bounded, that of a patch where
    a convolution's windows do not overlap; with the constants of the nonlinear layers that gives :math:`L_{ij}` for all
    differences of logits, and with float64 logits the radii of the real-valued network. For radii of ``"float32"`` and
    ``"float64"`` arithmetic the rounding errors of the network as it executes are derived again, from matrices of
    absolute weights, in exact rationals, and from how large the arguments of linear and convolution layers are in the
    float64 evaluation, which gives the radii that hold for it. A reported radius stands if

    .. math:: r \le r_\text{recomputed} + 10^{-6} \, r_\text{real}.

    Both sides come from proved bounds, each up to 1e-6 above the exact norm, so either may be the larger one by that
    much although both are sound; what is altered by less is not noticed, and that includes all of the rounding of
    ``"float64"``.

    **Votes.** The windows or splits of all views are made again from the settings of the network, every view is passed
    by itself, and the election is counted again in whole numbers: against patches at each of their places, from the
    pixels that each view retains, and in L1 with one view a grey level. A side or radius stands if the predicted class
    is elected whatever the views that it allows for vote. What hangs on a view whose classes float32 cannot tell apart
    neither stands nor is it wrong. Adversarial examples that are kept are measured and elected again.

    The attacks are not repeated; empirical accuracies depend on which samples were attacked, which no file says. The
    rows of an audit in shards are read, and their images, a shard at a time; of each image some 24 bytes are kept.

    Args:
        report: ``report.json`` or its folder, with ``samples.csv`` or the shards in ``samples`` beside it.
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
    rows = rows_beside(path)
    images = loaded.data.source(split) if rows.in_shards else loaded.data.split(split)
    yield _hash("weights", document["model"]["sha256"], loaded.network_sha256, "network.safetensors")
    sha256, labels = _checksum_and_labels(images)
    yield _hash("data", document["data"]["sha256"], sha256, f"the {split} split of {loaded.data.name}")
    checks = list(_row_findings(document, rows, labels))
    yield from checks
    if checks[0].stands:
        yield from _certificate_findings(document, _with_images(rows, images), loaded.network, path)


def _certificate_findings(
    document: Mapping[str, Any], blocks: Iterator[tuple[Sequence[Row], Tensor]], network: nn.Module, path: Path
) -> Iterator[Finding]:
    if document["certificates"]["norm"] in GRIDS:
        return vote_findings(document, blocks, network, read_examples(path.parent))
    return certificate_findings(document, blocks, network)


def _checksum_and_labels(images: ImageSource) -> tuple[str, Tensor]:
    """Return the checksum of a split and the labels ``(N,)`` of its images, which are read some at a time."""
    labels: list[Tensor] = []

    def blocks() -> Iterator[ImageSet]:
        for begin in range(0, len(images), IMAGES_AT_ONCE):
            block = images.block(begin, min(begin + IMAGES_AT_ONCE, len(images)))
            labels.append(block.labels)
            yield block

    shape = (len(images), *images.block(0, 1).images.shape[1:])
    return sha256_of(shape, blocks(), (part.numpy() for part in labels)), torch.cat(labels)


def _with_images(rows: ReportRows, images: ImageSource) -> Iterator[tuple[tuple[Row, ...], Tensor]]:
    begin = 0
    for block in rows.blocks():
        yield block, images.block(begin, begin + len(block)).inputs()
        begin += len(block)


def _row_findings(document: Mapping[str, Any], rows: ReportRows, labels: Tensor) -> Iterator[Finding]:
    """Yield what is found without the network: whether there is a row for every image, and what follows from rows."""
    misplaced, mislabelled = Errors(), Errors()
    figures, violations = Figures(document), Violations(document, in_shards=rows.in_shards)
    count = 0
    try:
        for block in rows.blocks():
            places = range(count, count + len(block))
            misplaced.add(
                f"row {place} of {rows.name} has index {row.index}"
                for place, row in zip(places, block, strict=True)
                if row.index != place
            )
            mislabelled.add(_label_errors(block, labels[count : count + len(block)]))
            figures.add(block)
            violations.add(block)
            count += len(block)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        misplaced.add([f"{rows.name}, {error}"])
    else:
        if count != len(labels):
            misplaced.add([f"{rows.name} has {count:,} rows, the data {len(labels):,} images"])
    finding = misplaced.finding("rows", f"{rows.name} has one row for each of {count:,} images")
    yield finding
    if finding.stands:
        yield mislabelled.finding("labels", "all labels are those of the data")
        yield finding_of("figures", figures.errors(), "accuracies, ACR and ratios follow from the rows")
        yield finding_of("violations", violations.errors(), "violations and verdict follow from the rows")


def _hash(name: str, reported: str, found: str, what: str) -> Finding:
    if reported == found:
        return Finding(name, True, f"SHA-256 of {what} as reported")
    return Finding(name, False, f"SHA-256 of {what} is {found[:12]}..., the report says {reported[:12]}...")


def _label_errors(rows: Sequence[Row], labels: Tensor) -> Iterator[str]:
    for row, label in zip(rows, labels.tolist(), strict=False):
        if row.label != label:
            yield f"sample {row.index} has label {row.label}, the data say {label}"
