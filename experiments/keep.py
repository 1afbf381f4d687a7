"""Keep a run's figures as a results file: measured again on the deployed network, with its audit if there is one.

Of several runs of one configuration with different seeds the file has the means, the standard deviations, and each.

python experiments/keep.py runs/fashion_mnist_hkr experiments/results/fashion_mnist/hkr.json
python experiments/keep.py runs/dense runs/dense-2 runs/dense-3 experiments/results/fashion_mnist/dense.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lipcert import load_run
from lipcert.certificates import certify
from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_json
from lipcert.harness.checks import spread
from lipcert.metrics import certified_accuracy
from lipcert.runs import Run, RunPaths
from lipcert.summary import measure_certificates

QUALITY = ("clean_accuracy", "certified_accuracy", "average_certified_radius", "kr", "rules")
AVERAGED = (*QUALITY, "seconds", "images_per_second", "curves")
SHARED = ("name", "hardware", "data", "samples", "arithmetic", "epochs", "train_samples", "versions")
FREE = ("seed_everything", "name", "output")
"""What may differ in the configurations of one network trained several times."""
MOST_IMAGES = 200
"""Of an audit, evenly over those that were attacked; its counts and medians are of all."""


def audit_figures(run: Run) -> dict[str, Any]:
    """The run's audit: verdict, attacks and, for some images, the distance and the radii of two rules."""
    path = run.directory / "audit" / "report.json"
    if not path.is_file():
        return {}
    report = json.loads(path.read_text())
    rows = [line.split(",") for line in (run.directory / "audit" / "samples.csv").read_text().splitlines()]
    columns = {name: position for position, name in enumerate(rows[0])}
    attacked = [row for row in rows[1:] if row[columns["distance"]]]
    chosen = [attacked[place] for place in spread(range(len(attacked)), MOST_IMAGES).tolist()]
    index = torch.tensor([int(row[columns["index"]]) for row in chosen])
    half_margin = certify(run.network, run.data.split("test").inputs(index), rule="per-class").radius.tolist()
    images = [
        {
            "index": int(row[columns["index"]]),
            "label": int(row[columns["label"]]),
            "radius": float(row[columns["radius"]]),
            "per_class_radius": radius,
            "distance": float(row[columns["distance"]]),
        }
        for row, radius in zip(chosen, half_margin, strict=True)
    ]
    told = ("verdict", "command", "attacks", "tightness", "power")
    return {"audit": {name: report[name] for name in told} | {"attacked": len(attacked), "images": images}}


def curves(run: Run) -> dict[str, list[float]]:
    """Certified accuracy on the test split over a grid of epsilons, for margin / 2 and for the best rule."""
    test = run.data.split("test")
    inputs = test.inputs()
    epsilons = [step / 20 for step in range(41)]
    found: dict[str, list[float]] = {"epsilon": epsilons}
    for rule in ("per-class", "best"):
        certificate = certify(run.network, inputs, rule=rule)
        arguments = (certificate.radius, certificate.prediction, test.labels)
        found[rule] = [round(certified_accuracy(*arguments, epsilon).item(), 6) for epsilon in epsilons]
    return found


def keep(run: Run, threads: int, command: str | None = None, *, float64: bool = False) -> dict[str, Any]:
    """The results record of a run; with ``float64`` also what the network certifies where it is deployed in that."""
    summary = json.loads(RunPaths(run.directory).summary.read_text())
    epsilons = [float(epsilon) for epsilon in summary["certified_accuracy"]]
    measured = measure_certificates(run.network, run.data.split("test"), epsilons=epsilons)
    made_by = {
        "name": run.config["name"],
        "command": command or summary["command"],
        "hardware": f"{os.cpu_count()} CPU cores, {threads} used, {platform.machine()}",
        "seeds": [summary["seed"]],
        "data": run.data.name,
        "network_sha256": run.network_sha256,
    }
    record: dict[str, Any] = made_by | summary | measured | {"curves": curves(run)} | audit_figures(run)
    if command:
        record["command"] = command
    if float64:
        double = copy.deepcopy(run.network).double()
        found = measure_certificates(double, run.data.split("test"), epsilons=epsilons, dtype=torch.float64)
        record["float64"] = {name: value for name, value in found.items() if name != "rules"}
    return record


def check_seeds(runs: Sequence[Run]) -> None:
    """Refuse runs that are not of one configuration with different seeds, each trained to its end."""
    first, *others = ({name: value for name, value in run.config.items() if name not in FREE} for run in runs)
    for run, config in zip(runs[1:], others, strict=True):
        differ = sorted(name for name in first | config if first.get(name) != config.get(name))
        if differ:
            other = f"another {' and '.join(differ)} in {run.directory} than in {runs[0].directory}"
            raise InputError(f"expected runs of one configuration, got {other}")
    seeds = [run.config["seed_everything"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"expected different seeds, got {seeds}")
    for run in runs:
        status = json.loads(RunPaths(run.directory).summary.read_text())["status"]
        if status != "completed":
            raise InputError(f"expected a completed training in {run.directory}, got one that was {status}")


def over_seeds(function: Callable[[Sequence[float]], float], values: Sequence[Any]) -> Any:
    """Return what ``function`` makes of each figure of the seeds, in dictionaries and lists as they come."""
    first = values[0]
    if isinstance(first, dict):
        return {name: over_seeds(function, [value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [over_seeds(function, column) for column in zip(*values, strict=True)]
    return round(function(values), 6)


def combined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of several seeds: means, standard deviations as of a sample, and the record of each seed."""
    first = records[0]
    each = [
        {name: value for name, value in record.items() if name not in (*SHARED, "seeds", "curves")}
        for record in records
    ]
    return {
        **{name: first[name] for name in SHARED},
        "seeds": [record["seed"] for record in records],
        **{name: over_seeds(statistics.fmean, [record[name] for record in records]) for name in AVERAGED},
        "sd": {name: over_seeds(statistics.stdev, [record[name] for record in records]) for name in QUALITY},
        "each": each,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run directories, of one configuration with several seeds")
    parser.add_argument("output", type=Path, help="results file to write")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads the training had")
    parser.add_argument("--float64", action="store_true", help="of one run: measure it as deployed in float64 as well")
    parser.add_argument("--command", help="command that makes the run, in place of the one its summary names")
    options = parser.parse_args()
    with one_line_errors("keep"):
        runs = [load_run(directory) for directory in options.runs]
        if len(runs) > 1:
            check_seeds(runs)
        records = [keep(run, options.threads, options.command, float64=options.float64) for run in runs]
        record = records[0] if len(records) == 1 else combined(records)
        write_json(options.output, record)
        print(f"{options.output}: ACR {record['average_certified_radius']:.4f}, KR {record['kr']:.4f}")


if __name__ == "__main__":
    main()
