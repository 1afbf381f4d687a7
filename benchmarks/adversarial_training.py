"""What a step of PGD training costs, beside the forward and backward passes that it cannot do without.

- ``passes``: nothing but (steps + 1) forward and backward passes of the network, one after the other, all of them with
  the gradients of its weights: the yardstick;
- ``by hand``: the shortest loop that trains the same: random start, signs, projection, optimizer;
- ``lipcert``: ``lipcert.train`` with everything that it logs, checks and saves;
- ``art``: AdversarialTrainerMadryPGD of the Adversarial Robustness Toolbox, where that is installed.

Every round trains each of them from scratch for the same number of steps, in turn, so that a busy machine slows all of
them alike; ratios of time are formed within a round. Validation is timed for none of them. Processor seconds are given
beside the wall clock, which a machine that does other work makes longer.

    python benchmarks/adversarial_training.py --output experiments/results/benchmarks/adversarial_training.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn

from lipcert.data import FashionMNISTMini
from lipcert.files import write_json
from lipcert.networks import cnn
from lipcert.training import TrainCLI, quiet_lightning

EPSILON, STEP_SIZE, LEARNING_RATE = 0.1, 0.3, 1e-3
CONFIG = Path(__file__).parents[1] / "experiments" / "fashion_mnist" / "pgd_linf.yaml"


def seconds_of(work: Callable[[], object]) -> dict[str, float]:
    """Return what some work costs, by the wall clock and of the processor."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}


def batches(options: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    images = FashionMNISTMini().split("train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = order.repeat(options.batches * options.batch // len(order) + 1).split(options.batch)[: options.batches]
    return [(images.inputs(positions), images.labels[positions]) for positions in chosen]


def prepared() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = cnn()
    return network, torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)


def passes(options: argparse.Namespace, data: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    network, _ = prepared()

    def work() -> None:
        for inputs, labels in data:
            for _ in range(options.steps + 1):
                F.cross_entropy(network(inputs.requires_grad_()), labels).backward()

    return seconds_of(work)


def by_hand(options: argparse.Namespace, data: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    network, optimizer = prepared()

    def work() -> None:
        for inputs, labels in data:
            change = torch.empty_like(inputs).uniform_(-EPSILON, EPSILON)
            for _ in range(options.steps):
                change.requires_grad_()
                loss = F.cross_entropy(network((inputs + change).clamp(0, 1)), labels)
                (gradient,) = torch.autograd.grad(loss, change)
                change = (change.detach() + STEP_SIZE * EPSILON * gradient.sign()).clamp(-EPSILON, EPSILON)
            optimizer.zero_grad()
            F.cross_entropy(network((inputs + change).clamp(0, 1)), labels).backward()
            optimizer.step()

    return seconds_of(work)


class Clock(Callback):
    """Times an epoch of training, without what comes before and after."""

    spent: dict[str, float]

    def on_train_epoch_start(self, *arguments: Any) -> None:
        """Start."""
        self.started, self.used = time.perf_counter(), time.process_time()

    def on_validation_start(self, *arguments: Any) -> None:
        """Stop."""
        self.spent = {"seconds": time.perf_counter() - self.started, "cpu_seconds": time.process_time() - self.used}


def lipcert(options: argparse.Namespace, data: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    attack = "--model.init_args.attack.init_args"
    arguments = ["--config", str(CONFIG), "--data=lipcert.data.FashionMNISTMini", "--trainer.max_epochs=1"]
    arguments += [f"--data.batch_size={options.batch}", "--data.val_size=100", "--trainer.precision=32-true"]
    arguments += [f"--trainer.limit_train_batches={len(data)}", "--trainer.enable_progress_bar=false"]
    arguments += [f"{attack}.steps={options.steps}", f"{attack}.step_size={STEP_SIZE}"]
    with tempfile.TemporaryDirectory() as directory, quiet_lightning():
        cli = TrainCLI([*arguments, f"--output={directory}"], resume=None)
        clock = Clock()
        cli.trainer.callbacks.append(clock)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, weights_only=True)
    return clock.spent


def art(options: argparse.Namespace, data: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    network, optimizer = prepared()
    shape = tuple(data[0][0].shape[1:])
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), shape, 10, optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )
    trainer = AdversarialTrainerMadryPGD(
        classifier,
        nb_epochs=1,
        batch_size=options.batch,
        eps=EPSILON,
        eps_step=STEP_SIZE * EPSILON,
        max_iter=options.steps,
        num_random_init=1,
    )
    inputs = torch.cat([inputs for inputs, _ in data]).numpy()
    labels = F.one_hot(torch.cat([labels for _, labels in data]), 10).float().numpy()
    return seconds_of(lambda: trainer.fit(inputs, labels))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are reported")
    parser.add_argument("--batches", type=int, default=15, help="training steps a round")
    parser.add_argument("--batch", type=int, default=256, help="images a step")
    parser.add_argument("--steps", type=int, default=7, help="of PGD")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    contestants = {"passes": passes, "by hand": by_hand, "lipcert": lipcert}
    if find_spec("art") is not None:
        contestants["art"] = art
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds + 1):
        spent = {name: train(options, batches(options)) for name, train in contestants.items()}
        if number == 0:
            continue  # the first round warms up
        rounds.append(spent)
        print(f"round {number}: " + ", ".join(f"{name} {cost['cpu_seconds']:.2f} s" for name, cost in spent.items()))
    figures = {
        "benchmark": "adversarial_training",
        "command": shlex.join(["python", *sys.argv]),
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "seed": 0,
        "rounds": options.rounds,
        "images": options.batches * options.batch,
        "pgd_steps": options.steps,
        **{
            f"{kind}_a_step": {
                name: round(statistics.median(spent[name][kind] for spent in rounds) / options.batches, 5)
                for name in contestants
            }
            for kind in ("seconds", "cpu_seconds")
        },
        **{
            f"ratio_of_{kind}_to_passes": {
                name: round(statistics.median(spent[name][kind] / spent["passes"][kind] for spent in rounds), 3)
                for name in contestants
            }
            for kind in ("seconds", "cpu_seconds")
        },
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)


if __name__ == "__main__":
    main()
