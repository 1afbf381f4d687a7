"""What a proof costs: the Lipschitz bounds of two networks, and certifying 10,000 images over pushing them forward.

The large network is a residual one, twenty 3 x 3 convolutions of 128 channels on 32 x 32; its bound is formed first, so
that the peak of resident memory belongs to it. The other is the notebook's, as trained, on the embedded images over and
over. Certification bounds the network and evaluates it; the ratios are of the rest, without the bound, to one plain
forward pass in batches of the same size, in float32 and in float64. Target: at most 1.3 times the float32 one.

    python benchmarks/lipschitz_bound.py --output experiments/results/benchmarks/lipschitz_bound.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lipcert import certify, lipschitz_upper_bound, load_network
from lipcert.data import FashionMNISTMini
from lipcert.files import write_json

NETWORK = Path(__file__).parents[1] / "experiments" / "results" / "fashion_mnist" / "hkr.safetensors"
IMAGE = (1, 28, 28)
BATCH = 100


class Residual(nn.Module):
    """A convolution beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, C, H, W)``, as the inputs."""
        return inputs + torch.relu(self.conv(inputs))


def residual_network(layers: int, channels: int, size: int) -> nn.Module:
    blocks = [Residual(channels) for _ in range(layers)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels * size * size, 10)).eval()


def seconds(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def forward(network: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        for chunk in inputs.split(BATCH):
            network(chunk)


def peak_gigabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def certifying(network: nn.Module, inputs: Tensor, rounds: int) -> dict[str, float]:
    double, doubles = copy.deepcopy(network).double(), inputs.double()
    forward(network, inputs)
    certify(network, inputs[:1])  # warms up
    measured: dict[str, list[float]] = {"bound": [], "certify": [], "float32": [], "float64": []}
    for _ in range(rounds):  # in turn, so that a busy machine slows all of them alike
        measured["bound"].append(seconds(lambda: certify(network, inputs[:1]), 1))
        measured["certify"].append(seconds(lambda: certify(network, inputs, batch_size=BATCH), 1))
        measured["float32"].append(seconds(lambda: forward(network, inputs), 1))
        measured["float64"].append(seconds(lambda: forward(double, doubles), 1))
    turns = list(zip(*measured.values(), strict=True))
    return {
        **{f"{name}_seconds": round(statistics.median(values), 4) for name, values in measured.items()},
        "ratio_to_float32_forward": round(statistics.median((whole - b) / f for b, whole, f, _ in turns), 3),
        "ratio_to_float64_forward": round(statistics.median((whole - b) / d for b, whole, _, d in turns), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are reported")
    parser.add_argument("--images", type=int, default=10_000, help="images to certify")
    parser.add_argument("--layers", type=int, default=20, help="convolutions of the residual network")
    parser.add_argument("--channels", type=int, default=128, help="its channels")
    parser.add_argument("--size", type=int, default=32, help="its height and width")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    torch.manual_seed(0)
    shape = (options.channels, options.size, options.size)
    large = residual_network(options.layers, options.channels, options.size)
    large_seconds = seconds(lambda: lipschitz_upper_bound(large, shape), 1)
    peak = peak_gigabytes()
    notebook = load_network(NETWORK)
    images = FashionMNISTMini().split("test").inputs()
    inputs = images[torch.arange(options.images) % len(images)]
    lipschitz_upper_bound(notebook, IMAGE)  # warms up
    figures = {
        "benchmark": "lipschitz_bound",
        "command": f"python benchmarks/lipschitz_bound.py --rounds {options.rounds}",
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "rounds": options.rounds,
        "notebook_network": {
            "bound_seconds": round(seconds(lambda: lipschitz_upper_bound(notebook, IMAGE), options.rounds), 4)
        },
        "residual_network": {
            "layers": options.layers,
            "channels": options.channels,
            "size": options.size,
            "bound_seconds": round(large_seconds, 2),
            "peak_resident_gigabytes": round(peak, 3),
        },
        "certify": {
            "images": options.images,
            "batch": BATCH,
            **certifying(notebook, inputs, options.rounds),
        },
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
