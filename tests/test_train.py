"""The training command as a user meets it: the run directory, resuming, and everything that can go wrong."""

import csv
import errno
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from deel import torchlip
from PIL import Image

from lipcert import export, load_run, save_network
from lipcert.checkpoints import load_checkpoint
from lipcert.errors import InputError
from lipcert.networks import cnn
from lipcert.train import main

ROOT = Path(__file__).parents[1]
SMALL = [
    "--model.init_args.network.init_args.channels=[2,4]",
    "--model.init_args.network.init_args.hidden=8",
    "--trainer.limit_train_batches=3",
    "--trainer.enable_progress_bar=false",
]


class BrokenLoss(torchlip.HKRMulticlassLoss):
    """Becomes NaN in the sixth call of a process."""

    calls = 0

    def forward(self, logits, target):
        BrokenLoss.calls += self.training
        loss = super().forward(logits, target)
        return loss * math.nan if self.training and BrokenLoss.calls >= 6 else loss


class TwoLayers(torch.nn.Sequential):
    """A network of the user's own."""

    def __init__(self, width: int):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))


def train(output, *arguments, config=None):
    start = [] if config is None else ["--config", str(config)]
    return main([*start, f"--output={output}", *SMALL, *arguments])


def refused(capsys, *arguments):
    """Run the command, expect exit code 2 and one line on stderr, and return that line."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert exit_info.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("lipcert train: error: ")
    return lines[0]


def names(folder):
    return {path.name for path in folder.iterdir()}


def metrics(run):
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_run_directory(tmp_path):
    assert train(tmp_path, "--trainer.max_epochs=2") == 0
    run = tmp_path / "quickstart"
    assert {"config.yaml", "metrics.csv", "checkpoints", "network.safetensors", "summary.json"} <= names(run)
    assert names(run / "checkpoints") == {"best.ckpt", "last.ckpt"}
    assert any((run / "tensorboard").iterdir())
    summary = json.loads((run / "summary.json").read_text())
    fields = ("clean_accuracy", "certified_accuracy", "average_certified_radius", "seconds", "images_per_second")
    assert set(fields) | {"versions", "seed", "samples"} <= set(summary)
    assert summary["samples"] == 1000
    assert summary["status"] == "completed"
    rows = metrics(run)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"train/loss", "train/accuracy", "train/kr", "val/kr", "val/average_certified_radius"} <= set(rows[0])
    assert "val/certified_accuracy_0.25" in rows[0]
    loaded = load_run(run)
    assert loaded.data.split("test").images.shape == (1000, 1, 28, 28)
    assert not loaded.network.training


def test_the_resolved_config_reruns_to_the_same_numbers(tmp_path):
    train(tmp_path, "--trainer.max_epochs=1")
    first = tmp_path / "quickstart"
    assert main(["--config", str(first / "config.yaml")]) == 0
    second = tmp_path / "quickstart-2"
    assert metrics(first) == metrics(second)
    assert (first / "network.safetensors").read_bytes() == (second / "network.safetensors").read_bytes()


def test_another_seed_gives_another_network(tmp_path):
    train(tmp_path, "--trainer.max_epochs=1")
    train(tmp_path, "--trainer.max_epochs=1", "--seed_everything=1")
    one, two = ((tmp_path / name / "network.safetensors").read_bytes() for name in ("quickstart", "quickstart-2"))
    assert one != two


@pytest.mark.parametrize("loss", ["HKRMulticlassLoss", "SoftHKRMulticlassLoss", "LseHKRMulticlassLoss"])
def test_resuming_continues_exactly(tmp_path, loss):
    options = [f"--model.init_args.loss=deel.torchlip.{loss}", "--model.init_args.loss.init_args.alpha=0.9"]
    augment = ["--data.init_args.augment=[{class_path: lipcert.data.RandomCrop}]"]
    train(tmp_path / "whole", *options, *augment, "--trainer.max_epochs=4")
    train(tmp_path / "parts", *options, *augment, "--trainer.max_epochs=2")
    run = tmp_path / "parts" / "quickstart"
    assert main(["--resume", str(run), "--trainer.max_epochs=4"]) == 0
    whole = tmp_path / "whole" / "quickstart"
    assert metrics(run) == metrics(whole)
    assert (run / "network.safetensors").read_bytes() == (whole / "network.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_stops_with_its_step_and_keeps_the_last_good_checkpoint(tmp_path, capsys):
    BrokenLoss.calls = 0
    arguments = ["--model.init_args.loss=test_train.BrokenLoss", "--model.init_args.loss.init_args.alpha=0.9"]
    line = refused(capsys, f"--output={tmp_path}", *SMALL, *arguments, "--trainer.max_epochs=5")
    assert "not finite at step 6" in line
    last = tmp_path / "quickstart" / "checkpoints" / "last.ckpt"
    assert str(last) in line
    checkpoint = load_checkpoint(last)
    assert checkpoint["global_step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in checkpoint["state_dict"].values())


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, capsys, monkeypatch):
    real, calls = os.fsync, []

    def full_in_the_second_epoch(descriptor):
        calls.append(descriptor)
        if (tmp_path / "quickstart" / "checkpoints" / "best.ckpt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_in_the_second_epoch)
    line = refused(capsys, f"--output={tmp_path}", *SMALL, "--trainer.max_epochs=3")
    assert "No space left on device" in line
    assert calls
    folder = tmp_path / "quickstart" / "checkpoints"
    assert all(load_checkpoint(path) for path in folder.iterdir())


def test_the_last_checkpoint_is_the_last_epochs_whichever_was_best(tmp_path):
    train(tmp_path, "--trainer.max_epochs=3", "--monitor=val/loss")  # the largest value is best, and the loss falls
    checkpoints = tmp_path / "quickstart" / "checkpoints"
    assert [load_checkpoint(checkpoints / f"{name}.ckpt")["epoch"] for name in ("best", "last")] == [0, 2]


def test_an_earlier_run_is_never_overwritten(tmp_path):
    for _ in range(3):
        train(tmp_path, "--trainer.max_epochs=1")
    assert names(tmp_path) == {"quickstart", "quickstart-2", "quickstart-3"}


BAD = [
    pytest.param(["--trainer.epochs=3"], "epochs", id="unknown-option"),
    pytest.param(["--model.init_args.epsilons=[-1.0]"], "epsilon >= 0", id="negative-epsilon"),
    pytest.param(["--data.init_args.batch_size=0"], "batch_size >= 1", id="batch-size"),
    pytest.param(["--data.init_args.val_size=100000"], "val_size", id="val-size"),
    pytest.param(["--config=nowhere.yaml"], "nowhere.yaml", id="no-config"),
    pytest.param(["--resume=nowhere"], "nowhere", id="no-run"),
    pytest.param(["--resume"], "followed by a run directory", id="resume-without-run"),
    pytest.param(["--model.init_args.network=lipcert.networks.no_such_network"], "no_such_network", id="network"),
    pytest.param(["--data=lipcert.data.FashionMNIST", "--data.init_args.root=nowhere"], "nowhere", id="no-data"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_gives_one_line_and_leaves_no_run(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def truncated(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda folder: None, "sha256", id="wrong-checksum"),
        pytest.param(truncated, "train-images-idx3-ubyte.gz", id="truncated-gz"),
        pytest.param(
            lambda folder: (folder / "train-labels-idx1-ubyte.gz").unlink(), "train-labels", id="missing-file"
        ),
    ],
)
def test_broken_data_gives_one_line_and_leaves_no_run(tmp_path, capsys, spoil, message):
    folder = tmp_path / "fashion-mnist"
    shutil.copytree(ROOT / "lipcert" / "data" / "embedded", folder)  # the right names, other content
    spoil(folder)
    data = ["--data=lipcert.data.FashionMNIST", f"--data.init_args.root={folder}", f"--output={tmp_path / 'runs'}"]
    assert message in refused(capsys, *data)
    assert not (tmp_path / "runs").exists()


def test_an_unknown_key_in_a_config_is_named(tmp_path, capsys):
    config = yaml.safe_load((ROOT / "lipcert" / "quickstart.yaml").read_text())
    config["model"]["init_args"]["learning_rate"] = 1
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    assert "learning_rate" in refused(capsys, f"--config={tmp_path / 'bad.yaml'}", f"--output={tmp_path}")


def test_a_network_that_cannot_be_bounded_is_refused_before_training(tmp_path, capsys):
    arguments = ["--model.init_args.network=torch.nn.LSTM", "--model.init_args.network.dict_kwargs.input_size=28"]
    arguments += ["--model.init_args.network.dict_kwargs.hidden_size=10"]
    assert "LSTM" in refused(capsys, f"--output={tmp_path}", *arguments, "--trainer.enable_progress_bar=false")


@pytest.mark.parametrize("spoil", [b"", b"not a checkpoint"], ids=["empty", "garbage"])
def test_resuming_from_what_is_no_checkpoint(tmp_path, capsys, spoil):
    train(tmp_path, "--trainer.max_epochs=1")
    run = tmp_path / "quickstart"
    (run / "checkpoints" / "last.ckpt").write_bytes(spoil)
    assert "expected a checkpoint" in refused(capsys, f"--resume={run}")


def test_resuming_with_another_network_touches_nothing(tmp_path, capsys):
    train(tmp_path, "--trainer.max_epochs=1")
    run = tmp_path / "quickstart"
    before = (run / "config.yaml").read_text()
    line = refused(capsys, f"--resume={run}", "--model.init_args.network.init_args.hidden=16")
    assert "expected a checkpoint of this configuration's network" in line
    assert (run / "config.yaml").read_text() == before


def test_any_classifier_network_and_loss_by_class_path(tmp_path):
    """An unconstrained network, a loss on class indices, a scheduler, no certificates."""
    config = {
        "name": "plain",
        "trainer": {"max_epochs": 1, "limit_train_batches": 3, "enable_progress_bar": False},
        "model": {
            "class_path": "lipcert.modules.Classifier",
            "init_args": {
                "network": {"class_path": "test_train.TwoLayers", "init_args": {"width": 8}},
                "loss": {"class_path": "torch.nn.CrossEntropyLoss"},
                "one_hot": False,
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
                "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 3}},
                "lr_interval": "step",
            },
        },
        "data": {"class_path": "lipcert.data.FashionMNISTMini", "init_args": {"batch_size": 50}},
    }
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config))
    assert main(["--config", str(tmp_path / "plain.yaml"), f"--output={tmp_path}"]) == 0
    summary = json.loads((tmp_path / "plain" / "summary.json").read_text())
    assert "certified_accuracy" not in summary
    assert 0 < summary["clean_accuracy"] <= 1
    assert isinstance(load_run(tmp_path / "plain").network[1], torch.nn.Linear)


def test_checkpoints_are_read_without_executing_pickles(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": Harmful()}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="expected a checkpoint"):
        load_checkpoint(tmp_path / "x.ckpt")
    assert not (tmp_path / "executed").exists()


def test_help_and_print_config(capsys):
    for arguments, text in ((["--help"], "--resume runs/quickstart"), (["--print_config"], "HKRMulticlassLoss")):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code in (0, None)
        assert text in capsys.readouterr().out


def colour_images(tmp_path):
    """Ten classes of four images, 3 x 32 x 32."""
    for label, image in itertools.product(range(10), range(4)):
        path = tmp_path / "images" / f"class {label}" / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(image))
        Image.fromarray(pixels.numpy()).save(path)
    return tmp_path / "images"


CONFIGS = sorted(
    path.relative_to(ROOT) for path in (ROOT / "experiments").rglob("*.yaml") if path.parent.name != "arena"
)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_experiment_runs(tmp_path, config):
    if config.parent.name == "cifar10":
        data = ["--data=lipcert.data.ImageFolder", f"--data.path={colour_images(tmp_path)}", "--data.batch_size=4"]
        small = ("stages=[[8,1],[16,1]]", "widths=[16]")
        if config.stem in ("columns", "blocks"):
            small = ("network.init_args.stages=[[8,2]]", "network.init_args.width=8")
        if config.stem == "columns_gpu":
            small = ("network.init_args.width=12", "network.init_args.depth=1")
        data += [f"--model.init_args.network.init_args.{size}" for size in small]
    else:
        data = ["--data=lipcert.data.FashionMNISTMini", "--data.init_args.val_size=500"]
    if config.stem == "detector":
        shape = {"input_shape": [3, 32, 32]} if config.parent.name == "cifar10" else {}
        save_network(export(cnn(**shape)), tmp_path / "network.safetensors", cnn, **shape)
        data += [f"--model.init_args.classifier={tmp_path}", "--model.init_args.validation_samples=20"]
        # a handful of images, and a classifier that has learned nothing
        data += ["--model.init_args.false_positive_rate=0.5", "--model.init_args.epsilon=0.5"]
    steps = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    assert main(["--config", str(ROOT / config), f"--output={tmp_path}", *data, *steps]) == 0


@pytest.mark.slow
def test_interrupt_from_the_keyboard_leaves_a_usable_run(tmp_path):
    command = [sys.executable, "-m", "lipcert.train", f"--output={tmp_path}", *SMALL, "--trainer.max_epochs=100000"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )
    checkpoint = tmp_path / "quickstart" / "checkpoints" / "best.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "interrupted after" in stderr.strip().splitlines()[-1]
    run = tmp_path / "quickstart"
    assert load_run(run).network_sha256
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    epochs = len(metrics(run))
    assert main(["--resume", str(run), f"--trainer.max_epochs={epochs + 1}"]) == 0
    assert len(metrics(run)) == epochs + 1
