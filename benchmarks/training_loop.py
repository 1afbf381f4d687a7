"""Images per second of three ways to train the tutorial's network, side by side in one run.

- ``as written``: the loop of deel-torchlip's Fashion-MNIST notebook with its DataLoader, which converts image by image;
- ``in memory``: the same loop, batches cut from in-memory float tensors;
- ``lipcert``: ``lipcert.train`` with everything it logs, checks and saves.

Every round trains each of them from scratch for the same number of steps, in turn, so that a busy machine slows all of
them alike; the ratio of a round is formed within the round. Validation is timed for none of them.

    python benchmarks/training_loop.py --rounds 5 --steps 100 --output experiments/results/benchmarks/training_loop.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from deel import torchlip
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lipcert.data import FashionMNISTMini, ImageSet
from lipcert.files import write_json
from lipcert.training import TrainCLI, quiet_lightning

BATCH = 100


class PerImage(Dataset[tuple[Tensor, int]]):
    """What torchvision's data set and ``ToTensor`` do for one image."""

    def __init__(self, images: ImageSet) -> None:
        self.images, self.labels = images.images.numpy(), images.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.images[index, 0])
        array = np.array(picture, copy=True)[:, :, None]
        return torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255), self.labels[index]


def notebook_network() -> torch.nn.Module:
    return torchlip.Sequential(
        torchlip.SpectralConv2d(in_channels=1, out_channels=16, kernel_size=(3, 3), padding="same"),
        torchlip.GroupSort2(),
        torchlip.ScaledL2NormPool2d(kernel_size=(2, 2)),
        torchlip.SpectralConv2d(in_channels=16, out_channels=32, kernel_size=(3, 3), padding="same"),
        torchlip.GroupSort2(),
        torchlip.ScaledL2NormPool2d(kernel_size=(2, 2)),
        torch.nn.Flatten(),
        torchlip.SpectralLinear(1568, 64),
        torchlip.GroupSort2(),
        torchlip.FrobeniusLinear(64, 10, bias=True, disjoint_neurons=True),
        k_coef_lip=1.0,
    )


def batches_in_memory(inputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for chosen in torch.randperm(len(labels)).split(BATCH):
        yield inputs[chosen], labels[chosen]


def notebook_loop(loader: Iterable[tuple[Tensor, Tensor]], steps: int) -> float:
    """Train as the notebook does, its training metrics included; images per second."""
    torch.manual_seed(0)
    model = notebook_network()
    loss_function, kr_function = torchlip.HKRMulticlassLoss(alpha=0.99, min_margin=0.25), torchlip.KRMulticlassLoss()
    optimizer = torch.optim.Adam(lr=1e-3, params=model.parameters())
    mean_kr, mean_accuracy, done = torch.zeros(()), torch.zeros(()), 0
    started = time.perf_counter()
    for step, (inputs, labels) in zip(range(steps), loader, strict=False):
        target = torch.nn.functional.one_hot(labels, num_classes=10)
        optimizer.zero_grad()
        output = model(inputs)
        loss = loss_function(output, target)
        loss.backward()
        optimizer.step()
        mean_kr += kr_function(output, target).detach() / (step + 1)
        mean_accuracy += (output.argmax(dim=1) == target.argmax(dim=1)).sum() / len(target)
        done += len(labels)
    return done / (time.perf_counter() - started)


def lipcert_loop(directory: Path, steps: int) -> float:
    """Train by ``lipcert.train`` for one epoch of as many steps; images per second."""
    arguments = ["--config", str(Path(__file__).parents[1] / "experiments" / "fashion_mnist" / "hkr.yaml")]
    arguments += ["--data", "lipcert.data.FashionMNISTMini", f"--output={directory}", "--trainer.max_epochs=1"]
    arguments += [f"--trainer.limit_train_batches={steps}", "--trainer.enable_progress_bar=false"]
    with quiet_lightning():
        cli = TrainCLI([*arguments, "--data.batch_size=100", "--data.val_size=500"], resume=None)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, weights_only=True)
    assert cli.recorder is not None
    return cli.recorder.images_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are reported")
    parser.add_argument("--steps", type=int, default=55, help="training steps a round, at most 55")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    images = FashionMNISTMini().split("train")
    inputs, labels = images.inputs(), images.labels
    speeds: dict[str, list[float]] = {"as written": [], "in memory": [], "lipcert": []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(options.rounds + 1):
            per_image = DataLoader(PerImage(images), BATCH, shuffle=True)
            measured = {
                "as written": notebook_loop(per_image, options.steps),
                "in memory": notebook_loop(batches_in_memory(inputs, labels), options.steps),
                "lipcert": lipcert_loop(Path(directory), options.steps),
            }
            if number == 0:
                continue  # the first round warms up
            for name, speed in measured.items():
                speeds[name].append(speed)
            print(f"round {number}: " + ", ".join(f"{name} {speed:.0f}" for name, speed in measured.items()))
    rounds = list(zip(*speeds.values(), strict=True))
    figures = {
        "benchmark": "training_loop",
        "command": f"python benchmarks/training_loop.py --rounds {options.rounds} --steps {options.steps}",
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "rounds": options.rounds,
        "images_per_second": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "ratio_to_as_written": round(statistics.median(ours / written for written, _, ours in rounds), 3),
        "ratio_to_in_memory": round(statistics.median(ours / memory for _, memory, ours in rounds), 3),
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
