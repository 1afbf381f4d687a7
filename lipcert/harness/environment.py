"""What an audit ran on, in words."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from lipcert._version import __version__

PACKAGES = ("torch", "deel-torchlip", "foolbox", "numpy")


def environment(device: torch.device, *, processes: int = 1) -> dict[str, str]:
    """Return versions, platform and device, as the report shows them.

    Args:
        device: where the network was attacked.
        processes: how many shared the work.

    Example:
        >>> sorted(environment(torch.device("cpu")))[:4]
        ['CPU cores', 'deel-torchlip', 'device', 'foolbox']
    """
    return {
        "lipcert": __version__,
        "python": platform.python_version(),
        **{name: _installed(name) for name in PACKAGES},
        "platform": platform.platform(),
        "CPU cores": str(os.cpu_count() or "unknown"),
        "processes": str(processes),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source tree without metadata
        return "unknown"
