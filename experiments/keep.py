"""Keep a run's figures as a results file: measured again on the deployed network, with its audit if there is one.

python experiments/keep.py runs/fashion_mnist_hkr experiments/results/fashion_mnist/hkr.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from lipcert import load_run
from lipcert.certificates import certify
from lipcert.errors import one_line_errors
from lipcert.files import write_atomically
from lipcert.metrics import certified_accuracy
from lipcert.runs import Run, RunPaths
from lipcert.summary import measure_certificates


def audit_figures(run: Run) -> dict[str, Any]:
    """The run's audit: verdict, attacks and, image by image, the distance and the radii of two rules."""
    path = run.directory / "audit" / "report.json"
    if not path.is_file():
        return {}
    report = json.loads(path.read_text())
    rows = [line.split(",") for line in (run.directory / "audit" / "samples.csv").read_text().splitlines()]
    columns = {name: position for position, name in enumerate(rows[0])}
    attacked = [row for row in rows[1:] if row[columns["distance"]]]
    index = torch.tensor([int(row[columns["index"]]) for row in attacked])
    half_margin = certify(run.network, run.data.split("test").inputs(index), rule="per-class").radius.tolist()
    images = [
        {
            "index": int(row[columns["index"]]),
            "label": int(row[columns["label"]]),
            "radius": float(row[columns["radius"]]),
            "per_class_radius": radius,
            "distance": float(row[columns["distance"]]),
        }
        for row, radius in zip(attacked, half_margin, strict=True)
    ]
    return {
        "audit": {name: report[name] for name in ("verdict", "command", "attacks", "tightness")} | {"images": images}
    }


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


def keep(run: Run, threads: int, command: str | None = None) -> dict[str, Any]:
    """The results record of a run."""
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
    return made_by | summary | measured | {"curves": curves(run)} | audit_figures(run)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("output", type=Path, help="results file to write")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads the training had")
    parser.add_argument("--command", help="command that made the run, if its summary does not say")
    options = parser.parse_args()
    with one_line_errors("keep"):
        record = keep(load_run(options.run), options.threads, options.command)
        write_atomically(options.output, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
        print(f"{options.output}: ACR {record['average_certified_radius']:.4f}, KR {record['kr']:.4f}")


if __name__ == "__main__":
    main()
