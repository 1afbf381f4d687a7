"""Keep what a trained vote certifies as a results file: against patches, beside the published rule, or in L1.

The votes are computed again, on all test images, by the exported network. Against patches ``certified_accuracy`` is by
the side of a square, by enumeration of its places; ``twice_affected`` is what the rule of Levine and Feizi (2020)
certifies, a gap of more than twice the views that a patch can touch. The first is never less, image by image. Of
splitting noise it is by L1 radius, in units of pixels in [0, 1].

python experiments/keep_votes.py runs/mnist_columns experiments/results/patches/mnist_columns.json
python experiments/keep_votes.py runs/fashion_mnist_l1 experiments/results/l1/fashion_mnist_255.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert import load_run
from lipcert.certificates import certify_patch, l1_certificate, predict_votes, vote_counts
from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_json
from lipcert.networks import SmoothedNetwork, SplittingNetwork
from lipcert.runs import Run, RunPaths

L1_RADII = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)


def keep(run: Run, threads: int) -> dict[str, Any]:
    """The results record of a run: its summary, and what its votes certify."""
    network = run.network
    if not isinstance(network, SmoothedNetwork | SplittingNetwork):
        raise InputError(f"expected a run of a network that votes, got {type(network).__name__}")
    test = run.data.split("test")
    inputs, labels = test.inputs(), test.labels
    votes = network.votes(inputs)
    right = predict_votes(vote_counts(votes, num_classes=network.num_classes)) == labels
    summary = json.loads(RunPaths(run.directory).summary.read_text())
    return {
        "name": run.config["name"],
        "command": summary["command"],
        "hardware": f"{os.cpu_count()} CPU cores, {threads} used, {platform.machine()}",
        "data": run.data.name,
        "network_sha256": run.network_sha256,
        **{name: summary[name] for name in ("seed", "epochs", "seconds", "train_samples", "versions")},
        "samples": len(labels),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "views": votes.shape[1],
        "clean_accuracy": share(right),
        **(
            of_patches(network, votes, right, (inputs.shape[2], inputs.shape[3]))
            if isinstance(network, SmoothedNetwork)
            else of_splits(network, votes, right)
        ),
    }


def of_patches(network: SmoothedNetwork, votes: Tensor, right: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    """What votes over ablated views certify, by both rules, for every side up to the first that has none."""
    first, second = vote_counts(votes, num_classes=network.num_classes).topk(2).values.unbind(1)
    exact, rule = {}, {}
    for side in range(1, min(size) + 1):
        certified = certify_patch(votes, network.ablation, size, side, num_classes=network.num_classes) & right
        affected = int(network.ablation.affected(*size, side).sum(1).max())
        published = (first - second > 2 * affected) & right
        if (published & ~certified).any():
            raise AssertionError("the published rule certified an image that the enumeration does not")
        exact[str(side)], rule[str(side)] = share(certified), share(published)
        if not certified.any():
            break
    return {
        "ablation": repr(network.ablation),
        "threshold": network.threshold,
        "certified_accuracy": exact,
        "twice_affected": rule,
    }


def of_splits(network: SplittingNetwork, votes: Tensor, right: Tensor) -> dict[str, Any]:
    """What votes over splits certify, at some L1 radii."""
    radius = l1_certificate(votes, network.noise, num_classes=network.num_classes).radius * right
    return {
        "noise": repr(network.noise),
        "certified_accuracy": {f"{each:g}": share(radius >= each) for each in L1_RADII},
        "average_certified_radius": share(radius),
    }


def share(of: Tensor) -> float:
    """The mean, of True their share, to six digits."""
    return round(of.double().mean().item(), 6)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("output", type=Path, help="results file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads that training had")
    options = parser.parse_args()
    with one_line_errors("keep_votes"):
        record = keep(load_run(options.run), options.threads)
        write_json(options.output, record)
        print(f"{options.output}: clean {record['clean_accuracy']:.4f}")


if __name__ == "__main__":
    main()
