"""Networks that no run of lipcert made: loaded by import path, weights without pickles, certified if possible."""

from __future__ import annotations

import importlib
import math
import pickle
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils import parametrize

from lipcert.attacks.verify import predictions
from lipcert.certificates import Certificate, certify
from lipcert.certificates.margin import check_inputs
from lipcert.checkpoints import load_plain
from lipcert.data import ImageArrays, ImageData, ImageFolder, StreamedArrays
from lipcert.data.arrays import SUFFIXES as ARRAYS
from lipcert.deployment import check_export, export, file_sha256
from lipcert.documents import parsed_json
from lipcert.errors import InputError

NO_RULE = "none"
NESTED = ("state_dict", "model_state_dict", "model")
PREFIX = "module."
SHOWN = 3

REFUSALS = (InputError, RuntimeError)
"""What keeps a network from being certified: a refusal, or a forward that does not run in float64."""


@dataclass(frozen=True, slots=True)
class ForeignNetwork:
    """A network to audit, and what the report says of it.

    Attributes:
        network: plain, in eval mode, on the CPU, without parameter gradients.
        name: the last part of its import path.
        sha256: checksum of the file of weights; empty without one.
        constrained: the network before its constraints were exported; None if it had none.
    """

    network: nn.Module
    name: str
    sha256: str
    constrained: nn.Module | None = None


