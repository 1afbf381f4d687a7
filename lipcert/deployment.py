"""From the network that is trained to the plain network that is deployed, certified and attacked."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
import torch.nn as nn
from deel import torchlip
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils import parametrize

from lipcert.documents import parsed_json
from lipcert.errors import InputError
from lipcert.files import write_atomically
from lipcert.layers.stiefel import project_
from lipcert.limits import no_larger_than
from lipcert.parametrized import keep_effective_weights

BUILD_KEY = "lipcert.build"


def export(network: nn.Module) -> nn.Module:
    """Return a plain copy of ``network`` in eval mode, with the weights that its constraints give right now.

    Weights that training keeps near their manifold are projected onto it. Parametrised weights are recomputed in
    training mode first: torchlip's Björck layers keep the weight of the last training forward in a buffer, so in eval
    mode they lag one optimizer step behind their parameters. The network that is handed in is not changed.

    Args:
        network: any module; torchlip's layers and all that use ``torch.nn.utils.parametrize`` lose their constraint
            and keep its value.

    Returns:
        A network without parametrizations whose parameters are its effective weights.

    Example:
        >>> from lipcert.networks import hkr_convnet
        >>> plain = export(hkr_convnet())
        >>> type(plain[0]).__name__, plain.training
        ('Conv2d', False)
    """
    copied = copy.deepcopy(network)
    _refresh(copied)
    plain = _without_constraints(copied.eval())
    keep_effective_weights(plain)
    for parameter in plain.parameters():
        parameter.grad = None
    return plain


def _refresh(network: nn.Module) -> None:
    network.train()
    project_(network)
    with torch.no_grad():
        for module in network.modules():
            if parametrize.is_parametrized(module):
                for name in module.parametrizations:  # type: ignore[union-attr]
                    getattr(module, name)


def _without_constraints(module: nn.Module) -> nn.Module:
    if isinstance(module, torchlip.Sequential):
        plain: nn.Module = nn.Sequential()
        for name, child in module.named_children():
            plain.add_module(name, _without_constraints(child))
        return plain.eval()
    if hasattr(module, "vanilla_export"):
        with torch.no_grad():
            return module.vanilla_export().eval()  # type: ignore[operator, no-any-return]
    for name, child in module.named_children():
        setattr(module, name, _without_constraints(child))
    return module


def save_network(plain: nn.Module, path: str | Path, build: Callable[..., nn.Module] | str, **arguments: Any) -> None:
    """Write a plain network to one safetensors file, with what is needed to rebuild it, and prove that it reloads.

    The file is written beside its destination, read back, compared bit by bit, and only then moved into place.

    Args:
        plain: network returned by :func:`export`.
        path: destination.
        build: the function or class that returned the network before :func:`export`, or its import path.
        **arguments: what it was called with; plain values that JSON can hold.

    Raises:
        InputError: the rebuilt network has other tensors than ``plain``.
    """
    class_path = build if isinstance(build, str) else f"{build.__module__}.{build.__qualname__}"
    header = {BUILD_KEY: json.dumps({"class_path": class_path, "init_args": arguments})}
    state = {name: tensor.contiguous() for name, tensor in plain.state_dict().items()}
    payload = save(state, metadata=header)

    def prove(written: Path) -> None:
        reloaded = load_network(written).state_dict()
        for name, tensor in state.items():
            if not torch.equal(tensor.cpu(), reloaded[name]):
                raise InputError(f"expected {name} to reload unchanged from {path}")

    write_atomically(Path(path), payload, check=prove)


def check_export(network: nn.Module, plain: nn.Module, inputs: Tensor) -> None:
    """Prove on ``inputs`` that a plain network gives bit by bit the logits of the network it was exported from.

    Args:
        network: the trained network, with its constraints.
        plain: its export, for example reloaded from disk.
        inputs: ``(N, C, H, W)``.

    Raises:
        InputError: a logit differs.
    """
    fresh = copy.deepcopy(network)
    _refresh(fresh)
    with torch.no_grad():
        difference = (fresh.eval()(inputs) - plain(inputs)).abs().max().item()
    if difference != 0:
        raise InputError(
            f"expected the exported network to give the trained one's logits, they differ by {difference:g}"
        )


def load_network(path: str | Path) -> nn.Module:
    """Rebuild the plain network that :func:`save_network` wrote; no pickle is read.

    Args:
        path: a ``network.safetensors`` file.

    Returns:
        The network on the CPU, in eval mode, without gradients.

    Raises:
        InputError: no such file, not a safetensors file, no build recipe in it, or tensors that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a network file, found none at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            recipe = parsed_json((file.metadata() or {}).get(BUILD_KEY, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"expected a safetensors file with a network at {path}: {error}") from error
    class_path, arguments = recipe.get("class_path"), recipe.get("init_args") or {}
    if not isinstance(class_path, str) or not isinstance(arguments, dict):
        raise InputError(f"expected {path} to say how its network is built (metadata {BUILD_KEY!r}), found nothing")
    with no_larger_than(sum(tensor.numel() for tensor in state.values()), what=f"the tensors in {path}"):
        plain = export(build_network(class_path, arguments))
    try:
        plain.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"expected the tensors of {class_path} in {path}: {error}") from error
    return plain.requires_grad_(False).eval()


def build_network(class_path: str, init_args: Mapping[str, Any]) -> nn.Module:
    """Call a network class or a function that is annotated to return an ``nn.Module``, and nothing else.

    Args:
        class_path: import path such as ``"lipcert.networks.hkr_convnet"``.
        init_args: its keyword arguments; those that are themselves a ``class_path`` with ``init_args``, alone or in a
            list, are built likewise.

    Returns:
        The network.

    Raises:
        InputError: no such object, an object of another kind, or arguments that it refuses.
    """
    return _build(class_path, init_args, (nn.Module,))  # type: ignore[no-any-return]


def _build(class_path: str, init_args: Mapping[str, Any], kinds: tuple[type, ...]) -> Any:
    """Return an object of one of these kinds, made by its class or by a function that is annotated to return one."""
    module_name, _, name = class_path.rpartition(".")
    try:
        builder = getattr(import_module(module_name), name)
        returned = builder if isclass(builder) else get_type_hints(builder).get("return") if callable(builder) else None
    except Exception as error:  # an import runs a module's code, and so do its annotations
        raise InputError(f"expected the import path of a network, got {class_path!r:.200}: {error}") from error
    if not (isclass(returned) and issubclass(returned, kinds)):
        named = " or ".join("nn.Module" if kind is nn.Module else kind.__name__ for kind in kinds)
        raise InputError(f"expected {class_path} to be an {named} class or a function annotated to return one")
    arguments = {name: _built(value) for name, value in init_args.items()}
    try:
        return builder(**arguments)
    except InputError:
        raise
    except Exception as error:  # arguments of other types and sizes break a builder anywhere
        raise InputError(f"expected arguments that {class_path} accepts: {error}") from error


def _built(value: Any) -> Any:
    """Return an argument with the parts in it that are given by class path."""
    if isinstance(value, list):
        return [_built(each) for each in value]
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        # here, because what verifies certificates loads networks and shares no code with what made them
        from lipcert.certificates.ablations import Ablation

        return _build(value["class_path"], value.get("init_args") or {}, (nn.Module, Ablation))
    return value


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors: names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
