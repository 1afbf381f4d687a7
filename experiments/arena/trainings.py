"""Networks of contestants: finished runs are found, others are trained or resumed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn
import yaml
from lineup import Source
from reading import read_yaml

from lipcert import load_network, load_run
from lipcert.errors import InputError
from lipcert.runs import RunPaths, read_config

FREE = ("name", "output", "trainer.enable_progress_bar")
"""Settings that make no other network."""

REFERENCE = r"\{(\w+)\}"


@dataclass(frozen=True)
class Trained:
    """A network, and where it came from.

    Attributes:
        network: plain, in eval mode, on the CPU.
        seconds: of its training; None if unknown.
        path: its run directory or file.
    """

    network: nn.Module
    seconds: float | None
    path: Path


def trained(source: Source, folders: Sequence[Path], runs: Mapping[str, Path]) -> Trained:
    """Return a network, after training it if no finished run is found.

    Args:
        source: where it comes from.
        folders: where to look for runs; a new one is made in the first.
        runs: of the contestants before it; ``{NAME}`` in an argument of the training command stands for that of one.

    Raises:
        InputError: nothing usable, or a training that failed.
    """
    if source.file is not None:
        results = {} if source.results is None else json.loads(source.results.read_text())
        return Trained(load_network(source.file), results.get("seconds"), source.file)
    directory = source.run if source.run is not None else _run_of(source, folders, runs)
    summary = _summary(directory)
    if summary is None:
        raise InputError(f"expected a finished run at {directory}, found none")
    return Trained(load_run(directory).network, summary["seconds"], directory)


def _run_of(source: Source, folders: Sequence[Path], runs: Mapping[str, Path]) -> Path:
    """The directory of a finished run of a configuration."""
    assert source.config is not None
    wanted = wanted_settings(source)
    name = str(wanted.get("name", source.config.stem))
    for folder in folders:
        if _summary(folder / name) is not None:
            _check_same(folder / name, wanted)
            return folder / name
    directory = folders[0] / name
    if directory.exists() and not RunPaths(directory).last.is_file():
        shutil.rmtree(directory)  # interrupted before there was anything to go on from
    if directory.exists():
        arguments = ["--resume", str(directory)]
    else:
        given = [filled(argument, runs) for argument in source.arguments]
        arguments = ["--config", str(source.config), *given, f"--output={folders[0]}", f"--name={name}"]
    print(f"training: {' '.join(arguments)}", file=sys.stderr, flush=True)
    _train(directory, arguments)
    return directory


def _train(directory: Path, arguments: list[str]) -> None:
    """Run the training command; its bar is for a terminal, else its last line says what went wrong."""
    shown = sys.stderr.isatty()
    command = [sys.executable, "-m", "lipcert.train", *arguments]
    if not shown:
        command.append("--trainer.enable_progress_bar=false")
    finished = subprocess.run(
        command, check=False, stdout=subprocess.DEVNULL, stderr=None if shown else subprocess.PIPE, text=True
    )
    if finished.returncode:
        said = (finished.stderr or "").strip().splitlines()[-1:] or [f"exit code {finished.returncode}"]
        raise InputError(f"expected the training of {directory} to succeed, got {said[0]}")


def filled(argument: str, runs: Mapping[str, Path]) -> str:
    """Return an argument with ``{NAME}`` replaced by the run of that contestant.

    Raises:
        InputError: no contestant of that name comes before.

    Example:
        >>> filled("--teacher={undefended}", {"undefended": Path("runs/a")})
        '--teacher=runs/a'
    """

    def run_of(found: re.Match[str]) -> str:
        if found[1] not in runs:
            raise InputError(f"expected a contestant before this one in {argument}, got {found[1]!r}")
        return str(runs[found[1]])

    return re.sub(REFERENCE, run_of, argument)


def wanted_settings(source: Source) -> dict[str, Any]:
    """Return what a configuration and the options of the training command set, by dotted name."""
    assert source.config is not None
    wanted = _flat(read_yaml(source.config))
    for argument in source.arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise InputError(f"expected arguments like --trainer.max_epochs=3, got {argument!r}")
        wanted = {key: old for key, old in wanted.items() if key != name and not key.startswith(f"{name}.")}
        if not re.search(REFERENCE, value):  # a run may lie elsewhere today
            wanted |= _flat(yaml.safe_load(value), name)
    return wanted


def _check_same(directory: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a finished run of the right name that another configuration made."""
    found = _flat(read_config(directory))
    for name, value in wanted.items():
        if name not in FREE and name in found and found[name] != value:
            raise InputError(f"expected {name} = {value!r} in the run {directory}, found {found[name]!r}")


def _summary(directory: Path) -> dict[str, Any] | None:
    """What a run that came to its end says of itself."""
    path = RunPaths(directory).summary
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary if summary.get("status") == "completed" else None


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, positions in lists included."""
    if isinstance(settings, Mapping):
        entries = [(str(name), value) for name, value in settings.items()]
    elif isinstance(settings, list):
        entries = [(str(place), value) for place, value in enumerate(settings)]
    else:
        return {prefix: settings}
    found: dict[str, Any] = {}
    for name, value in entries:
        found |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return found
