"""AutoAttack through lipcert beside pyautoattack called directly: the same samples withstand it, in no more time.

Both attack the tutorial's network, as trained, on the first images of the embedded test set, by the standard version
with the same seed and batches. In every round one runs after the other, the one that starts alternating, and ratios are
formed within a round. lipcert's time is the attack's, that of the processor includes the check of what was found; it is
shorter because attacks search with layers of the same values and shorter passes, see ``lipcert.layers.quick``, and
pyautoattack's checks of the network are left out.

``winners`` counts whose example it was, as a cascade: each component attacks what withstood those before it.

    python benchmarks/autoattack.py --output experiments/results/benchmarks/autoattack.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyautoattack
import torch
from torch import Tensor, nn

from lipcert import load_network
from lipcert.attacks import AutoAttack, Norm, Outcome
from lipcert.data import FashionMNISTMini
from lipcert.files import write_json

NETWORK = Path(__file__).parents[1] / "experiments" / "results" / "fashion_mnist" / "hkr.safetensors"
BUDGETS: dict[Norm, float] = {"l2": 0.5, "linf": 0.02}
OFFICIAL = {"l2": "L2", "linf": "Linf"}
BATCH = 250


def directly(network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm, components: list[str]) -> Tensor:
    """Return which samples pyautoattack itself leaves standing."""
    version: dict[str, Any] = {"version": "custom", "attacks": components} if components else {"version": "standard"}
    attack = pyautoattack.AutoAttack(network, norm=OFFICIAL[norm], eps=BUDGETS[norm], seed=0, **version)
    if components:
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
    _, predictions = attack.run_standard_evaluation(inputs, labels, batch_size=BATCH)
    return predictions == labels


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return a result and the wall-clock and processor seconds that it took."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return result, {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}


def compared(
    network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm, options: argparse.Namespace
) -> dict[str, Any]:
    """Return accuracies, times and winners in one norm."""
    attack = AutoAttack(components=tuple(options.components), batch_size=BATCH)
    times: dict[str, list[dict[str, float]]] = {"lipcert": [], "pyautoattack": []}
    for number in range(options.rounds):
        for name in sorted(times, reverse=number % 2 == 1):
            if name == "lipcert":
                outcome: Outcome
                outcome, spent = timed(lambda: attack(network, inputs, labels, norm=norm, epsilon=BUDGETS[norm]))
                spent["seconds"] = outcome.seconds
                withstood = ~outcome.verified.success
            else:
                standing, spent = timed(lambda: directly(network, inputs, labels, norm, options.components))
            times[name].append(spent)
    winners = Counter(winner or "none" for winner in outcome.details["winner"])
    rounds = list(zip(times["lipcert"], times["pyautoattack"], strict=True))
    return {
        "norm": norm,
        "epsilon": BUDGETS[norm],
        "clean_accuracy": (network(inputs).argmax(1) == labels).double().mean().item(),
        "robust_accuracy": {
            "lipcert": withstood.double().mean().item(),
            "pyautoattack": standing.double().mean().item(),
        },
        "same_samples": torch.equal(withstood, standing),
        **{
            f"{name}_{kind}": round(statistics.median(spent[kind] for spent in times[name]), 3)
            for name in times
            for kind in ("seconds", "cpu_seconds")
        },
        "ratio_of_seconds": round(statistics.median(a["seconds"] / b["seconds"] for a, b in rounds), 3),
        "ratio_of_cpu_seconds": round(statistics.median(a["cpu_seconds"] / b["cpu_seconds"] for a, b in rounds), 3),
        "forward_passes": outcome.forward_passes,
        "backward_passes": outcome.backward_passes,
        "winners": dict(winners),
    }


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="test images, the first ones")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the medians over them are reported")
    parser.add_argument("--components", nargs="*", default=[], help="which run instead of the standard four")
    parser.add_argument("--norms", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    network = load_network(NETWORK)
    images = FashionMNISTMini().split("test")
    inputs, labels = images.inputs()[: options.images], images.labels[: options.images]
    directly(network, inputs[:2], labels[:2], "l2", ["apgd-ce"])  # warms up
    figures = {
        "benchmark": "autoattack",
        "command": shlex.join(["python", *sys.argv]),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "pyautoattack": pyautoattack.__version__,
        "seed": 0,
        "rounds": options.rounds,
        "images": len(inputs),
        "norms": [compared(network, inputs, labels, norm, options) for norm in options.norms],
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
