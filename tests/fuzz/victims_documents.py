"""Readers of text: configurations, reports, rows, journals, arguments."""

import functools
import json
import random
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from guard import Victim, own_folder
from mutations import confused, damaged, json_text, yaml_text

from lipcert.compare import read_audits
from lipcert.data import ImageData
from lipcert.deployment import export, save_network
from lipcert.errors import InputError
from lipcert.harness.foreign import parsed_arguments
from lipcert.harness.journal import EXAMPLES, ROWS, Journal
from lipcert.harness.records import ChunkRecord
from lipcert.networks import hkr_convnet
from lipcert.report import write_report
from lipcert.report.comparison import render_comparison
from lipcert.runs import load_run
from lipcert.verification import findings
from lipcert.verification.document import read_rows
from lipcert.verification.finding import Finding

HERE = Path(__file__).parent

# Configurations

_CONFIG = {
    "seed_everything": 0,
    "name": "tiny",
    "model": {"class_path": "lipcert.modules.LipschitzClassifier", "init_args": {"epsilons": [0.1]}},
    "data": {
        "class_path": "lipcert.data.FashionMNISTMini",
        "init_args": {
            **{"batch_size": 100, "eval_batch_size": 1000, "val_size": 500, "seed": None, "root": None},
            "augment": [{"class_path": "lipcert.data.RandomCrop", "init_args": {"padding": 2, "p": 0.5}}],
        },
    },
}


def _make_config(rng: random.Random) -> bytes:
    content = yaml.safe_dump(_CONFIG).encode()
    if rng.random() < 0.4:
        return damaged(rng, content, (content,))
    if rng.random() < 0.7:  # the part that is read most closely
        return yaml_text(rng, _CONFIG)
    return yaml.dump({**_CONFIG, "data": confused(rng, _CONFIG["data"])}).encode("utf-8", errors="surrogatepass")


@functools.cache
def _network() -> bytes:
    with own_folder() as folder:
        arguments: dict[str, Any] = {"input_shape": [1, 28, 28], "num_classes": 10, "channels": [2], "hidden": 2}
        torch.manual_seed(0)
        save_network(export(hkr_convnet(**arguments)), folder / "x", hkr_convnet, **arguments)
        return (folder / "x").read_bytes()


def _read_config(folder: Path, content: bytes) -> ImageData:
    (folder / "config.yaml").write_bytes(content)
    (folder / "network.safetensors").write_bytes(_network())
    with mock.patch("lipcert.runs.load_network", return_value=None):  # which is whole, and takes its time
        return load_run(folder).data


def _config_complaint(content: bytes, found: ImageData) -> str | None:
    sizes = (found.batch_size, found.eval_batch_size)
    if not isinstance(found, ImageData) or not all(type(size) is int and size >= 1 for size in sizes):
        return f"batch sizes {sizes}"
    if type(found.val_size) not in (int, float) or not 0 <= found.val_size < float("inf"):
        return f"val_size {found.val_size!r}"
    if not all(callable(augmentation) for augmentation in found.augment):
        return f"augment {found.augment!r}"
    return None


# Reports


@functools.cache
def _report() -> tuple[dict[str, Any], bytes]:
    from report_cases import refuted_result

    result = replace(refuted_result(), model_name="tiny")
    with own_folder() as folder:
        write_report(result, folder)
        return json.loads((folder / "report.json").read_text()), (folder / "samples.csv").read_bytes()


def _make_report(rng: random.Random) -> bytes:
    document = _report()[0]
    if rng.random() < 0.3:
        content = json.dumps(document).encode()
        return damaged(rng, content, (content,))
    return json_text(rng, document)


def _read_report(folder: Path, content: bytes) -> str:
    for name, text in (("good", json.dumps(_report()[0]).encode()), ("bad", content)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "report.json").write_bytes(text)
    with mock.patch("lipcert.report.comparison.overlay_figure", side_effect=_overlaid):
        return render_comparison(read_audits([folder / "good", folder / "bad"]))


