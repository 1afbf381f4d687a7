"""Every script under benchmarks/ and experiments/ runs: what nobody runs rots."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lipcert.train import main as train

ROOT = Path(__file__).parents[1]

SMALL = {
    "benchmarks/training_loop.py": ["--rounds=1", "--steps=2"],
    "benchmarks/lipschitz_bound.py": ["--rounds=1", "--images=200", "--layers=2", "--channels=4", "--size=8"],
    "benchmarks/constraint_cost.py": ["--small"],
}


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )


def test_every_benchmark_has_a_small_configuration():
    assert {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALL)
def test_benchmark(script, tmp_path):
    run(script, *SMALL[script], "--output", tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["hardware"]


@pytest.mark.slow
def test_a_run_is_kept_as_a_results_file(tmp_path):
    network = ["--model.init_args.network.init_args.channels=[2,4]", "--trainer.enable_progress_bar=false"]
    train([f"--output={tmp_path}", *network, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"])
    run("experiments/keep.py", tmp_path / "quickstart", tmp_path / "kept.json")
    record = json.loads((tmp_path / "kept.json").read_text())
    assert record["command"].startswith("python -m lipcert.train --output=")
    assert len(record["curves"]["best"]) == len(record["curves"]["epsilon"])
    assert record["curves"]["best"][0] == record["clean_accuracy"]


def test_the_picture_is_drawn():
    assert len(runpy.run_path(str(ROOT / "experiments" / "picture.py"))["picture"]().axes) == 2
