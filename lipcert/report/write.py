"""A report's files, each written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as safetensors_bytes

from lipcert.errors import InputError
from lipcert.files import write_atomically
from lipcert.harness.result import AuditResult, GalleryItem, SampleRow
from lipcert.report.document import report_document
from lipcert.report.numbers import Numbers
from lipcert.report.page import render_html

COLUMNS = ("index", "label", "prediction", "radius", "distance", "attack", "ratio", "adversarial_prediction")
ROWS, ADVERSARIAL = "samples.csv", "adversarial.safetensors"


def write_report(result: AuditResult, directory: Path, numbers: Numbers | None = None) -> Path:
    """Write ``report.json``, ``samples.csv``, ``report.html`` and the gallery's inputs as ``adversarial.safetensors``.

    Everything is rendered before the first file is touched, and each file replaces its predecessor in one step, so an
    error leaves no half-written file. Without gallery items an older ``adversarial.safetensors`` is removed.

    Args:
        result: what the audit measured; at least one row.
        directory: where the files go; made if missing.
        numbers: of all samples, where the result holds only some of their rows; then no ``samples.csv`` is written, and
            an older one is removed.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: if there are no rows.
        OSError: if a file cannot be written.

    Example:
        >>> import tempfile
        >>> result = AuditResult(
        ...     created="2025-01-31", command="python -m lipcert.audit runs/a", model_name="a", model_sha256="0" * 64,
        ...     model_parameters=7, data_name="toy", data_split="test", data_sha256="1" * 64,
        ...     class_names=("cat", "dog"), environment={}, lipschitz_upper_bound=1.0, layers=(), norm="l2",
        ...     rule="best", arithmetic="real", assumptions=(), epsilons=(0.25,), rows=(SampleRow(0, 1, 1, 0.5),),
        ...     attacks=(), gallery=(), warnings=())
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     page = write_report(result, Path(directory))
        ...     sorted(path.name for path in page.parent.iterdir())
        ['report.html', 'report.json', 'samples.csv']
    """
    if not result.rows:
        raise InputError("expected an audit of at least one sample, got 0")
    document = json.dumps(report_document(result, numbers), indent=2, allow_nan=False) + "\n"
    contents = {"report.json": document.encode("ascii"), "report.html": _encoded(render_html(result, numbers))}
    if numbers is None:
        contents[ROWS] = _encoded(samples_table(result.rows))
    if result.gallery:
        contents[ADVERSARIAL] = adversarial_tensors(result.gallery)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(directory / name, content)
    for name in {ROWS, ADVERSARIAL} - set(contents):
        (directory / name).unlink(missing_ok=True)
    return directory / "report.html"


def samples_table(rows: Sequence[SampleRow]) -> str:
    """One CSV line a test sample, with every digit of every number; empty where there is no distance.

    Example:
        >>> print(samples_table([SampleRow(0, 3, 3, 0.1, 0.25, "walk", True, adversarial_prediction=7)]), end="")
        index,label,prediction,radius,distance,attack,ratio,adversarial_prediction
        0,3,3,0.1,0.25,walk,2.5,7
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        numbers = (int(row.index), int(row.label), int(row.prediction))
        found = (_digits(row.radius), _digits(row.distance), row.attack or "", _digits(row.ratio))
        became = "" if row.adversarial_prediction is None else int(row.adversarial_prediction)
        writer.writerow((*numbers, *found, became))
    return buffer.getvalue()


def adversarial_tensors(gallery: Sequence[GalleryItem]) -> bytes:
    """The gallery as safetensors: ``index (G,)`` int64, ``inputs`` and ``adversarial (G, C, H, W)`` float32."""
    return safetensors_bytes(
        {
            "index": np.array([item.index for item in gallery], dtype=np.int64),
            "inputs": _float_images([item.image for item in gallery]),
            "adversarial": _float_images([item.adversarial for item in gallery]),
        }
    )


def _float_images(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.stack(images), dtype=np.float32)


def _digits(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _encoded(text: str) -> bytes:
    # a path that is not UTF-8 reaches us as lone surrogates: shown escaped rather than fatal
    return text.encode("utf-8", errors="backslashreplace")
