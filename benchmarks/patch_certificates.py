"""What patch certificates cost: 10,000 tables of votes, every place of a patch, beside a loop and the rule of counts.

A table has the votes of 224 bands of columns, 19 pixels wide, on an image of 224 x 224, for 1,000 classes; the patch is
32 x 32. Four kinds: views that agree on one class by a share that varies from image to image, the others voting at
random among ten classes of the image or among all; views that all vote at random; and, for views that may vote for
several classes, those of the second kind with further votes at random.

The loop takes one image at a time, and counts the votes that are left at every place: the plain reading of the rule.
It gets the first images only, and its time is per image. The rule of counts certifies a lead of twice the largest
number of affected views. Memory is the peak of the whole process, the votes handed in included. Target: under 60 s and
under 4 GB for each kind.

    python benchmarks/patch_certificates.py --output experiments/results/benchmarks/patch_certificates.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.certificates import (
    ColumnAblation,
    certify_patch,
    largest_certified_patch,
    predict_votes,
    vote_counts,
)
from lipcert.files import write_json

KINDS = ("agreeing", "undecided", "random", "thresholded")
SIZE, PATCH, COLUMN = 224, 32, 19


def tables(kind: str, images: int, classes: int, seed: int) -> Tensor:
    """Return votes ``(N, V)``, or for ``"thresholded"`` ones ``(N, V, K)``."""
    generator = torch.Generator().manual_seed(seed)
    favourites = torch.randint(classes, (images, 10), generator=generator)
    among_all = torch.randint(classes, (images, SIZE), generator=generator)
    among_few = favourites.gather(1, torch.randint(10, (images, SIZE), generator=generator))
    others = among_few if kind == "agreeing" else among_all
    share = torch.rand(images, 1, generator=generator) * (kind != "random")
    agree = torch.rand(images, SIZE, generator=generator) < share
    votes = torch.where(agree, favourites[:, :1], others)
    if kind != "thresholded":
        return votes
    several = torch.zeros(images, SIZE, classes, dtype=torch.bool)
    for some, chosen in zip(several.split(100), votes.split(100), strict=True):
        some.copy_(torch.rand(some.shape, generator=generator) < 0.01).scatter_(2, chosen[:, :, None], True)
    return several


def by_loop(votes: Tensor, ablation: ColumnAblation, classes: int) -> Tensor:
    """Return what is certified ``(N,)``, an image and a place at a time."""
    affected = ablation.affected(SIZE, SIZE, PATCH).unique(dim=0)
    certified = []
    for each in votes:
        ballots = each if each.ndim == 2 else F.one_hot(each, classes)
        best = int(predict_votes(ballots.sum(0, keepdim=True)))
        comes_first = (torch.arange(classes) < best).long()
        survives = True
        for place in affected:
            kept = ballots[~place].sum(0)
            others = kept + place.sum() + comes_first
            others[best] = kept[best]
            survives = survives and bool(kept[best] >= others.max())
        certified.append(survives)
    return torch.tensor(certified)


def by_counts(votes: Tensor, ablation: ColumnAblation, classes: int) -> Tensor:
    """Return what is certified ``(N,)`` by the lead over the others alone."""
    counts = vote_counts(votes, num_classes=classes)
    best = predict_votes(counts)[:, None]
    lead = counts.gather(1, best) - counts - (torch.arange(classes) < best).long()
    lead.scatter_(1, best, SIZE * 2)
    return lead.amin(1) >= 2 * ablation.affected(SIZE, SIZE, PATCH).sum(1).max()


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def peak_gigabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def measured(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    ablation, classes = ColumnAblation(COLUMN, stride=options.stride), options.classes
    votes = tables(kind, options.images, classes, options.seed)[:, :: options.stride].contiguous()
    some = votes[: options.loop_images]
    certified, seconds = timed(lambda: certify_patch(votes, ablation, (SIZE, SIZE), PATCH, num_classes=classes))
    peak = peak_gigabytes()
    plain, plain_seconds = timed(lambda: by_counts(votes, ablation, classes))
    loop, loop_seconds = timed(lambda: by_loop(some, ablation, classes))
    largest, largest_seconds = timed(
        lambda: largest_certified_patch(votes, ablation, (SIZE, SIZE), num_classes=classes)
    )
    assert torch.equal(loop, certified[: len(loop)])
    assert torch.equal(certified, largest >= PATCH)
    assert (certified | ~plain).all()
    return {
        "kind": kind,
        "seconds": round(seconds, 3),
        "peak_gigabytes": round(peak, 3),
        "certified": certified.double().mean().item(),
        "certified_by_counts": plain.double().mean().item(),
        "counts_seconds": round(plain_seconds, 3),
        "loop_seconds_per_image": round(loop_seconds / len(some), 5),
        "times_as_fast_as_the_loop": round(loop_seconds / len(some) * len(votes) / seconds, 1),
        "largest_patch_seconds": round(largest_seconds, 3),
        "mean_largest_patch": round(largest.double().mean().item(), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--images", type=int, default=10_000, help="tables of votes")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--stride", type=int, default=1, help="of the bands of columns")
    parser.add_argument("--loop-images", type=int, default=10, help="how many of them the loop gets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    figures = {
        "benchmark": "patch_certificates",
        "command": shlex.join(["python", *sys.argv]),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "seed": options.seed,
        "images": options.images,
        "views": SIZE,
        "classes": options.classes,
        "patch": PATCH,
        "kinds": [measured(kind, options) for kind in options.kinds],
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
