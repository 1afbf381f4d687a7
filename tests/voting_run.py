"""Run directories of networks that vote over views of noise, with their audits."""

from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from lipcert import load_network, run_audit, save_network, write_report
from lipcert.attacks import Pointwise, VotePatch
from lipcert.data import ImageArrays, ImageSet
from lipcert.deployment import build_network, file_sha256
from lipcert.harness import Subject
from lipcert.harness.voting import certify_votes

SIZE, CLASSES, SAMPLES = (8, 12), 3, 40
CROP = {"input_shape": [1, *SIZE], "num_classes": CLASSES, "stages": [[4, 1]], "kernel_size": 3, "width": 8}
TOKENS = {"input_shape": [2, *SIZE], "num_classes": CLASSES, "width": 16, "depth": 2, "heads": 2}


def linear(channels: int) -> nn.Module:
    """A linear network of encoded views."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * SIZE[0] * SIZE[1], CLASSES))


def smoothed(base, ablation, channels=None, **options):
    """The recipe of a network that votes over ablated views; a base is its options, or linear of so many channels."""
    built = {"class_path": "voting_run.linear", "init_args": {"channels": channels}} if base is None else base
    kind, settings = ablation
    views = {"class_path": f"lipcert.certificates.{kind}", "init_args": settings}
    return "lipcert.networks.SmoothedNetwork", {"network": built, "ablation": views, "num_classes": CLASSES, **options}


def network_of(name, settings):
    return {"class_path": f"lipcert.networks.{name}", "init_args": settings}


PATCHES = {
    "columns": smoothed(None, ("ColumnAblation", {"size": 1}), 1, encoding="null"),
    "rows with a null": smoothed(None, ("RowAblation", {"size": 2}), 1, encoding="null", null=0.5),
    "blocks with masks": smoothed(
        None, ("BlockAblation", {"size": [2, 3], "stride": [2, 3], "wrap": False}), 2, encoding="mask"
    ),
    "no wrapping": smoothed(None, ("ColumnAblation", {"size": 2, "stride": 3, "wrap": False}), 2),
    "both bands": smoothed(None, ("ColumnAndRowAblation", {"size": [1, 2]}), 2, threshold=0.36),
    "crops": smoothed(network_of("CropNetwork", {**CROP, "crop": [None, 2]}), ("ColumnAblation", {"size": 2})),
    "tokens": smoothed(network_of("VisionTransformer", TOKENS), ("ColumnAblation", {"size": 3}), threshold=0.34),
}
SPLITS = (
    "lipcert.networks.SplittingNetwork",
    {
        "network": {"class_path": "voting_run.linear", "init_args": {"channels": 1}},
        "levels": 20,
        "num_classes": CLASSES,
    },
)
RECIPES = {**PATCHES, "splits": SPLITS}


def make_voting_run(directory: Path, name: str, certifier=certify_votes, *, gain: float = 1.0) -> None:
    """Write the run of a network that was never trained, whose own classes are three of four labels, and audit it."""
    directory.mkdir(parents=True)
    class_path, arguments = RECIPES[name]
    torch.manual_seed(3)
    network = build_network(class_path, arguments).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.mul_(gain)
    save_network(network, directory / "network.safetensors", class_path, **arguments)
    images = np.random.default_rng(0).integers(256, size=(SAMPLES, *SIZE), dtype=np.uint8)
    labels = network(torch.from_numpy(images)[:, None] / 255).argmax(1).numpy()
    labels[::4] = (labels[::4] + 1) % CLASSES
    kept = {"x_test": images, "y_test": labels, "x_train": images[:9], "y_train": np.arange(9) % CLASSES}
    np.savez(directory / "noise.npz", **kept)
    data = {"class_path": "lipcert.data.ImageArrays", "init_args": {"path": str(directory / "noise.npz")}}
    (directory / "config.yaml").write_text(yaml.safe_dump({"data": data, "name": "votes"}))
    audit_votes(directory, certifier)


def images_of(directory: Path) -> ImageSet:
    return ImageArrays(directory / "noise.npz").split("test")


def audit_votes(directory: Path, certifier=certify_votes) -> None:
    """Audit a run directory on its first eight images."""
    network = load_network(directory / "network.safetensors")
    patches = hasattr(network, "ablation")
    result = run_audit(
        network,
        images_of(directory),
        samples=torch.arange(8),
        attacks=[VotePatch(places=4, restarts=1, steps=8, last=3) if patches else Pointwise(queries=60)],
        certifier=certifier,
        subject=Subject("votes", file_sha256(directory / "network.safetensors"), "noise", "test"),
    )
    write_report(result, directory / "audit")
