"""What a vote over all ablated views costs, beside the forward passes that it cannot do without.

- ``cnn``: votes and certificates of a small CNN at 32 x 32, bands of 4 columns, beside nothing but the forward passes
  of the very same views, encoded beforehand (``passes``), and beside ``eval_and_certify`` of the Adversarial Robustness
  Toolbox with the same network and threshold, in its levine2020 mode, where that is installed (``art``);
- ``vit_32`` and ``vit_224``: votes of vision transformers that pass retained tokens alone, beside full-image passes in
  which the other tokens are there and not attended to; bands of 4 columns of 32, and of 19 columns of 224.

Weights are random: speed does not depend on them. Every round measures all of them in turn, so that a busy machine
slows all alike; ratios are formed within a round, of processor seconds, in which other work does not count.

    python benchmarks/smoothing.py --output experiments/results/benchmarks/smoothing.json
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.certificates import ColumnAblation, certify_patch, encoded_views
from lipcert.files import write_json
from lipcert.networks import SmoothedNetwork, VisionTransformer, cnn, vit_large_images, vit_small_images
from lipcert.networks.smoothed import A_THREAD
from lipcert.networks.token_views import retained_tokens

THRESHOLD, PATCH = 0.3, 5


def measured(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Return what some work costs, by the wall clock and of the processor, and what it returns."""
    started, used = time.perf_counter(), time.process_time()
    with torch.no_grad():
        found = work()
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}, found


