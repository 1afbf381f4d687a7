"""Input transformations beside those of the Adversarial Robustness Toolbox (ART), on the same images.

Milliseconds an image for batches of random smooth images, both from and to arrays in memory in the layout that each
wants. In every round one runs after the other, the one that starts alternating; ratios are formed within a round and
the medians over rounds are reported, as wall-clock and processor time: lipcert's are batched, ART's loop over images.
For total variation both minimise the same objective with the same masks, with ART's default strength and with that of
Guo et al.: what is timed are the fewest iterations that reach ART's value, and lipcert's default number. JPEG is also
measured by way of Pillow, image by image in a pool of threads.

ART is no dependency: install ``adversarial-robustness-toolbox==1.20.1`` and ``packaging`` to run this.

    python benchmarks/transformations.py --output experiments/results/benchmarks/transformations.json
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lipcert.data.loader import seeded_generator
from lipcert.defenses import JPEG, MedianFilter, TotalVariation
from lipcert.defenses.total_variation import minimize_total_variation, total_variation_objective
from lipcert.files import write_json

QUALITY = 50
DEFAULT = TotalVariation().iterations
STRENGTHS = ((0.5, 0.3), (0.03, 0.5))  # ART's strength and share of pixels kept, Guo et al.'s
Way = Callable[[], Any]


def pictures(count: int, size: int) -> Tensor:
    """Return smooth colour images with a little noise, in 8 bits."""
    generator = seeded_generator(0, size)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    noise = 0.02 * torch.randn(count, 3, size, size, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bicubic") + noise
    return smooth.clamp(0, 1).mul(255).round().div(255)


def compared(count: int, rounds: int, ways: dict[str, Way]) -> dict[str, Any]:
    """Return the medians of milliseconds an image of each way, and of the ratios of the others to lipcert's."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in sorted(ways, reverse=number % 2 == 1):
            began = time.perf_counter(), time.process_time()
            ways[name]()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    figures: dict[str, Any] = {"images": count}
    for place, kind in enumerate(("wall", "cpu")):
        figures[f"{kind}_ms"] = {
            name: round(1e3 * statistics.median(spent[place] for spent in times[name]) / count, 4) for name in ways
        }
        figures[f"{kind}_ratio"] = {
            name: round(
                statistics.median(a[place] / b[place] for a, b in zip(times[name], times["lipcert"], strict=True)), 2
            )
            for name in ways
            if name != "lipcert"
        }
    return figures


def by_pillow(images: Tensor) -> Tensor:
    """Return images written and read by Pillow in a pool of threads."""

    def one(levels: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.stack(list(pool.map(one, (images * 255).round().to(torch.uint8)))) / 255


def jpeg(art: Any, count: int, size: int, rounds: int) -> dict[str, Any]:
    images, ours = pictures(count, size), JPEG(QUALITY)
    arrays, theirs = images.permute(0, 2, 3, 1).contiguous().numpy(), art.JpegCompression((0.0, 1.0), QUALITY)
    ways: dict[str, Way] = {
        "lipcert": lambda: ours(images),
        "art": lambda: theirs(arrays),
        "pillow in threads": lambda: by_pillow(images),
    }
    found = torch.from_numpy(theirs(arrays)[0]).permute(0, 3, 1, 2)
    return {
        "transformation": "jpeg",
        "size": size,
        "quality": QUALITY,
        "equal_to_pillow": torch.equal(ours(images), by_pillow(images)),
        "largest_difference_to_art": round((ours(images) - found).abs().max().item(), 4),
        **compared(count, rounds, ways),
    }


def median(art: Any, count: int, size: int, rounds: int) -> dict[str, Any]:
    images, ours = pictures(count, size), MedianFilter(3)
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    theirs = art.SpatialSmoothing(window_size=3, clip_values=(0.0, 1.0))
    found = torch.from_numpy(theirs(arrays)[0]).permute(0, 3, 1, 2)
    return {
        "transformation": "median 3",
        "size": size,
        "largest_difference_to_art": (ours(images) - found).abs().max().item(),
        **compared(count, rounds, {"lipcert": lambda: ours(images), "art": lambda: theirs(arrays)}),
    }


def masks(count: int, size: int, keep: float) -> Tensor:
    """Return the masks that ART draws from numpy's global generator with seed 0: channel by channel, image by image."""
    np.random.seed(0)
    drawn = [np.random.rand(size, size) < keep for _ in range(3 * count)]
    return torch.from_numpy(np.stack(drawn)).view(count, 3, size, size)


def total_variation(art: Any, count: int, rounds: int, *, strength: float, keep: float) -> dict[str, Any]:
    size = 32
    images, kept = pictures(count, size), masks(count, size, keep)
    some = max(1, count // 8)  # ART takes long
    arrays = images[:some].permute(0, 2, 3, 1).contiguous().numpy()
    theirs = art.TotalVarMin(prob=keep, lamb=strength, clip_values=(0.0, 1.0))

    def minimized(iterations: int) -> Tensor:
        return minimize_total_variation(images, kept, strength=strength, iterations=iterations).clamp(0, 1)

    def by_art() -> Tensor:
        np.random.seed(0)
        return torch.from_numpy(theirs(arrays)[0]).permute(0, 3, 1, 2)

    def reached(candidates: Tensor) -> float:
        part = slice(some)
        return round(
            total_variation_objective(candidates[part], images[part], kept[part], strength=strength).mean().item(), 4
        )

    goal = reached(by_art())
    enough = next(iterations for iterations in itertools.count(1) if reached(minimized(iterations)) <= goal)
    ways = {"lipcert": lambda: minimized(enough), "lipcert, default": lambda: minimized(DEFAULT), "art": by_art}
    figures = compared(count, rounds, ways)
    for kind in ("wall", "cpu"):  # it was given fewer images
        for key in (f"{kind}_ms", f"{kind}_ratio"):
            figures[key]["art"] = round(figures[key]["art"] * count / some, 3)
    best = minimize_total_variation(images[:some], kept[:some], strength=strength, iterations=1000)
    return {
        "transformation": "total variation",
        "size": size,
        "strength": strength,
        "keep": keep,
        "iterations": enough,
        "default_iterations": DEFAULT,
        "objective": {
            "image itself": reached(images),
            "art": goal,
            "lipcert": reached(minimized(enough)),
            "lipcert, default": reached(minimized(DEFAULT)),
            "1000 iterations": reached(best),
        },
        "images_for_art": some,
        **figures,
    }


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="images of 32 x 32; a sixteenth of it at 224 x 224")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the medians over them are reported")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    try:
        import art
        from art.defences import preprocessor
    except ImportError as error:
        sys.exit(f"{Path(__file__).name}: expected the package adversarial-robustness-toolbox, got: {error}")
    few = max(1, options.images // 16)
    figures = {
        "benchmark": "transformations",
        "command": shlex.join(["python", *sys.argv]),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "adversarial-robustness-toolbox": art.__version__,
        "seed": 0,
        "rounds": options.rounds,
        "transformations": [
            jpeg(preprocessor, options.images, 32, options.rounds),
            jpeg(preprocessor, few, 224, options.rounds),
            median(preprocessor, options.images, 32, options.rounds),
            median(preprocessor, few, 224, options.rounds),
            *(
                total_variation(preprocessor, options.images, options.rounds, strength=strength, keep=keep)
                for strength, keep in STRENGTHS
            ),
        ],
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
