"""Networks that a training only asks: a teacher, or the classifier that a detector watches over."""

from __future__ import annotations

from pathlib import Path

import torch.nn as nn

from lipcert.deployment import load_network


def frozen_network(source: str | Path | nn.Module) -> nn.Module:
    """Return a trained network in eval mode, without parameter gradients.

    Args:
        source: a run directory, its ``network.safetensors``, or a module.

    Raises:
        InputError: nothing usable is found there.

    Example:
        >>> frozen_network("runs/none")
        Traceback (most recent call last):
        lipcert.errors.InputError: expected a network file, found none at runs/none/network.safetensors
    """
    if isinstance(source, nn.Module):
        return source.eval().requires_grad_(False)
    path = Path(source)
    return load_network(path if path.suffix == ".safetensors" else path / "network.safetensors")
