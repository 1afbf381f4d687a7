"""foolbox: its ``PyTorchModel`` as a network, and a network as its ``PyTorchModel``."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn as nn

from lipcert.attacks.carlini_wagner import import_foolbox
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.interop.inputs import UNIT, RescaledInputs, UnitInputs, check_bounds


def from_foolbox(model: Any) -> nn.Module:
    """Return the network of a foolbox model, made for images in [0, 1].

    Bounds and preprocessing become layers in front of it, so that certified radii and distances are in [0, 1] pixel
    units. Constraints are exported with the values that they give now.

    Args:
        model: a ``foolbox.PyTorchModel``.

    Returns:
        A plain copy in eval mode on the CPU, from ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.

    Raises:
        InputError: another kind of model, or a preprocessing that flips an axis.

    Example:
        >>> foolbox = import_foolbox()
        >>> made_for_bytes = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
        >>> model = foolbox.PyTorchModel(made_for_bytes, bounds=(0, 255), device="cpu")
        >>> from lipcert import lipschitz_upper_bound
        >>> bounds = [lipschitz_upper_bound(each, (1, 2, 2)).value for each in (made_for_bytes, from_foolbox(model))]
        >>> round(bounds[1] / bounds[0], 9)
        255.0
    """
    function = getattr(model, "_model", None)
    found = inspect.getclosurevars(function).nonlocals.get("model") if inspect.isfunction(function) else None
    if not isinstance(found, nn.Module) or not hasattr(model, "_preprocess_args"):
        raise InputError(f"expected a foolbox PyTorchModel, got {type(model).__name__}")
    mean, std, flip_axis = model._preprocess_args
    if flip_axis is not None:
        raise InputError(f"expected a preprocessing without flip_axis, got {flip_axis}")
    network = export(found).cpu()
    bounds = check_bounds(tuple(model.bounds))
    if bounds == UNIT and mean is None and std is None:
        return network
    mean, std = (None if values is None else values.raw.cpu() for values in (mean, std))
    return RescaledInputs(network, bounds=bounds, mean=mean, std=std)


def to_foolbox(network: nn.Module, *, bounds: Any = UNIT, device: str = "cpu") -> Any:
    """Return a ``foolbox.PyTorchModel`` of a network, for foolbox's attacks.

    The model holds a copy without gradients of its parameters: foolbox's attacks would otherwise leave gradients in
    the network, and compute them at each step.

    Args:
        network: from images in [0, 1] to logits ``(N, K)``; constraints are exported.
        bounds: of the images that foolbox is handed.
        device: where it computes.

    Raises:
        InputError: no network, or unusable bounds.

    Example:
        >>> model = to_foolbox(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), bounds=(0, 255))
        >>> tuple(model.bounds)
        (0.0, 255.0)
    """
    if not isinstance(network, nn.Module):
        raise InputError(f"expected a network, got {type(network).__name__}")
    low, high = check_bounds(bounds)
    plain = export(network).requires_grad_(False)
    inner = plain if (low, high) == UNIT else UnitInputs(plain, (low, high))
    return import_foolbox().PyTorchModel(inner, bounds=(low, high), device=device)
