"""Keep what a trained vote certifies against patches as a results file, beside the published rule on the same votes.

The votes are computed again, on all test images, by the exported network. ``certified_accuracy`` is by the side of a
square patch, by enumeration of its places; ``twice_affected`` is what the rule of Levine and Feizi (2020) certifies,
a gap of more than twice the views that a patch can touch. The first is never less, image by image.

python experiments/keep_votes.py runs/mnist_columns experiments/results/patches/mnist_columns.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from lipcert import load_run
from lipcert.certificates import certify_patch, predict_votes, vote_counts
from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_json
from lipcert.networks import SmoothedNetwork
from lipcert.runs import Run, RunPaths


def keep(run: Run, threads: int) -> dict[str, Any]:
    """The results record of a run: its summary, with both shares for every side up to the first that has none."""
    network = run.network
    if not isinstance(network, SmoothedNetwork):
        raise InputError(f"expected a run of a network that votes over ablated views, got {type(network).__name__}")
    test = run.data.split("test")
    inputs, labels = test.inputs(), test.labels
    votes = network.votes(inputs)
    counts = vote_counts(votes, num_classes=network.num_classes)
    right = predict_votes(counts) == labels
    first, second = counts.topk(2).values.unbind(1)
    size, exact, rule = (inputs.shape[2], inputs.shape[3]), {}, {}
    for side in range(1, min(size) + 1):
        certified = certify_patch(votes, network.ablation, size, side, num_classes=network.num_classes) & right
        affected = int(network.ablation.affected(*size, side).sum(1).max())
        published = (first - second > 2 * affected) & right
        if (published & ~certified).any():
            raise AssertionError("the published rule certified an image that the enumeration does not")
        exact[str(side)], rule[str(side)] = share(certified), share(published)
        if not certified.any():
            break
    summary = json.loads(RunPaths(run.directory).summary.read_text())
    return {
        "name": run.config["name"],
        "command": summary["command"],
        "hardware": f"{os.cpu_count()} CPU cores, {threads} used, {platform.machine()}",
        "data": run.data.name,
        "network_sha256": run.network_sha256,
        **{name: summary[name] for name in ("seed", "epochs", "seconds", "train_samples", "versions")},
        "samples": len(labels),
        "ablation": repr(network.ablation),
        "threshold": network.threshold,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "clean_accuracy": share(right),
        "certified_accuracy": exact,
        "twice_affected": rule,
    }


def share(of: torch.Tensor) -> float:
    """Share of True, to six digits."""
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
