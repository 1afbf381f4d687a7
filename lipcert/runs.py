"""The run directory: what a training leaves behind and an audit reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn

from lipcert.data import ImageData
from lipcert.deployment import file_sha256, load_network
from lipcert.documents import read_yaml
from lipcert.errors import InputError
from lipcert.files import write_atomically


@dataclass(frozen=True)
class RunPaths:
    """Where the files of a run are."""

    directory: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; ``python -m lipcert.train --config`` runs it as it is."""
        return self.directory / "config.yaml"

    @property
    def network(self) -> Path:
        """The exported plain network."""
        return self.directory / "network.safetensors"

    @property
    def summary(self) -> Path:
        """The final figures."""
        return self.directory / "summary.json"

    @property
    def best(self) -> Path:
        """The best checkpoint by the monitored metric."""
        return self.directory / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.directory / "checkpoints" / "last.ckpt"


@dataclass(frozen=True)
class Run:
    """A finished run: its deployed network and its data."""

    directory: Path
    config: Mapping[str, Any]
    network: nn.Module
    data: ImageData
    network_sha256: str


def read_config(directory: Path) -> dict[str, Any]:
    """Return the resolved configuration of a run directory.

    Raises:
        InputError: no such directory, or no readable configuration in it.
    """
    path = RunPaths(directory).config
    if not path.is_file():
        raise InputError(f"expected a run directory with config.yaml, found none at {directory}")
    return read_yaml(path)


def load_run(directory: str | Path) -> Run:
    """Load a run directory: the exported network as it will be deployed, and the data it was trained on.

    Args:
        directory: ``runs/<name>``.

    Returns:
        The run; its network is on the CPU, in eval mode; its data is read when first asked for.

    Raises:
        InputError: something is missing or unreadable.
    """
    directory = Path(directory)
    config = read_config(directory)
    paths = RunPaths(directory)
    if not paths.network.is_file():
        hint = "" if paths.last.is_file() else " and no checkpoint"
        raise InputError(
            f"expected an exported network at {paths.network}, found none{hint}; was the training finished?"
        )
    return Run(directory, config, load_network(paths.network), _build_data(config), file_sha256(paths.network))


def _build_data(config: Mapping[str, Any]) -> ImageData:
    from jsonargparse import ArgumentParser  # only what reads a configuration pays for the parser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data", required=True)
    try:
        parsed = parser.parse_object({"data": config.get("data")})
        return parser.instantiate(parsed).data  # type: ignore[no-any-return]
    except InputError:
        raise
    except Exception as error:  # jsonargparse wraps whatever a configuration can get wrong
        raise InputError(f"expected a data module in the run's configuration: {error}") from error


def write_summary(directory: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json`` in one step."""
    text = json.dumps(summary, indent=2, allow_nan=False)
    write_atomically(RunPaths(directory).summary, (text + "\n").encode())
