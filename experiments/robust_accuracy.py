"""Robust accuracy of trained networks under AutoAttack, on the first images of a split, kept as a results file.

    python experiments/robust_accuracy.py runs/fashion_mnist_pgd_linf runs/fashion_mnist_undefended --norm linf \
        --epsilon 0.1 --output experiments/results/defenses/fashion_mnist_linf.json

The standard version with its official settings, on the exported networks; each example that counts was verified: its
distance is recomputed and the network's class is asked again. Robust accuracy is the share of all images that are
classified right and withstand it: what AutoAttack did not find may still exist.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from lipcert import load_run
from lipcert.attacks import AutoAttack, Norm
from lipcert.attacks.task import NORMS
from lipcert.attacks.verify import predictions
from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_json
from lipcert.runs import Run, RunPaths


def robust_accuracy(run: Run, options: argparse.Namespace, attack: AutoAttack) -> dict[str, Any]:
    """Return the record of a network: what it is, clean and robust accuracy, and whose examples they were."""
    summary = json.loads(RunPaths(run.directory).summary.read_text())
    images = run.data.split(options.split)
    inputs, labels = images.inputs(torch.arange(min(options.samples, len(images)))), images.labels[: options.samples]
    right = predictions(run.network, inputs) == labels
    if not right.any():
        raise InputError(f"expected a network that is right about some of {len(labels)} images, got none right")
    norm: Norm = options.norm
    outcome = attack(run.network, inputs[right], labels[right], norm=norm, epsilon=options.epsilon, seed=options.seed)
    fallen = outcome.verified.success & (outcome.verified.distance <= options.epsilon)
    return {
        "name": run.config["name"],
        "command": summary["command"],
        "data": run.data.name,
        "split": options.split,
        "samples": len(labels),
        "clean_accuracy": round(right.double().mean().item(), 6),
        "robust_accuracy": round((right.sum() - fallen.sum()).item() / len(labels), 6),
        "winners": dict(Counter(winner or "none" for winner in outcome.details["winner"])),
        "attack_seconds": round(outcome.seconds, 1),
        "training": {name: summary[name] for name in ("seconds", "epochs", "best_epoch", "seed", "train_samples")},
        "network_sha256": run.network_sha256,
    }


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run directories")
    parser.add_argument("--norm", choices=NORMS, default="linf", help="norm of the budget")
    parser.add_argument("--epsilon", type=float, required=True, help="the budget, in [0, 1] pixel units")
    parser.add_argument("--samples", type=int, default=1000, help="images, the first ones")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="settings are tuned on val")
    parser.add_argument("--components", nargs="*", default=[], help="which run instead of the standard four")
    parser.add_argument("--seed", type=int, default=0, help="of the attack")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    with one_line_errors("robust accuracy"):
        if options.samples < 1:
            raise InputError(f"expected samples >= 1, got {options.samples}")
        attack = AutoAttack(components=tuple(options.components))
        record = {
            "command": shlex.join(["python", *sys.argv]),
            "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} used, {platform.machine()}",
            "torch": torch.__version__,
            "norm": options.norm,
            "epsilon": options.epsilon,
            "attack": attack.name,
            "attack_parameters": attack.parameters(),
            "seed": options.seed,
            "networks": [robust_accuracy(load_run(directory), options, attack) for directory in options.runs],
        }
        for network in record["networks"]:
            print(f"{network['name']}: clean {network['clean_accuracy']:.4f}, robust {network['robust_accuracy']:.4f}")
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.output, record)


if __name__ == "__main__":
    main()