def load_foreign(
    model: str, *, weights: str | Path | None = None, arguments: str | Mapping[str, Any] | None = None
) -> ForeignNetwork:
    """Return the network of ``--model package.module:factory --weights FILE --model-args JSON``.

    The module is imported and the factory is called: give no import path whose code you would not run. The file of
    weights is data alone. Constraints are exported with the values that they give now, see :func:`lipcert.export`.

    Args:
        model: import path of a class or function that returns an ``nn.Module``; modules in the working directory are
            found.
        weights: ``.safetensors``, or what ``torch.save`` wrote of a state dict; the factory's own weights if None.
        arguments: keyword arguments of the factory, or the JSON object that holds them.

    Raises:
        InputError: the import, the call or the file failed, or the tensors are not those of the network; one line says
            which.

    Example:
        >>> foreign = load_foreign("torch.nn:Linear", arguments='{"in_features": 4, "out_features": 3}')
        >>> foreign.name, foreign.network.training
        ('Linear', False)
    """
    factory, name = _imported(model), model.rpartition(":")[2]
    values = parsed_arguments(arguments)
    try:
        network = factory(**values)
    except Exception as error:  # whatever a stranger's code can raise
        raise InputError(f"expected {model} to return a network, got {_named(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"expected {model} to return an nn.Module, got {type(network).__name__}")
    checksum = ""
    if weights is not None:
        load_into(network, read_weights(weights), model=model, path=Path(weights))
        checksum = file_sha256(weights)
    plain = _plain(network, model)
    constrained = None if plain is network else network
    return ForeignNetwork(plain, name.rpartition(".")[2], checksum, constrained)


def parsed_arguments(arguments: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return keyword arguments that were given as JSON.

    Raises:
        InputError: not a JSON object.

    Example:
        >>> parsed_arguments('{"width": 8}'), parsed_arguments(None)
        ({'width': 8}, {})
    """
    if arguments is None or not isinstance(arguments, str):
        return dict(arguments or {})
    try:
        return parsed_json(arguments)
    except ValueError as error:
        raise InputError(f"expected a JSON object of arguments, got {arguments!r:.200}: {error}") from error


def _imported(path: str) -> Any:
    """Return what an import path ``package.module:name`` leads to."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise InputError(f"expected an import path package.module:factory, got {path!r}")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # an import runs a stranger's code
        raise InputError(f"expected to import {path}, got {_named(error)}") from error
    if not callable(found):
        raise InputError(f"expected {path} to be a class or a function, got {type(found).__name__}")
    return found


def _named(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; nothing in it is executed.

    A state dict may lie one level down, under ``state_dict``, ``model_state_dict`` or ``model``, and may carry the
    ``module.`` of a data-parallel wrapper.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote.

    Raises:
        InputError: no such file, one that cannot be read without running code, or no tensors by name in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a file of weights, found none at {path}")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else load_plain(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"expected a state dict in {path}, got a file that cannot be read without running its code; save "
            "model.state_dict(), best as .safetensors"
        ) from error
    except InputError:
        raise
    except Exception as error:  # torch raises anything from KeyError to struct.error on a file that is not its own
        raise InputError(f"expected weights in {path}, got {_named(error)}") from error
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found:
        what = "an empty one" if isinstance(found, Mapping) else type(found).__name__
        raise InputError(f"expected a state dict in {path}, got {what}")
    tensors = {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    if len(tensors) < len(found):
        others = [name for name in found if str(name) not in tensors]
        raise InputError(f"expected tensors by name in {path}, got something else in {_shown(others)}")
    if all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    return tensors


def _shown(names: Iterable[object]) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def load_into(network: nn.Module, state: Mapping[str, Tensor], *, model: str, path: Path) -> None:
    """Give a network the tensors of a file, all of them and no others.

    Args:
        network: that is changed.
        state: tensors by name, see :func:`read_weights`.
        model: what the network is called in a complaint.
        path: where the tensors are from.

    Raises:
        InputError: tensors of other shapes, missing or unknown ones; the network may have changed by then.
    """
    try:
        missing, unexpected = network.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # shapes; the first line only counts them
        reason = " ".join(str(error).partition("\n")[2].split()) or _named(error)
        raise InputError(f"expected the tensors of {model} in {path}: {reason}") from error
    if missing or unexpected:
        said = [f"{_shown(missing)} missing"] if missing else []
        said += [f"{_shown(unexpected)} unknown"] if unexpected else []
        raise InputError(f"expected the tensors of {model} in {path}, got {' and '.join(said)}")


def _plain(network: nn.Module, model: str) -> nn.Module:
    """Return the network as it is deployed; an exported copy where constraints compute its weights."""
    if not any(parametrize.is_parametrized(part) or hasattr(part, "vanilla_export") for part in network.modules()):
        return network.cpu().eval().requires_grad_(False)
    try:
        return export(network.cpu()).requires_grad_(False)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise InputError(f"expected {model} to be exported without its constraints, got {_named(error)}") from error


def check_runs(foreign: ForeignNetwork, inputs: Tensor, classes: int) -> None:
    """Refuse a network that does not give one logit a class for these inputs, or not the same ones after its export.

    Args:
        foreign: the network.
        inputs: ``(N, C, H, W)`` in [0, 1]; one is enough.
        classes: number of classes of the data.

    Raises:
        InputError: says what was expected and found.
    """
    try:
        with torch.no_grad():
            logits = foreign.network(inputs)
    except Exception as error:  # whatever a stranger's forward can raise
        shape = tuple(inputs.shape[1:])
        raise InputError(f"expected {foreign.name} to run on images {shape}, got {_named(error)}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs) or logits.shape[1] < classes:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"expected logits ({len(inputs)}, {classes}) from {foreign.name}, got {found}")
    if foreign.constrained is not None:
        check_export(foreign.constrained, foreign.network, inputs)


def certify_or_not(
    model: nn.Module, inputs: Tensor, *, arithmetic: str = "float32", rule: str = "best", batch_size: int = 100
) -> Certificate:
    """Return certificates where they can be proved, and radius 0 everywhere where they cannot.

    A network whose Lipschitz constant has a bound but whose rounding has none is certified with real numbers, and says
    so. One that has no bound gets rule ``"none"``, an infinite constant and the reason, with the name of the layer, as
    an assumption: what an audit then measures is empirical.

    Args:
        model: network in eval mode.
        inputs: ``(N, C, H, W)`` in [0, 1].
        arithmetic: what to certify if possible, see :func:`lipcert.certify`.
        rule: margin rule.
        batch_size: inputs evaluated at a time.

    Raises:
        InputError: unusable inputs.

    Example:
        >>> class Squared(nn.Module):
        ...     def forward(self, inputs):
        ...         return inputs.square()
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), Squared()).eval()
        >>> found = certify_or_not(network, torch.rand(2, 1, 2, 2))
        >>> found.rule, found.radius.tolist(), "layer '2'" in found.assumptions[0]
        ('none', [0.0, 0.0], True)
    """
    check_inputs(inputs)
    try:
        return certify(model, inputs, rule=rule, arithmetic=arithmetic, batch_size=batch_size)
    except REFUSALS as error:
        reason = " ".join(str(error).split())
    if arithmetic != "real":
        try:
            found = certify(model, inputs, rule=rule, arithmetic="real", batch_size=batch_size)
        except REFUSALS as error:
            reason = " ".join(str(error).split())
        else:
            said = f"The rounding of the network in {arithmetic} is not counted, as it could not be bounded: {reason}."
            return replace(found, assumptions=(*found.assumptions, said))
    return _uncertified(model, inputs, reason, batch_size=batch_size)


def _uncertified(model: nn.Module, inputs: Tensor, reason: str, *, batch_size: int) -> Certificate:
    radius = torch.zeros(len(inputs), dtype=torch.float64)
    said = f"Nothing is certified, and every distance is what attacks found: {reason}."
    prediction = predictions(model, inputs, batch_size=batch_size).cpu()
    return Certificate(prediction, radius, "l2", NO_RULE, math.inf, (), "float32", (said,))


def load_data(data: str, *, arguments: str | Mapping[str, Any] | None = None) -> ImageData:
    """Return the images of ``--data``: a class path such as ``lipcert.data.FashionMNIST``, a folder, or a file.

    Args:
        data: import path of an ``ImageData`` class with a dot or a colon before its name, the path of a folder or zip
            archive of images, see :class:`~lipcert.data.ImageFolder`, of an ``.npz`` or ``.safetensors`` file of
            arrays, see :class:`~lipcert.data.ImageArrays`, or of a folder of ``.npy`` files, see
            :class:`~lipcert.data.StreamedArrays`.
        arguments: keyword arguments of the class, or the JSON object that holds them.

    Raises:
        InputError: none of these, or arguments that the class refuses.

    Example:
        >>> load_data("lipcert.data.FashionMNISTMini", arguments={"val_size": 0}).name
        'fashion-mnist-mini'
    """
    values = parsed_arguments(arguments)
    if Path(data).is_dir() or data.endswith(".zip"):
        found: Any = StreamedArrays if any(Path(data).glob("*.npy")) else ImageFolder
        values = {"path": data, **values}
    elif data.endswith(ARRAYS):
        found = ImageArrays
        values = {"path": data, **values}
    elif "/" in data or not ("." in data or ":" in data):
        raise InputError(
            f"expected the import path of a data class or a folder of images or file of arrays, got {data!r}"
        )
    else:
        found = _imported(data if ":" in data else ":".join(data.rpartition(".")[::2]))
    if not (isinstance(found, type) and issubclass(found, ImageData)):
        raise InputError(f"expected {data} to be a subclass of lipcert.data.ImageData")
    try:
        return found(**values)
    except TypeError as error:
        raise InputError(f"expected arguments that {data} accepts, got {_named(error)}") from error
