"""A run directory that 0.1.0 has left, at commit 54ab28c: it still loads, certifies, audits and goes on.

    python -m lipcert.train --output runs --name tiny --model.init_args.network.init_args.channels=[2,4] \
        --model.init_args.network.init_args.hidden=8 --trainer.max_epochs=1 --trainer.limit_train_batches=2
    python -m lipcert.audit runs/tiny --samples 5 --attacks boundary-walk
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from lipcert import certify, load_run
from lipcert.audit import main as audit
from lipcert.checkpoints import load_checkpoint
from lipcert.train import main as train
from lipcert.verify import main as verify

OLD = Path(__file__).parent / "old_run"
CLOSE = {
    "rtol": 1e-9,
    "atol": 1e-6,
}  # sums in another order, by another processor: logits in float32, bounds in float64


def radii(folder):
    with (folder / "audit" / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return torch.tensor([float(row["radius"]) for row in rows], dtype=torch.float64), rows


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD, tmp_path / "tiny")


def test_it_is_small():
    assert sum(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) < 200_000


def test_it_loads_and_its_radii_are_what_they_were():
    loaded = load_run(OLD)
    found = certify(loaded.network, loaded.data.split("test").inputs())
    known, rows = radii(OLD)
    assert torch.allclose(found.radius, known, **CLOSE)
    assert found.prediction.tolist() == [int(row["prediction"]) for row in rows]
    assert bool((known > 0).any())


def test_its_report_is_still_understood_and_stands(run):
    assert verify([str(run / "audit")]) == 0


def test_it_is_audited_with_the_same_radii(run):
    old = json.loads((run / "audit" / "report.json").read_text())
    assert audit([str(run), "--samples=5", "--attacks", "boundary-walk"]) == 0
    new = json.loads((run / "audit" / "report.json").read_text())
    assert torch.allclose(radii(run)[0], radii(OLD)[0], **CLOSE)
    for name in ("model", "data", "clean_accuracy"):
        assert new[name] == old[name]
    assert new["lipschitz"]["upper_bound"] == pytest.approx(old["lipschitz"]["upper_bound"], rel=1e-6, abs=1e-6)


def test_its_checkpoint_is_the_network_and_its_training_goes_on(run):
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 0
    options = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--quiet"]
    assert train([f"--resume={run}", *options]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs"] == 2