def random_images(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def centred(network: nn.Module, inputs: Tensor) -> nn.Module:
    """Shift the logits of a random network so that its views disagree."""
    *_, head = (module for module in network.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        head.bias -= network(inputs).mean(0)
    return network.eval()


class SmallCNN:
    """Votes, bare passes and ART on the same images."""

    def __init__(self, count: int) -> None:
        self.inputs = random_images(count, 32)
        self.labels = torch.zeros(count, dtype=torch.int64)
        self.ablation = ColumnAblation(4)
        views = encoded_views(self.inputs, self.ablation.masks(32, 32)).flatten(0, 1)
        torch.manual_seed(0)
        self.base = centred(cnn((6, 32, 32)), views[:64])
        self.smoothed = SmoothedNetwork(self.base, self.ablation, threshold=THRESHOLD).eval()
        self.batches = views.split(A_THREAD // (6 * 32 * 32))  # the quickest of those tried, in one thread and in two

    def passes(self) -> dict[str, float]:
        """Pass the encoded views."""
        return measured(lambda: [self.base(views) for views in self.batches])[0]

    def votes(self) -> dict[str, float]:
        """Vote."""
        return measured(lambda: self.smoothed.votes(self.inputs))[0]

    def certified(self) -> dict[str, float]:
        """Vote and certify."""

        def work() -> Tensor:
            return certify_patch(self.smoothed.votes(self.inputs), self.ablation, (32, 32), PATCH)

        return measured(work)[0]

    def certified_early(self) -> dict[str, float]:
        """Vote as long as it is needed to certify."""
        return measured(lambda: self.smoothed.certify(self.inputs, PATCH))[0]

    def art(self) -> dict[str, float]:
        """Let ART vote and certify."""
        from art.estimators.certification.derandomized_smoothing import PyTorchDeRandomizedSmoothing

        classifier = PyTorchDeRandomizedSmoothing(
            model=self.base,
            loss=nn.CrossEntropyLoss(),
            input_shape=(3, 32, 32),
            nb_classes=10,
            ablation_size=4,
            algorithm="levine2020",
            ablation_type="column",
            threshold=THRESHOLD,
            logits=True,
            device_type="cpu",
            verbose=False,
        )
        inputs, labels = self.inputs.numpy().copy(), nn.functional.one_hot(self.labels, 10).float().numpy()
        return measured(lambda: classifier.eval_and_certify(inputs, labels, PATCH, batch_size=512, verbose=False))[0]


class Transformer:
    """Votes by retained tokens and by full-image passes."""

    def __init__(self, network: nn.Module, side: int, ablation: ColumnAblation, count: int) -> None:
        assert isinstance(network, VisionTransformer)
        self.inputs, self.ablation, self.base = random_images(count, side), ablation, network.eval()
        self.masks = ablation.masks(side, side)
        self.keep = retained_tokens(self.masks, network.patch_size)
        self.classes = network.num_classes
        self.smoothed = SmoothedNetwork(network, ablation, num_classes=self.classes).eval()
        *_, head = (module for module in network.modules() if isinstance(module, nn.Linear))
        with torch.no_grad():
            head.bias -= self.smoothed.view_logits(self.inputs[:1]).mean((0, 1))
        self.equal: list[bool] = []

    def dropped(self) -> dict[str, float]:
        """Vote by retained tokens."""
        cost, self.votes = measured(lambda: self.smoothed.votes(self.inputs))
        return cost

    def full(self) -> dict[str, float]:
        """Vote by whole passes."""

        def work() -> Tensor:
            rows = []
            for image in self.inputs:
                parts = zip(self.masks.split(16), self.keep.split(16), strict=True)
                views = [(encoded_views(image[None], masks)[0], keep) for masks, keep in parts]
                rows.append(torch.cat([self.base(shown, keep, drop=False) for shown, keep in views]).argmax(1))
            return torch.stack(rows)

        cost, votes = measured(work)
        self.equal.append(torch.equal(votes, self.votes))
        return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are reported")
    parser.add_argument("--images", type=int, default=256, help="for the CNN")
    parser.add_argument("--some", type=int, default=8, help="images of 32 x 32 for the transformer")
    parser.add_argument(
        "--stride", type=int, default=17, help="of the bands at 224 x 224; odd, so that they lie in every way"
    )
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    torch.manual_seed(0)
    small = SmallCNN(options.images)
    vit_32 = Transformer(vit_small_images((6, 32, 32)), 32, ColumnAblation(4), options.some)
    vit_224 = Transformer(vit_large_images((6, 224, 224)), 224, ColumnAblation(19, stride=options.stride), 1)
    work: dict[str, Callable[[], dict[str, float]]] = {
        "cnn.passes": small.passes,
        "cnn.votes": small.votes,
        "cnn.certified": small.certified,
        "cnn.certified_early": small.certified_early,
        **({"cnn.art": small.art} if find_spec("art") is not None else {}),
        **{"vit_32.dropped": vit_32.dropped, "vit_32.full": vit_32.full},
        **{"vit_224.dropped": vit_224.dropped, "vit_224.full": vit_224.full},
    }
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds + 1):
        spent = {name: measure() for name, measure in work.items()}
        if number == 0:
            continue  # the first round warms up
        rounds.append(spent)
        print(f"round {number}: " + ", ".join(f"{name} {cost['cpu_seconds']:.3f} s" for name, cost in spent.items()))

    def ratio(name: str, to: str) -> float:
        return round(statistics.median(spent[name]["cpu_seconds"] / spent[to]["cpu_seconds"] for spent in rounds), 3)

    counts = {"cnn": options.images, "vit_32": options.some, "vit_224": 1}
    figures = {
        "benchmark": "smoothing",
        "command": shlex.join(["python", *sys.argv]),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "seed": 0,
        "rounds": options.rounds,
        "images": counts,
        "views": {"cnn": 32, "vit_32": len(vit_32.masks), "vit_224": len(vit_224.masks)},
        **{
            f"{kind}_an_image": {
                name: round(statistics.median(spent[name][kind] for spent in rounds) / counts[name.split(".")[0]], 6)
                for name in work
            }
            for kind in ("seconds", "cpu_seconds")
        },
        "votes_to_passes": ratio("cnn.votes", "cnn.passes"),
        **({"certified_to_art": ratio("cnn.certified", "cnn.art")} if "cnn.art" in work else {}),
        "full_to_dropped_32": ratio("vit_32.full", "vit_32.dropped"),
        "full_to_dropped_224": ratio("vit_224.full", "vit_224.dropped"),
        "equal_votes": {"vit_32": all(vit_32.equal), "vit_224": all(vit_224.equal)},
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
