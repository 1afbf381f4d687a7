"""How soon lipcert is as good as the tutorial's network after its 50 epochs, and how long the tutorial's loop takes.

The quality is that of the weights which deel-torchlip's Fashion-MNIST notebook trains in 50 epochs of 60,000 images:
clean accuracy and, by the pairwise rule, average certified radius. ``lipcert.train`` runs a configuration for real and
to its end and is measured after every epoch, deployed and certified, on validation images, never on test images. Its
clock starts with the fit and counts everything: steps, validation, certification, checkpoints. The notebook's clock
counts training steps only.

Before lipcert's first epoch and after each of them the notebook's loop trains from scratch for some steps, while
lipcert's clock stands still, so that a busy machine slows both alike. The median of these speeds is extrapolated to the
50 epochs; ``--full`` runs all of them afterwards and takes their time instead. Unknown options go to ``lipcert.train``.

    python benchmarks/time_to_quality.py --output experiments/results/benchmarks/time_to_quality.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader
from training_loop import BATCH, PerImage, notebook_loop

from lipcert.data import ImageData, ImageSet
from lipcert.errors import one_line_errors
from lipcert.files import write_json
from lipcert.training import TrainCLI, quiet_lightning

ROOT = Path(__file__).parents[1]
QUICK = ROOT / "experiments" / "fashion_mnist" / "quick.yaml"
QUALITY = ("clean_accuracy", "average_certified_radius")

SMALL = (
    "--data=lipcert.data.FashionMNISTMini",
    "--data.init_args.val_size=500",
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=2",
    "--model.init_args.network.init_args.widths=[16]",
)


class QualityClock(Checkpoint):
    """Notes time and quality after every epoch, then stands still while the other side has its turn.

    It is a ``Checkpoint`` because Lightning calls those last: writing the epoch's checkpoints counts.
    """

    def __init__(self, others_turn: Callable[[], None]) -> None:
        self.others_turn = others_turn
        self.epochs: list[dict[str, float]] = []
        self._started = 0.0

    def start(self) -> None:
        """Give the other side its first turn and start the clock."""
        self.others_turn()
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the validation of this epoch found."""
        now = time.perf_counter()
        found = trainer.callback_metrics
        self.epochs.append(
            {
                "epoch": trainer.current_epoch + 1,
                "seconds": round(now - self._started, 3),
                "clean_accuracy": round(float(found["val/accuracy"]), 6),
                "average_certified_radius": round(float(found["val/average_certified_radius"]), 6),
            }
        )
        print(", ".join(f"{name} {value:g}" for name, value in self.epochs[-1].items()))
        self.others_turn()
        self._started += time.perf_counter() - now


class Notebook:
    """The notebook's side: its loop as written, from scratch at each turn."""

    def __init__(self, images: ImageSet, steps: int, *, epochs: int, images_an_epoch: int) -> None:
        self.epochs, self.images_an_epoch = epochs, images_an_epoch
        self.loader = DataLoader(PerImage(images), BATCH, shuffle=True)
        self.steps = steps
        self.speeds: list[float] = []

    def turn(self) -> None:
        """Train for some steps and note the images per second."""
        with torch.random.fork_rng(devices=[]):
            self.speeds.append(notebook_loop(self.loader, self.steps))

    def full_seconds(self) -> float:
        """Return the seconds that the loop takes for all of its epochs."""
        images = self.epochs * self.images_an_epoch
        every_epoch = itertools.chain.from_iterable(itertools.repeat(self.loader))
        return images / notebook_loop(every_epoch, images // BATCH)

    def record(self, full_seconds: float | None) -> dict[str, Any]:
        """Return the seconds that all epochs take, as measured in ``full_seconds`` or else extrapolated."""
        speed = statistics.median(self.speeds)
        extrapolated = self.epochs * self.images_an_epoch / speed
        turns = f"{len(self.speeds)} turns of {self.steps} steps"
        return {
            "epochs": self.epochs,
            "images_an_epoch": self.images_an_epoch,
            "images_per_second": round(speed, 1),
            "extrapolated_seconds": round(extrapolated, 1),
            "measured_seconds": None if full_seconds is None else round(full_seconds, 1),
            "seconds": round(extrapolated if full_seconds is None else full_seconds, 1),
            "how": "measured in full" if full_seconds is not None else f"extrapolated from {turns}",
        }


def first_reached(epochs: Sequence[dict[str, float]], quality: dict[str, float]) -> dict[str, float] | None:
    """Return the first epoch that is at least as good in every respect."""
    reached = (epoch for epoch in epochs if all(epoch[name] >= least for name, least in quality.items()))
    return next(reached, None)


def train_lipcert(arguments: list[str], notebook_of: Callable[[ImageSet], Notebook]) -> tuple[dict[str, Any], Notebook]:
    """Train by the arguments, the notebook's turns in between, and return both sides."""
    with quiet_lightning():
        cli = TrainCLI(arguments, resume=None)
        assert isinstance(cli.datamodule, ImageData)
        notebook = notebook_of(cli.datamodule.split("train"))
        clock = QualityClock(notebook.turn)
        cli.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        notebook_loop(notebook.loader, notebook.steps)  # warms up
        clock.start()
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, weights_only=True)
    assert cli.recorder is not None
    in_steps = itertools.accumulate(row["seconds"] for row in cli.recorder.rows)
    epochs = [
        epoch | {"seconds_in_steps": round(seconds, 3)} for epoch, seconds in zip(clock.epochs, in_steps, strict=True)
    ]
    samples = {"train_samples": len(cli.datamodule.split("train")), "val_samples": len(cli.datamodule.split("val"))}
    return samples | {"seed": cli.seed, "epochs": epochs}, notebook


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=QUICK, help="what lipcert trains; by default %(default)s")
    parser.add_argument("--clean", type=float, default=0.882, help="clean accuracy to reach")
    parser.add_argument("--acr", type=float, default=0.79, help="average certified radius to reach")
    parser.add_argument("--steps", type=int, default=60, help="steps of the notebook's loop a turn")
    parser.add_argument("--full", action="store_true", help="run all 50 epochs of the notebook's loop too")
    parser.add_argument("--small", action="store_true", help="a few steps of a narrow network on the embedded images")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory, one_line_errors("time_to_quality"):
        config = yaml.safe_load(options.config.read_text())
        arguments = [f"--config={options.config}", *(SMALL if options.small else ()), f"--output={directory}"]
        arguments += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", *others]
        epochs, images = (1, 200) if options.small else (50, 60_000)
        notebook_of = partial(Notebook, steps=options.steps, epochs=epochs, images_an_epoch=images)
        lipcert, notebook = train_lipcert(arguments, notebook_of)
        full = notebook.full_seconds() if options.full else None
    quality = dict(zip(QUALITY, (options.clean, options.acr), strict=True))
    reached = first_reached(lipcert["epochs"], quality)
    theirs = notebook.record(full)
    figures = {
        "benchmark": "time_to_quality",
        "command": shlex.join(["python", "benchmarks/time_to_quality.py", *sys.argv[1:]]),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "quality": quality,
        "notebook": theirs,
        "lipcert": {"config": config} | lipcert | {"reached": reached},
        "ratio": None if reached is None else round(theirs["seconds"] / reached["seconds"], 2),
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
