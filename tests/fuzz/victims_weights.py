"""Readers of weights: checkpoints, state dicts and exported networks."""

import functools
import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from guard import Victim, own_folder
from mutations import confused, damaged
from safetensors.torch import save

from lipcert.checkpoints import load_checkpoint
from lipcert.deployment import BUILD_KEY, export, load_network, save_network
from lipcert.harness.foreign import read_weights
from lipcert.networks import hkr_convnet

_ARGUMENTS = {"input_shape": [1, 4, 4], "num_classes": 3, "channels": [2, 2], "hidden": 2}


@functools.cache
def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return export(hkr_convnet(**_ARGUMENTS)).state_dict()


@functools.cache
def _checkpoints() -> tuple[bytes, ...]:
    state = {f"network.{name}": tensor for name, tensor in _state().items()}
    documents = (
        {"state_dict": state, "epoch": 3, "global_step": 17, "loops": {"a": [1, 2.5, None]}, "hyper": {"lr": 0.1}},
        {"state_dict": {"weight": torch.zeros(2, 3, dtype=torch.float16), "n": torch.tensor(3)}, "epoch": 0},
    )
    made = []
    for document in documents:
        buffer = io.BytesIO()
        torch.save(document, buffer)
        made.append(buffer.getvalue())
    buffer = io.BytesIO()
    torch.save(documents[1], buffer, _use_new_zipfile_serialization=False)
    return *made, buffer.getvalue()


def _make_checkpoint(rng: random.Random) -> bytes:
    seeds = _checkpoints()
    if rng.random() < 0.6:
        return damaged(rng, rng.choice(seeds), seeds)
    return _repacked(rng, rng.choice(seeds[:2]))


def _repacked(rng: random.Random, content: bytes) -> bytes:
    """The archive with members that are damaged, renamed, missing or compressed, and checksums that are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = rng.choice((*names, *[name for name in names if name.endswith(".pkl")] * 3))
        kind = rng.randrange(4)
        for name in names:
            member = old.read(name)
            if name == chosen and kind == 0:
                continue
            if name == chosen and kind == 1:
                name = rng.choice(("../x", "/x", f"{name}x", "archive/data/0", "archive/data.pkl"))
            elif name == chosen:
                member = damaged(rng, member, (member, content))
            new.writestr(name, member, rng.choice((zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED,)))
    return buffer.getvalue()


def _read_checkpoint(folder: Path, content: bytes) -> dict[str, Any]:
    (folder / "last.ckpt").write_bytes(content)
    return load_checkpoint(folder / "last.ckpt")


def _checkpoint_complaint(content: bytes, found: dict[str, Any]) -> str | None:
    if content[:2] == b"PK":  # before PyTorch 1.6 they were no archives
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"{broken} is damaged by its checksum"
    size = sum(tensor.numel() * tensor.element_size() for tensor in found["state_dict"].values())
    return None if size <= 2 * len(content) else f"{size} bytes of tensors in {len(content)} bytes"


def _read_state_dict(name: str) -> Any:
    def read(folder: Path, content: bytes) -> dict[str, torch.Tensor]:
        (folder / name).write_bytes(content)
        return read_weights(folder / name)

    return read


def _state_complaint(content: bytes, found: dict[str, torch.Tensor]) -> str | None:
    if not found or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        return "no tensors by name"
    return _checkpoint_complaint(content, {"state_dict": found})


def _safetensors_complaint(content: bytes, found: dict[str, torch.Tensor]) -> str | None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    return None if size <= len(content) else f"{size} bytes of tensors in {len(content)} bytes"


@functools.cache
def _exported() -> bytes:
    with own_folder() as folder:
        plain = export(hkr_convnet(**_ARGUMENTS))
        plain.load_state_dict(_state())
        save_network(plain, folder / "x.safetensors", hkr_convnet, **_ARGUMENTS)
        return (folder / "x.safetensors").read_bytes()


def _make_safetensors(rng: random.Random) -> bytes:
    seeds = (save(_state()), _exported(), save({"x": torch.zeros(0)}))
    content = rng.choice(seeds)
    if rng.random() < 0.6:
        return damaged(rng, content, seeds)
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    text = json.dumps(confused(rng, header)).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + struct.unpack("<Q", content[:8])[0] :]


def _make_network(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return damaged(rng, _exported(), (_exported(),))
    recipe = {"class_path": "lipcert.networks.hkr_convnet", "init_args": _ARGUMENTS}
    text = json.dumps(confused(rng, recipe)) if rng.random() < 0.9 else rng.choice(("[" * 5000, "9" * 5000, "", "null"))
    return save({name: tensor.contiguous() for name, tensor in _state().items()}, metadata={BUILD_KEY: text})


def _read_network(folder: Path, content: bytes) -> torch.nn.Module:
    (folder / "network.safetensors").write_bytes(content)
    return load_network(folder / "network.safetensors")


def _network_complaint(content: bytes, found: torch.nn.Module) -> str | None:
    if found.training or any(parameter.requires_grad for parameter in found.parameters()):
        return "a network that is not deployed"
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.state_dict().values())
    return None if 0 < size <= len(content) else f"{size} bytes of tensors in {len(content)} bytes"


WEIGHT_VICTIMS = (
    Victim("checkpoint", _make_checkpoint, _read_checkpoint, _checkpoint_complaint),
    Victim("state-dict", _make_checkpoint, _read_state_dict("weights.pt"), _state_complaint),
    Victim("safetensors", _make_safetensors, _read_state_dict("weights.safetensors"), _safetensors_complaint),
    Victim("network", _make_network, _read_network, _network_complaint),
)
