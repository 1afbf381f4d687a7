"""The commands of docs/how_to/multi_node.md, as two local processes over gloo: the result of one process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from doc_pages import ROOT, DocPage
from safetensors.torch import load_file

from lipcert.audit import main as audit
from lipcert.errors import InputError
from lipcert.harness import launched_team
from lipcert.train import main as train

PAGE = DocPage(Path("docs/how_to/multi_node.md"))
SECONDS = 200  # of commands that would otherwise hang
SMALL = [
    "--data=lipcert.data.FashionMNISTMini",
    "--data.init_args.batch_size=50",
    "--data.init_args.val_size=5851",  # leaves 149 images: the last batches are odd
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
]
TOLERANCE = 1e-5  # see tests/test_train_ddp.py


def commands(word):
    """The commands of the page that begin with a word, as lines for a shell."""
    lines = "\n".join(PAGE.blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(f"{word} ")]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def on_two_nodes(line, settings):
    """Run a line in two shells, with settings that are returned for each of them; return the outputs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    common = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PORT": free_port(), "FIRST": "127.0.0.1"}
    started = [
        subprocess.Popen(
            ["bash", "-c", line],
            cwd=ROOT,
            env={**common, **settings(node, common["PORT"])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for node in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert [process.returncode for process in started] == [0, 0], outputs
    return [output for output, _ in outputs]


def train_on_two_nodes(line, options, settings):
    """Train by a line of the page; one of the nodes says so."""
    leading, following = on_two_nodes(" ".join([line, *options, "--trainer.accelerator=cpu"]), settings)
    assert leading.count("run directory:") == 1
    assert following == ""


def torchrun(node, port):
    return {"NODE": str(node)}


def slurm(node, port):
    """What SLURM sets for the only task of each of two nodes; the launcher itself is left out."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "lipcert",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_PROCID": str(node),
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": "0",
        "MASTER_PORT": port,
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process."""
    output = tmp_path_factory.mktemp("one")
    options = ["--config=experiments/fashion_mnist/quick.yaml", "--name=one", f"--output={output}", *SMALL]
    assert train([*options, "--trainer.accelerator=cpu", "--trainer.devices=1"]) == 0
    return output / "one"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def assert_same_run(run, expected):
    weights, expected_weights = (load_file(directory / "network.safetensors") for directory in (run, expected))
    assert weights.keys() == expected_weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected_weights[name], rtol=0, atol=TOLERANCE)
    summary, expected_summary = (json.loads((directory / "summary.json").read_text()) for directory in (run, expected))
    assert summary["average_certified_radius"] == pytest.approx(expected_summary["average_certified_radius"], abs=1e-5)
    assert summary["clean_accuracy"] == expected_summary["clean_accuracy"]


@pytest.mark.slow
def test_two_nodes_by_torchrun_train_and_audit_as_one_process_does(one, tmp_path):
    first, _, second = commands("torchrun")
    train_on_two_nodes(first, [*SMALL, f"--output={tmp_path}"], torchrun)
    run = tmp_path / "two_nodes"
    assert_same_run(run, one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two_nodes"]

    assert " runs/two_nodes " in second
    more = ["--attacks", "deepfool", "--shard-size", "400", "--arithmetic", "real"]
    line = second.replace(" runs/two_nodes ", f" {run} ")
    leading, following = on_two_nodes(" ".join([line, *more, "--output", str(tmp_path / "two")]), torchrun)
    assert leading.count("verdict") == 1
    assert following == ""
    assert audit([str(run), "--budget", "standard", *more, "--output", str(tmp_path / "alone")]) == 0
    assert shards(tmp_path / "two") == shards(tmp_path / "alone")


@pytest.mark.slow
def test_two_nodes_with_split_weights_train_as_one_process_does(one, tmp_path):
    _, line, _ = commands("torchrun")
    train_on_two_nodes(line, [*SMALL, f"--output={tmp_path}"], torchrun)
    assert_same_run(tmp_path / "split", one)


def shards(directory):
    parquet = pytest.importorskip("pyarrow.parquet")
    return [parquet.read_table(path).to_pydict() for path in sorted((directory / "samples").glob("*.parquet"))]


@pytest.mark.slow
def test_the_tasks_of_slurm_find_one_another(one, tmp_path):
    (line,) = commands("srun")
    line = line.removeprefix("srun ").replace("experiments/cifar10/gpu.yaml", "experiments/fashion_mnist/quick.yaml")
    train_on_two_nodes(line, [*SMALL, f"--output={tmp_path}", "--trainer.devices=1"], slurm)
    assert_same_run(tmp_path / "slurm", one)


def test_the_tasks_of_slurm_are_as_many_as_the_trainer_expects():
    (script,) = (block for block in PAGE.blocks("sh") if "#SBATCH" in block)
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\d+)", script, re.MULTILINE))
    expected = dict(re.findall(r"--trainer\.(\w+) (\w+)", script))
    assert (asked["nodes"], asked["ntasks-per-node"]) == (expected["num_nodes"], expected["devices"])
    assert asked["gpus-per-node"] == expected["devices"]


def test_processes_that_nobody_has_started_are_refused(monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(InputError, match="expected 1 cpu devices on each of 3 nodes"),
        launched_team(devices=1, nodes=3),
    ):
        pass
