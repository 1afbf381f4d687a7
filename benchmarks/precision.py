"""What products in bfloat16 and torch.compile are worth in training, over plain float32.

A step is forward pass, CertifiedRadiusLoss, backward pass and OneSidedShampoo with its retraction every second step, on
the networks of two configurations: ``dense`` of fashion_mnist/balanced.yaml, ``convolutional`` of cifar10/cpu.yaml.
``bfloat16`` is autocast, as Lightning's ``bf16-mixed``; ``compiled`` is ``torch.compile`` of the network, whose first
call, which compiles, is not counted but told. Each round times all of them in turn; ratios are formed within a round:
above 1 is slower than float32. Which is best depends on the processor: bfloat16 needs units for it.

    python benchmarks/precision.py --output experiments/results/benchmarks/precision.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.files import write_json
from lipcert.layers import keep_orthogonal
from lipcert.losses import CertifiedRadiusLoss
from lipcert.networks import conv_network, dense_network
from lipcert.optimizers import OneSidedShampoo

MODES = ("float32", "bfloat16", "compiled")


def trainer(network: nn.Module, inputs: Tensor, labels: Tensor, mode: str) -> Callable[[int], None]:
    """Return what trains a network for a number of steps."""
    optimizer = OneSidedShampoo(network.parameters(), lr=0.01)
    keep_orthogonal(optimizer, network, every=2)
    loss = CertifiedRadiusLoss(0.5)
    forward: Callable[[Tensor], Tensor] = torch.compile(network) if mode == "compiled" else network

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bfloat16"):
                logits = forward(inputs)
            loss(logits.float(), labels).backward()
            optimizer.step()

    return train


def seconds(train: Callable[[int], None], steps: int) -> float:
    started = time.perf_counter()
    train(steps)
    return time.perf_counter() - started


def compare(make: Callable[[], nn.Module], inputs: Tensor, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds a step and ratio to float32, medians over rounds, for each mode."""
    labels = torch.arange(len(inputs)) % 10
    trainers = {mode: trainer(make(), inputs, labels, mode) for mode in options.modes}
    first = {mode: seconds(train, 1) for mode, train in trainers.items()}
    rounds = [
        {mode: seconds(train, options.steps) / options.steps for mode, train in trainers.items()}
        for _ in range(options.rounds)
    ]
    return {
        mode: {
            "milliseconds_a_step": round(1000 * statistics.median(times[mode] for times in rounds), 2),
            "ratio": round(statistics.median(times[mode] / times["float32"] for times in rounds), 3),
            "seconds_of_the_first_step": round(first[mode], 2),
        }
        for mode in options.modes
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are reported")
    parser.add_argument("--steps", type=int, default=4, help="training steps a round")
    parser.add_argument("--batch", type=int, default=512, help="images a step")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="float32 is always measured")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    options.modes = list(dict.fromkeys(["float32", *options.modes]))
    torch.manual_seed(0)
    results = {
        "dense": compare(
            lambda: dense_network((1, 28, 28), widths=(640, 640, 640)), torch.rand(options.batch, 1, 28, 28), options
        ),
        "convolutional": compare(
            lambda: conv_network(stages=((64, 1), (128, 1), (256, 0))), torch.rand(options.batch, 3, 32, 32), options
        ),
    }
    figures: dict[str, Any] = {
        "benchmark": "precision",
        "command": f"python benchmarks/precision.py --rounds {options.rounds} --steps {options.steps} "
        f"--batch {options.batch} --modes {' '.join(options.modes)}",
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "rounds": options.rounds,
        "steps": options.steps,
        "batch": options.batch,
        "networks": results,
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