def _overlaid(curves: Any, **_: Any) -> None:
    """What drawing would fail at, without the second that it takes."""
    for curve in curves:
        assert len(np.asarray(curve.across, dtype=float)) == len(np.asarray(curve.shares, dtype=float))


def _report_complaint(content: bytes, found: str) -> str | None:
    document = json.loads(content)
    if document["verdict"] not in ("pass", "fail") or "inf" in repr(list(_numbers(document))):
        return "numbers that are not finite"
    return None if found.count("<script") == 1 else "another script"


def _numbers(document: Any) -> Any:
    if isinstance(document, dict | list):
        for value in document.values() if isinstance(document, dict) else document:
            yield from _numbers(value)
    elif isinstance(document, float):
        yield document


def _make_rows(rng: random.Random) -> bytes:
    content = _report()[1]
    if rng.random() < 0.5:
        return damaged(rng, content, (content,))
    lines = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2))):
        line = rng.choice(lines)
        line[rng.randrange(len(line))] = rng.choice(
            (
                "",
                "-1",
                "1_0",
                " 1",
                "1 ",
                "\u0661",
                "nan",
                "inf",
                "-inf",
                "1e999",
                "0x1",
                "9" * 5000,
                "1.0",
                "\x00",
                '"',
                "-0.0",
            )
        )
    return "\n".join(map(",".join, lines)).encode()


def _read_rows(folder: Path, content: bytes) -> Any:
    (folder / "samples.csv").write_bytes(content)
    return read_rows(folder / "samples.csv")


def _rows_complaint(content: bytes, found: Any) -> str | None:
    lines = content.decode().splitlines()[1:]
    for row, line in zip(found, lines, strict=True):
        numbers = (row.index, row.label, row.prediction, row.radius, row.distance)
        values = (*numbers, row.attack, row.ratio, row.adversarial_prediction)
        if ",".join("" if value is None else str(value) for value in values) != line.replace('"', ""):
            return f"{line!r} as {row}"
        if not all(value is None or np.isfinite(value) for value in (*numbers, row.ratio)):
            return f"{line!r} as {row}"
    return None


@functools.cache
def _audited() -> dict[str, bytes]:
    """A run whose report can be verified: its files by name."""
    from audited_run import make_run

    with own_folder() as folder:
        make_run(folder / "run", input_shape=[1, 28, 28], channels=[2], hidden=2)
        files = ("config.yaml", "network.safetensors", "audit/report.json", "audit/samples.csv")
        return {name: (folder / "run" / name).read_bytes() for name in files}


def _make_verified(rng: random.Random) -> bytes:
    content = _audited()["audit/report.json"]
    return damaged(rng, content, (content,)) if rng.random() < 0.3 else json_text(rng, json.loads(content))


def _read_verified(folder: Path, content: bytes) -> list[Finding]:
    (folder / "audit").mkdir(exist_ok=True)
    for name, good in {**_audited(), "audit/report.json": content}.items():
        (folder / name).write_bytes(good)
    found = []
    for finding in findings(folder / "audit", folder):
        found.append(finding)
        if finding.name == "violations":
            break  # what follows recomputes radii, and reads nothing more
    return found


def _verified_complaint(content: bytes, found: list[Finding]) -> str | None:
    if any(finding.stands is False for finding in found):
        return None
    read = ("verdict", "clean_accuracy", "certificates", "violations", "tightness")
    document, good = json.loads(content), json.loads(_audited()["audit/report.json"])
    changed = [name for name in read if document[name] != good[name] and name != "certificates"]
    return f"{', '.join(changed)} changed, and nothing found" if changed else None


# Journals

_HEADER = {"network": ["tiny", "0" * 64], "seed": 0}
_EXAMPLE = (1, 2, 2)


def _record(number: int) -> ChunkRecord:
    examples = np.full((1, *_EXAMPLE), 0.25, dtype=np.float32)
    lists = ((None, "b"), (2 * number, 2 * number + 1), (0.5, float("inf")), (1, 2), (False, False), (0,))
    return ChunkRecord(0, number, "walk", *lists, examples, 0.5, 3, 2, 1.5)


