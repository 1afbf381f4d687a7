"""Run directories with an audit, and ways to spoil them."""

import csv
import io
import json
from pathlib import Path

import torch
import yaml
from torch import nn

from lipcert import certify, export, load_network, run_audit, save_network, verify_report, write_report
from lipcert.attacks import CarliniWagner
from lipcert.data import FashionMNISTMini
from lipcert.deployment import file_sha256
from lipcert.harness import Subject
from lipcert.networks import hkr_convnet

ARGUMENTS = {"input_shape": [1, 28, 28], "channels": [2, 4], "hidden": 8}


def sigmoid_network() -> nn.Module:
    """A chain whose constants are known and whose rounding is not."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Sigmoid(), nn.Linear(8, 10))


def gelu_network() -> nn.Module:
    """A chain with a layer that the re-check does not know."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.GELU(), nn.Linear(8, 10))


class Squared(nn.Module):
    """Not Lipschitz: no certificate."""

    def forward(self, inputs):
        return inputs.square()


def untrained(width: int, *, squared: bool = False) -> nn.Module:
    """A network from elsewhere, which can be certified or not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), Squared() if squared else nn.ReLU(), nn.Linear(width, 10))


def make_run(directory: Path, build=hkr_convnet, certifier=certify, **arguments) -> None:
    """Write a run directory with a network that was never trained, and audit it."""
    write_run(directory, build, **arguments)
    audited(directory, certifier)


def write_run(directory: Path, build=hkr_convnet, **arguments) -> None:
    """Write a run directory with a network that was never trained."""
    directory.mkdir()
    config = {"data": {"class_path": "lipcert.data.FashionMNISTMini"}, "name": "tiny"}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    save_network(export(build(**arguments)), directory / "network.safetensors", build, **arguments)


def audited(directory: Path, certifier=certify) -> None:
    """Audit a run directory with an attack that costs nothing."""
    images = FashionMNISTMini().split("test")
    result = run_audit(
        load_network(directory / "network.safetensors"),
        images,
        samples=torch.arange(3),
        attacks=(CarliniWagner(1, 10),),
        certifier=certifier,
        subject=Subject("tiny", file_sha256(directory / "network.safetensors"), "fashion-mnist-mini", "test"),
    )
    write_report(result, directory / "audit")


def edit_report(run, change):
    path = run / "audit" / "report.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_rows(run, change):
    path = run / "audit" / "samples.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def edit_weights(run, name, change, *, hide=False):
    """Change a tensor of the exported network; ``hide`` puts the new file's hash into the report."""
    path = run / "network.safetensors"
    network = load_network(path)
    with torch.no_grad():
        change(network.state_dict()[name])
    save_network(network, path, hkr_convnet, **ARGUMENTS)
    if hide:
        edit_report(run, lambda document: document["model"].update(sha256=file_sha256(path)))


def wrong(run):
    """What is found to be wrong, by name."""
    return {finding.name: finding.text for finding in verify_report(run / "audit") if finding.stands is False}
