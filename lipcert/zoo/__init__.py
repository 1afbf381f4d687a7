"""Small trained networks that ship with the package, each with its audit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch.nn as nn

from lipcert.deployment import file_sha256, load_network
from lipcert.errors import InputError

__all__ = ["load", "names", "report", "summary"]

FOLDER = Path(__file__).parent
CHECKSUMS = "SHA256SUMS"
LISTED = re.compile(r"[0-9a-f]{64}  \S+/\S+")
FILES = ("network.safetensors", "report.json", "summary.json")
"""What there is of every network: its weights, its audit of all test images, its training in figures."""


def names() -> tuple[str, ...]:
    """Return the names that :func:`load` knows.

    Example:
        >>> "fashion_mnist/robust" in names()
        True
    """
    return tuple(sorted({path.rpartition("/")[0] for path in _checksums()}))


def load(name: str) -> nn.Module:
    """Return a trained network of the zoo, as it was exported, certified and audited.

    The file's SHA-256 is compared with the one that the package lists before anything in it is used; it holds tensors
    and a recipe, no code and no pickle.

    Args:
        name: ``"<data set>/<network>"``, one of :func:`names`.

    Returns:
        A plain network from ``(N, 1, 28, 28)`` images in [0, 1] to ``(N, 10)`` logits: on the CPU, in eval mode,
        without gradients of its parameters.

    Raises:
        InputError: no network of that name; or its file is missing or not the one that was audited.

    Example:
        >>> from lipcert import certify
        >>> from lipcert.data import FashionMNISTMini
        >>> image = FashionMNISTMini().split("test").inputs()[:1]
        >>> certificate = certify(load("fashion_mnist/robust"), image)
        >>> certificate.prediction.item(), certificate.radius.item() > 1
        (9, True)
    """
    return load_network(_verified(name, "network.safetensors"))


def report(name: str) -> dict[str, Any]:
    """Return the audit of a network on all test images of its data set, the ``report.json`` of ``lipcert audit``.

    Args:
        name: one of :func:`names`.

    Raises:
        InputError: as :func:`load`.

    Example:
        >>> audit = report("fashion_mnist/robust")
        >>> audit["verdict"], audit["data"]["samples"], len(audit["violations"])
        ('pass', 10000, 0)
    """
    return _read(name, "report.json")


def summary(name: str) -> dict[str, Any]:
    """Return the figures that a network's training ended with, the ``summary.json`` of its run.

    Args:
        name: one of :func:`names`.

    Raises:
        InputError: as :func:`load`.

    Example:
        >>> summary("fashion_mnist/robust")["command"]
        'python -m lipcert.train --config experiments/zoo/fashion_mnist_robust.yaml'
    """
    return _read(name, "summary.json")


def _read(name: str, file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_verified(name, file).read_text(encoding="utf-8"))
    return content


def _verified(name: str, file: str) -> Path:
    """Return the path of a file of a network whose checksum is the listed one."""
    if name not in names():
        raise InputError(f"expected one of the networks {', '.join(names())}, got {name!r}")
    path, expected = FOLDER / name / file, _checksums()[f"{name}/{file}"]
    if not path.is_file():
        raise InputError(f"expected {file} of {name} at {path}, found none; install lipcert again")
    if (found := file_sha256(path)) != expected:
        raise InputError(
            f"expected SHA-256 {expected} of {path}, got {found}: the file is damaged; install lipcert again"
        )
    return path


def _checksums() -> dict[str, str]:
    """Return the SHA-256 of every file by its path in the zoo, from a list such as ``sha256sum`` writes."""
    path = FOLDER / CHECKSUMS
    text = path.read_text(encoding="ascii", errors="replace") if path.is_file() else ""
    found = dict(line.split("  ", 1)[::-1] for line in text.splitlines() if LISTED.fullmatch(line))
    if not found:
        raise InputError(f"expected the checksums of the zoo at {path}, found none; install lipcert again")
    return found
