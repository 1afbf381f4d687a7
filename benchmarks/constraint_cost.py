"""What a training step costs under each constraint, over the same network without one.

Two networks: ``dense``, 784 - 512 x 4 - 10 with GroupSort2, and ``convolutional``, patch and 1 x 1 convolutions with
shifts between them. A step is forward pass, cross-entropy, backward pass and Adam, in float32. ``unconstrained`` is the
twin of plain ``nn.Linear`` and ``nn.Conv2d``; ``projection`` includes its retraction every 8 steps; ``torchlip`` is
deel-torchlip's ``SpectralLinear`` and ``SpectralConv2d`` with their defaults. Every round times each of them for the
same number of steps, in turn, so that a busy machine slows all of them alike; ratios are formed within a round.

    python benchmarks/constraint_cost.py --output experiments/results/benchmarks/constraint_cost.json
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
from deel import torchlip
from torch import Tensor, nn

from lipcert.layers import (
    GroupSort2,
    L2NormPool2d,
    MaxMin,
    OrthogonalConv2d,
    OrthogonalLinear,
    SpatialShift,
    keep_orthogonal,
)
from lipcert.layers.constraints import ENGINES

CONSTRAINTS = ("unconstrained", "projection", *ENGINES, "torchlip")
EVERY = 8


def linear(constraint: str, inputs: int, outputs: int) -> nn.Module:
    if constraint == "unconstrained":
        return nn.Linear(inputs, outputs)
    if constraint == "torchlip":
        return torchlip.SpectralLinear(inputs, outputs)
    return OrthogonalLinear(inputs, outputs, constraint=constraint)


def conv(constraint: str, inputs: int, outputs: int, kernel: int) -> nn.Module:
    if constraint == "unconstrained":
        return nn.Conv2d(inputs, outputs, kernel, kernel)
    if constraint == "torchlip":
        return torchlip.SpectralConv2d(inputs, outputs, (kernel, kernel), kernel)
    return OrthogonalConv2d(inputs, outputs, kernel, constraint=constraint)


def dense_network(constraint: str, width: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, width, width, width):
        layers += [linear(constraint, inputs, width), GroupSort2()]
    return nn.Sequential(*layers, linear(constraint, width, 10))


def convolutional_network(constraint: str, width: int) -> nn.Module:
    layers: list[nn.Module] = [conv(constraint, 1, width, 2), MaxMin()]
    for channels in (width, 2 * width):
        for _ in range(2):
            layers += [SpatialShift(), conv(constraint, channels, channels, 1), MaxMin()]
        if channels == width:
            layers += [conv(constraint, width, 2 * width, 2), MaxMin()]
    return nn.Sequential(*layers, L2NormPool2d((7, 7)), nn.Flatten(), linear(constraint, 2 * width, 10))


def trainer(network: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[int], None]:
    """Return what trains a network for a number of steps."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    if any(getattr(layer, "constraint", None) == "projection" for layer in network.modules()):
        keep_orthogonal(optimizer, network, every=EVERY)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), labels).backward()
            optimizer.step()

    return train


def milliseconds(train: Callable[[int], None], steps: int) -> float:
    started = time.perf_counter()
    train(steps)
    return (time.perf_counter() - started) * 1000 / steps


def compare(make: Callable[[str], nn.Module], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds a step and ratio to the unconstrained twin, medians over rounds, for each constraint."""
    inputs, labels = torch.rand(options.batch, 1, 28, 28), torch.randint(10, (options.batch,))
    trainers = {name: trainer(make(name), inputs, labels) for name in CONSTRAINTS}
    rounds: list[dict[str, float]] = []
    for number in range(options.rounds + 1):
        measured = {name: milliseconds(train, options.steps) for name, train in trainers.items()}
        if number > 0:  # the first round warms up
            rounds.append(measured)
    return {
        name: {
            "milliseconds_a_step": round(statistics.median(measured[name] for measured in rounds), 2),
            "ratio": round(statistics.median(measured[name] / measured["unconstrained"] for measured in rounds), 3),
        }
        for name in CONSTRAINTS
    }


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"{'constraint':>14}" + "".join(f"  {name:>13} ms {'ratio':>6}" for name in results))
    for constraint in CONSTRAINTS:
        cells = (result[constraint] for result in results.values())
        print(f"{constraint:>14}" + "".join(f"  {c['milliseconds_a_step']:16.2f} {c['ratio']:6.3f}" for c in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the medians over them are reported")
    parser.add_argument("--steps", type=int, default=EVERY, help=f"training steps a round, a multiple of {EVERY}")
    parser.add_argument("--batch", type=int, default=512, help="images a step")
    parser.add_argument("--small", action="store_true", help="one round of narrow networks on few images")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    if options.small:
        options.rounds, options.batch = 1, 8
    torch.manual_seed(0)
    widths = {"dense": 16, "convolutional": 8} if options.small else {"dense": 512, "convolutional": 32}
    results = {
        "dense": compare(lambda name: dense_network(name, widths["dense"]), options),
        "convolutional": compare(lambda name: convolutional_network(name, widths["convolutional"]), options),
    }
    show(results)
    figures: dict[str, Any] = {
        "benchmark": "constraint_cost",
        "command": f"python benchmarks/constraint_cost.py --rounds {options.rounds} --steps {options.steps} "
        f"--batch {options.batch}" + (" --small" if options.small else ""),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "rounds": options.rounds,
        "steps": options.steps,
        "batch": options.batch,
        "widths": widths,
        "networks": results,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
