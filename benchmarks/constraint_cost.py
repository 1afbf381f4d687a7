"""What a training step costs under each constraint, over the same network without one.

Three networks: ``dense``, 784 - 512 x 4 - 10 with GroupSort2, ``convolutional``, patch and 1 x 1 convolutions with
shifts between them, and ``overlapping``, 3 x 3 convolutions of which one has stride 2. A step is forward pass,
cross-entropy, backward pass and Adam, in float32. ``unconstrained`` is the twin of plain ``nn.Linear`` and
``nn.Conv2d``; ``projection``, ``aoc`` and ``rko`` include their retraction every 8 steps; ``torchlip`` is
deel-torchlip's ``SpectralLinear`` and ``SpectralConv2d``, ``orthogonium`` its ``AdaptiveOrthoConv2d``, with their
defaults. Every round times each of them for the same number of steps, in turn, so that a busy machine slows all of them
alike; ratios are formed within a round.

    python benchmarks/constraint_cost.py --output experiments/results/benchmarks/constraint_cost.json
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from deel import torchlip
from orthogonium.layers import AdaptiveOrthoConv2d
from torch import Tensor, nn

from lipcert.files import write_json
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
from lipcert.layers.stiefel import KEPT

CONSTRAINTS = ("unconstrained", "projection", *ENGINES, "torchlip")
OVERLAPPING = ("unconstrained", "aoc", "rko", "aol", "torchlip", "orthogonium")
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


def overlapping_conv(constraint: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    if constraint == "unconstrained":
        return nn.Conv2d(inputs, outputs, 3, stride, 1)
    if constraint == "torchlip":
        return torchlip.SpectralConv2d(inputs, outputs, (3, 3), stride, padding=1, padding_mode="zeros")
    if constraint == "orthogonium":
        return AdaptiveOrthoConv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="zeros")
    return OrthogonalConv2d(inputs, outputs, 3, stride=stride, padding=1, constraint=constraint)


def overlapping_network(constraint: str, width: int) -> nn.Module:
    """The stem, on disjoint patches, and the head are the same for all but the twin."""
    plain = "unconstrained" if constraint == "unconstrained" else "projection"
    layers: list[nn.Module] = [conv(plain, 1, width, 2), MaxMin()]
    for inputs, outputs, stride in ((width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
        layers += [overlapping_conv(constraint, inputs, outputs, stride), MaxMin()]
    return nn.Sequential(*layers, L2NormPool2d((7, 7)), nn.Flatten(), linear(plain, 2 * width, 10))


def trainer(network: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[int], None]:
    """Return what trains a network for a number of steps."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    if any(getattr(layer, "constraint", None) in KEPT for layer in network.modules()):
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


def compare(
    constraints: Sequence[str], make: Callable[[str], nn.Module], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Milliseconds a step and ratio to the unconstrained twin, medians over rounds, for each constraint."""
    inputs, labels = torch.rand(options.batch, 1, 28, 28), torch.randint(10, (options.batch,))
    trainers = {name: trainer(make(name), inputs, labels) for name in constraints}
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
        for name in constraints
    }


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    for network, result in results.items():
        print(f"{network:>14} {'ms a step':>12} {'ratio':>7}")
        for constraint, cell in result.items():
            print(f"{constraint:>14} {cell['milliseconds_a_step']:12.2f} {cell['ratio']:7.3f}")


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
    widths["overlapping"] = widths["convolutional"]
    results = {
        "dense": compare(CONSTRAINTS, lambda name: dense_network(name, widths["dense"]), options),
        "convolutional": compare(
            CONSTRAINTS, lambda name: convolutional_network(name, widths["convolutional"]), options
        ),
        "overlapping": compare(OVERLAPPING, lambda name: overlapping_network(name, widths["overlapping"]), options),
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
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