@functools.cache
def _journal() -> dict[str, bytes]:
    with own_folder() as folder:
        journal = Journal(folder, _HEADER, shape=_EXAMPLE, dtype=np.dtype(np.float32))
        for number in range(3):
            journal.append(_record(number))
        journal.close()
        return {name: (folder / name).read_bytes() for name in (ROWS, EXAMPLES)}


def _make_journal(rng: random.Random) -> bytes:
    """The rows, a mark, and the examples."""
    files = dict(_journal())
    if rng.random() < 0.5:
        name = rng.choice((ROWS, EXAMPLES))
        files[name] = damaged(rng, files[name], (files[name],))
    else:  # wrong inside, and right by its checksum
        lines = files[ROWS].splitlines(keepends=True)
        place = rng.randrange(len(lines))
        text = json.dumps(confused(rng, json.loads(lines[place])["record"]))
        lines[place] = f'{{"crc32": {zlib.crc32(text.encode())}, "record": {text}}}\n'.encode()
        files[ROWS] = b"".join(lines)
    return files[ROWS] + _MARK + files[EXAMPLES]


_MARK = b"\xff--examples--\xff"


def _read_journal(folder: Path, content: bytes) -> list[ChunkRecord]:
    partial = folder / "partial"
    partial.mkdir(exist_ok=True)
    for name, part in zip((ROWS, EXAMPLES), content.split(_MARK), strict=True):
        (partial / name).write_bytes(part)
    journal = Journal(partial, _HEADER, shape=_EXAMPLE, dtype=np.dtype(np.float32))
    try:
        records = [record for record, _ in journal.records]
        place = journal.append(_record(9))
        if not (journal.example(place) == 0.25).all():
            raise AssertionError("what is appended is not read again")
    finally:
        journal.close()
    again = Journal(partial, _HEADER, shape=_EXAMPLE, dtype=np.dtype(np.float32))
    again.close()
    if len(again.records) != len(records) + 1:
        raise AssertionError("what was appended is lost")
    return records


def _journal_complaint(content: bytes, found: list[ChunkRecord]) -> str | None:
    for record in found:
        size = len(record.samples)
        lists = (record.winners, record.distances, record.classes, record.violated)
        if not all(len(each) == size for each in lists) or len(record.kept) != len(record.examples):
            return f"a record of {size} samples with lists of other lengths"
        if not all(type(sample) is int and sample >= 0 for sample in record.samples):
            return f"samples {record.samples}"
        if not all(type(distance) in (int, float) and distance >= 0 for distance in record.distances):
            return f"distances {record.distances}"
        if not all(number in range(size) for number in record.kept):
            return f"kept {record.kept} of {size}"
    return None


# Arguments


def _make_arguments(rng: random.Random) -> bytes:
    document = {"width": 8, "shape": [1, 28, 28], "name": "x", "deep": {"p": 0.5}}
    content = json.dumps(document).encode()
    return damaged(rng, content, (content,)) if rng.random() < 0.4 else json_text(rng, document)


def _read_arguments(folder: Path, content: bytes) -> dict[str, Any]:
    return parsed_arguments(content.decode("utf-8", errors="surrogateescape"))


def _arguments_complaint(content: bytes, found: dict[str, Any]) -> str | None:
    numbers = repr(list(_numbers(found)))
    return f"numbers {numbers}" if "inf" in numbers or "nan" in numbers else None


DOCUMENT_VICTIMS = (
    Victim("run-config", _make_config, _read_config, _config_complaint),
    Victim("report", _make_report, _read_report, _report_complaint),
    Victim("report-verified", _make_verified, _read_verified, _verified_complaint),
    Victim("samples-csv", _make_rows, _read_rows, _rows_complaint, (InputError, ValueError)),
    Victim("journal", _make_journal, _read_journal, _journal_complaint),
    Victim("arguments", _make_arguments, _read_arguments, _arguments_complaint),
)
