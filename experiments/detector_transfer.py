"""What a trained binary detector flags of attacks and of data that it has not seen, kept as a results file.

    python experiments/detector_transfer.py runs/fashion_mnist_detector --classifier runs/fashion_mnist_undefended \
        --other lipcert.data.MNIST --output experiments/results/defenses/fashion_mnist_detector.json

The threshold is set once, on validation images of the detector's own data, and holds everywhere: the false positive
rate of other data is that of a detector that was not calibrated for them. Attacks are on the classifier alone, from the
class that it gives; only verified examples count. An adversary who knows the detector does more, see the arena.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipcert import load_run
from lipcert.attacks import Attack, DecoupledDirection, DeepFool, FastGradient, LossAscent, Norm, SquareAttack
from lipcert.attacks.verify import predictions
from lipcert.data import ImageData
from lipcert.defenses.calibration import scores_of, threshold_at
from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_json
from lipcert.metrics import detection_rates
from lipcert.modules.detector import scoring_network

ATTACKS: tuple[tuple[Attack, Norm], ...] = (
    (FastGradient(), "linf"),
    (LossAscent(20, 0.125), "linf"),
    (LossAscent(20, 0.125, loss="margin"), "linf"),
    (SquareAttack(queries=200), "linf"),
    (DeepFool(), "l2"),
    (DecoupledDirection(), "l2"),
)
"""Those in Linf have the budget that the detector was trained with, those in L2 look for near examples without one."""


def rates(
    detector: nn.Module, classifier: nn.Module, inputs: Tensor, *, threshold: float, epsilon: float, seed: int
) -> dict[str, Any]:
    """Return the false positive rate on images, and the detection rate of what each attack makes of them."""
    preds, flagged = predictions(classifier, inputs), scores_of(detector, inputs) > threshold
    found = []
    for attack, norm in ATTACKS:
        budget = epsilon if norm == "linf" else None
        outcome = attack(classifier, inputs, preds, norm=norm, epsilon=budget, seed=seed)
        examples = outcome.candidates[outcome.verified.success]
        caught = scores_of(detector, examples) > threshold if len(examples) else torch.zeros(0, dtype=torch.bool)
        tampered = torch.arange(len(inputs) + len(examples)) >= len(inputs)
        rate = detection_rates(torch.cat([flagged, caught]), tampered).true_positive.item()
        found.append(
            {
                "attack": attack.name,
                "parameters": attack.parameters(),
                "norm": norm,
                "epsilon": budget,
                "adversarial_samples": len(examples),
                "detection_rate": round(rate, 6) if len(examples) else None,
            }
        )
    clean = round(flagged.double().mean().item(), 6)
    return {"samples": len(inputs), "false_positive_rate": clean, "attacks": found}


def data_of(class_path: str, arguments: str) -> ImageData:
    """Return the data module of a class path.

    Raises:
        InputError: there is none, or it refuses its arguments.
    """
    module, _, name = class_path.rpartition(".")
    try:
        data = getattr(import_module(module), name)(**json.loads(arguments))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"expected the class path of a data module and its arguments: {error}") from error
    if not isinstance(data, ImageData):
        raise InputError(f"expected a data module, got {class_path}")
    return data


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path, help="its run directory")
    parser.add_argument("--classifier", type=Path, required=True, help="run directory of the attacked network")
    parser.add_argument("--other", help="class path of other data, with images of the same shape")
    parser.add_argument("--other-args", default="{}", help="its arguments, as JSON")
    parser.add_argument("--false-positive-rate", type=float, default=0.05, help="wanted, on validation images")
    parser.add_argument("--samples", type=int, default=500, help="attacked images of each data set, the first ones")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    options = parser.parse_args()
    with one_line_errors("detector transfer"):
        if options.samples < 1:
            raise InputError(f"expected samples >= 1, got {options.samples}")
        run = load_run(options.detector)
        settings = run.config["model"]["init_args"]
        if settings.get("norm") != "linf" or settings.get("epsilon") is None:
            raise InputError(f"expected a detector that was trained on a Linf budget at {options.detector}")
        classifier, detector = load_run(options.classifier).network, scoring_network(str(options.detector))
        threshold = threshold_at(scores_of(detector, run.data.split("val").inputs()), options.false_positive_rate)
        sets = [run.data, *([data_of(options.other, options.other_args)] if options.other else [])]
        record = {
            "command": shlex.join(["python", *sys.argv]),
            "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} used, {platform.machine()}",
            "torch": torch.__version__,
            "seed": options.seed,
            "false_positive_rate_wanted": options.false_positive_rate,
            "threshold": threshold,
            "trained_on": {"data": run.data.name, "attacks": settings["attacks"]},
            "data": {},
        }
        for data in sets:
            images = data.split("test")
            inputs = images.inputs(torch.arange(min(options.samples, len(images))))
            budget = {"threshold": threshold, "epsilon": settings["epsilon"], "seed": options.seed}
            found = record["data"][data.name] = rates(detector, classifier, inputs, **budget)
            print(f"{data.name}: {found['false_positive_rate']:.3f} of clean images are flagged")
            for each in found["attacks"]:
                rate = "none found" if each["detection_rate"] is None else f"{each['detection_rate']:.3f} flagged"
                print(f"  {each['attack']}, {each['norm']}: {rate}")
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.output, record)


if __name__ == "__main__":
    main()
