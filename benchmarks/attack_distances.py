"""How near the adversarial examples of BoundaryWalk are, and how soon, beside what other attacks find.

All attack the tutorial's network, as trained, away from the class that it gives, on the embedded test images: the first
100 of each class of Fashion-MNIST's. Candidates of all are judged by ``lipcert.attacks.verify``, distances are L2.

Ten images, the first correctly classified one of each class: foolbox's Carlini-Wagner with 6 x 8000 steps. The walk
runs before and after it; its time, in which its examples are verified once more, is the median. Targets: on every image
at most 1.01 times the distance, in at most 1/50 of the time.

All images: foolbox's DDN, DeepFool and Carlini-Wagner with fewer steps, and pyautoattack's targeted FAB, each of whose
targets is run on every image, unlike in AutoAttack, with fewer iterations than there; with as many, on some of the
images. Target: a median distance not above that of any of them.

    python benchmarks/attack_distances.py --output experiments/results/benchmarks/attack_distances.json
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from lipcert import load_network
from lipcert.attacks import BoundaryWalk, verify
from lipcert.attacks.carlini_wagner import import_foolbox
from lipcert.data import FashionMNISTMini
from lipcert.files import write_json

NETWORK = Path(__file__).parents[1] / "experiments" / "results" / "fashion_mnist" / "hkr.safetensors"
BATCH = 100
DEEP = BoundaryWalk(steps=16, restarts=3)
TIMES = ("seconds", "cpu_seconds")

Search = Callable[[Tensor, Tensor], Tensor]


def foolbox_attack(network: nn.Module, name: str, **settings: Any) -> Search:
    """Return one of foolbox's attacks, away from the labels."""
    foolbox = import_foolbox()
    attack = getattr(foolbox.attacks, name)(**settings)

    def search(inputs: Tensor, labels: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        found: Tensor = attack.run(model, inputs, foolbox.criteria.Misclassification(labels))
        return found.clamp(0, 1)

    return search


def fab_attack(network: nn.Module, iterations: int, targets: int) -> Search:
    """Return pyautoattack's FAB towards so many classes, the nearest example of all."""

    def search(inputs: Tensor, labels: Tensor) -> Tensor:
        attack = FABAttack_PT(network, norm="L2", n_iter=iterations, targeted=True, device="cpu")
        nearest, least = inputs.clone(), torch.full((len(inputs),), torch.inf)
        for attack.target_class in range(2, targets + 2):
            found = attack.attack_single_run(inputs, labels, is_targeted=True)
            with torch.no_grad():
                distance = (found - inputs).flatten(1).norm(dim=1)
                nearer = (network(found).argmax(1) != labels) & (distance < least)
            nearest[nearer], least[nearer] = found[nearer], distance[nearer]
        return nearest

    return search


def walk(network: nn.Module, attack: BoundaryWalk = BoundaryWalk()) -> Search:  # noqa: B008 - frozen
    """Return the walk, its own check of the examples included."""
    return lambda inputs, labels: attack(network, inputs, labels).candidates


@dataclass(frozen=True)
class Run:
    """What a search found, in which time by the clock and of the processor, on all of its cores together."""

    distance: Tensor
    seconds: float
    cpu_seconds: float


def measured(network: nn.Module, search: Search, inputs: Tensor, labels: Tensor) -> Run:
    """Return verified distances and the time that the search took."""
    started, cpu_started = time.perf_counter(), time.process_time()
    parts = zip(inputs.split(BATCH), labels.split(BATCH), strict=True)
    candidates = torch.cat([search(*part) for part in parts])
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Run(verify(network, inputs, labels, candidates).distance, seconds, cpu_seconds)


def ten_images(network: nn.Module, inputs: Tensor, labels: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Return the walk beside Carlini-Wagner's long search."""
    long = foolbox_attack(network, "L2CarliniWagnerAttack", binary_search_steps=6, steps=options.steps)
    runs = [measured(network, walk(network), inputs, labels) for _ in range(options.rounds + 1)][1:]
    peer = measured(network, long, inputs, labels)
    runs += [measured(network, walk(network), inputs, labels) for _ in range(options.rounds)]
    median = Run(runs[0].distance, *(statistics.median(getattr(run, name) for run in runs) for name in TIMES))
    return {
        "carlini_wagner": {"settings": f"6 x {options.steps}", **figures_of(peer)},
        "boundary_walk": {**figures_of(median), **beside(median, peer)},
        "boundary_walk_deep": {
            "settings": DEEP.parameters(),
            **figures_of(deep := measured(network, walk(network, DEEP), inputs, labels)),
            **beside(deep, peer),
        },
    }


def figures_of(run: Run) -> dict[str, Any]:
    return {
        "seconds": round(run.seconds, 3),
        "cpu_seconds": round(run.cpu_seconds, 3),
        "distances": [round(value, 4) for value in run.distance.tolist()],
    }


def beside(run: Run, peer: Run) -> dict[str, Any]:
    """Return the ratios of one search to another."""
    ratios = (run.distance / peer.distance).tolist()
    return {
        "ratios": [round(value, 4) for value in ratios],
        "largest_ratio": round(max(ratios), 4),
        "times_faster": round(peer.seconds / run.seconds, 1),
        "times_less_cpu": round(peer.cpu_seconds / run.cpu_seconds, 1),
    }


def many_images(network: nn.Module, inputs: Tensor, labels: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Return the walk beside each peer, on the images that this one is given time for."""
    short = {"binary_search_steps": 3, "steps": options.short_steps, "stepsize": 0.03, "initial_const": 3.0}
    peers: dict[str, tuple[Search, int]] = {
        "foolbox DDN, 100 steps": (foolbox_attack(network, "DDNAttack", steps=100), len(inputs)),
        "foolbox DeepFool, 50 steps": (foolbox_attack(network, "L2DeepFoolAttack", steps=50), len(inputs)),
        f"foolbox CW, 3 x {options.short_steps} steps": (
            foolbox_attack(network, "L2CarliniWagnerAttack", **short),
            len(inputs),
        ),
        f"pyautoattack FAB-T, {options.short_iterations} iterations": (
            fab_attack(network, options.short_iterations, targets=9),
            len(inputs),
        ),
        f"pyautoattack FAB-T, {options.iterations} iterations": (
            fab_attack(network, options.iterations, targets=9),
            options.some,
        ),
    }
    own = measured(network, walk(network), inputs, labels)
    rows = {}
    for name, (search, count) in peers.items():
        peer = measured(network, search, inputs[:count], labels[:count])
        distance, ours = peer.distance, own.distance[:count]
        rows[name] = {
            "images": count,
            **summary(peer),
            "boundary_walk_median": round(float(ours.median()), 4),
            "share_not_nearer_than_the_walk": round(float((distance >= ours).double().mean()), 4),
            "largest_ratio": round(float((ours / distance).max()), 4),
        }
        print(name, rows[name], flush=True)
    return {
        "images": len(inputs),
        "boundary_walk": {"settings": BoundaryWalk().parameters(), **summary(own)},
        "peers": rows,
    }


def summary(run: Run) -> dict[str, float]:
    return {
        "median_distance": round(float(run.distance.median()), 4),
        "failures": int(run.distance.isinf().sum()),
        "milliseconds_an_image": round(1e3 * run.seconds / len(run.distance), 1),
        "cpu_milliseconds_an_image": round(1e3 * run.cpu_seconds / len(run.distance), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="how many of the images all but one peer attack")
    parser.add_argument("--some", type=int, default=50, help="how many of them the longest search attacks")
    parser.add_argument("--steps", type=int, default=8000, help="steps of Carlini-Wagner on the ten images")
    parser.add_argument("--short-steps", type=int, default=100, help="its steps on the others")
    parser.add_argument("--iterations", type=int, default=100, help="iterations of FAB on some of the images")
    parser.add_argument("--short-iterations", type=int, default=10, help="its iterations on all of them")
    parser.add_argument("--rounds", type=int, default=3, help="runs of the walk before and after Carlini-Wagner")
    parser.add_argument("--seed", type=int, default=0, help="which images come first")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    network, images = load_network(NETWORK), FashionMNISTMini().split("test")
    inputs = images.inputs()
    with torch.no_grad():
        labels = torch.cat([network(part).argmax(1) for part in inputs.split(BATCH)])
    right = labels == images.labels
    first = torch.stack([(right & (images.labels == each)).nonzero()[0, 0] for each in range(10)])
    some = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(options.seed))[: options.images]
    started = time.perf_counter()
    figures = {
        "benchmark": "attack_distances",
        "command": shlex.join(["python", "benchmarks/attack_distances.py", *sys.argv[1:]]),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "seed": options.seed,
        "ten_images": ten_images(network, inputs[first], labels[first], options),
        "many_images": many_images(network, inputs[some], labels[some], options),
    }
    figures["seconds"] = round(time.perf_counter() - started, 1)
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures, allow_nan=True)  # where nothing was found


if __name__ == "__main__":
    main()
