r"""Train a family of networks along the trade-off of accuracy against robustness, and keep and draw what came out.

One setting of a configuration takes each of several values; each value is a run of its own, one after the other, by the
training command. Values are YAML, separated by commas. What is finished already is skipped and what was interrupted is
resumed, so that the same command continues. Unknown options go to the training command.

    python experiments/frontier.py experiments/fashion_mnist/dense.yaml \
        --vary model.init_args.loss.init_args.offset=0.1,0.3,0.6,1.2,2.4

The figures are of the validation images, on which one may choose. ``--test`` adds those of the test images, which each
training measured at its end: look once, when nothing is left to choose. All families of a data set are kept in one
file, ``experiments/results/<data set>/frontier.json``, drawn beside it as ``frontier.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from picture import frontier, save

from lipcert import load_run
from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_json
from lipcert.runs import RunPaths
from lipcert.summary import measure_certificates

ROOT = Path(__file__).parents[1]
FIGURES = ("clean_accuracy", "samples", "certified_accuracy", "average_certified_radius")


@dataclass(frozen=True)
class Family:
    """What the runs of a family have in common."""

    name: str
    setting: str
    config: dict[str, Any]
    arguments: list[str]

    def check_same_as(self, path: Path) -> None:
        """Refuse to continue a family that was started otherwise; keep in ``path`` how this one was started."""
        if not path.is_file():
            write_json(path, asdict(self), allow_nan=True)  # a configuration may have .inf
        elif json.loads(path.read_text()) != asdict(self):
            raise InputError(f"expected the configuration and options that {path} keeps; give another --output")


def read_setting(vary: str) -> tuple[str, list[Any]]:
    """Return name and values of ``NAME=VALUE,VALUE``."""
    name, equals, text = vary.partition("=")
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise InputError(f"expected values in YAML, separated by commas, got {text}") from error
    if not name or not equals or not values:
        raise InputError(f"expected --vary NAME=VALUE,VALUE, got {vary}")
    return name, values


def read_family(config: Path, setting: str, arguments: list[str]) -> Family:
    """Return the family of a base configuration and the setting that varies."""
    if not config.is_file():
        raise InputError(f"expected a configuration, found none at {config}")
    content = yaml.safe_load(config.read_text())
    name = f"{content.get('name', config.stem)}_{setting.rpartition('.')[2]}"
    return Family(name, setting, content, arguments)


def is_finished(directory: Path) -> bool:
    """Whether a run directory holds a training that came to its end."""
    summary = RunPaths(directory).summary
    return summary.is_file() and json.loads(summary.read_text())["status"] == "completed"


def training_arguments(directory: Path, config: Path, family: Family, value: Any) -> list[str] | None:
    """Return the arguments of the training command that brings a run to its end, None if it is there."""
    if is_finished(directory):
        return None
    if directory.exists():
        return ["--resume", str(directory)]
    place = [f"--output={directory.parent}", f"--name={directory.name}"]
    text = value if isinstance(value, str) else json.dumps(value)
    return ["--config", str(config), *place, *family.arguments, f"--{family.setting}={text}"]


def train(directory: Path, config: Path, family: Family, value: Any) -> None:
    """Bring the run of one value to its end."""
    arguments = training_arguments(directory, config, family, value)
    print(f"{directory}: {'finished already' if arguments is None else ' '.join(arguments)}", flush=True)
    if arguments is not None:
        code = subprocess.run([sys.executable, "-m", "lipcert.train", *arguments], check=False).returncode
        if code:
            raise InputError(f"expected the training of {directory} to succeed, got exit code {code}")


def point(directory: Path, value: Any, *, test: bool) -> tuple[str, dict[str, Any]]:
    """Return a finished run's data set, and its figures on the validation and, if asked for, the test images."""
    run = load_run(directory)
    summary = json.loads(RunPaths(directory).summary.read_text())
    epsilons = [float(epsilon) for epsilon in summary["certified_accuracy"]]
    measured = measure_certificates(run.network, run.data.split("val"), epsilons=epsilons)
    found = {"value": value, "run": directory.name, "network_sha256": run.network_sha256}
    found |= {name: summary[name] for name in ("seed", "epochs", "best_epoch", "seconds", "versions")}
    found["val"] = {name: measured[name] for name in FIGURES}
    if test:
        found["test"] = {name: summary[name] for name in FIGURES}
    return run.data.name, found


def keep(path: Path, data: str, family: Family, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Put a family into the file of its data set, beside the others, and return the file's content."""
    families = json.loads(path.read_text())["families"] if path.is_file() else {}
    hardware = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} used, {platform.machine()}"
    families[family.name] = {"hardware": hardware, **asdict(family), "points": points}
    record = {"data": data, "families": families}
    write_json(path, record)
    return record


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", type=Path, help="base configuration")
    parser.add_argument("--vary", required=True, help="NAME=VALUE,VALUE: the setting and its values")
    parser.add_argument("--output", type=Path, default=Path("runs/frontier"), help="folder of the families' runs")
    parser.add_argument("--results", type=Path, help="folder of frontier.json")
    parser.add_argument("--test", action="store_true", help="add the figures of the test images")
    options, arguments = parser.parse_known_args()
    with one_line_errors("frontier"):
        setting, values = read_setting(options.vary)
        family = read_family(options.config, setting, arguments)
        folder = options.output / family.name
        family.check_same_as(folder / "family.json")
        points = []
        for value in values:
            directory = folder / re.sub(r"[^\w.-]+", "-", str(value)).strip("-")
            train(directory, options.config, family, value)
            data, found = point(directory, value, test=options.test)
            points.append(found)
        results = options.results or ROOT / "experiments" / "results" / data.replace("-", "_")
        record = keep(results / "frontier.json", data, family, points)
        save(frontier(record), results / "frontier.png")
        print(f"{results / 'frontier.json'}: {len(points)} networks of {family.name}")


if __name__ == "__main__":
    main()
