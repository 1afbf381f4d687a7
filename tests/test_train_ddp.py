"""Training on two devices: the same result as on one, one run directory, and an end whatever happens."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from deel import torchlip
from lightning.pytorch import Callback
from lightning.pytorch.strategies.launchers import subprocess_script
from safetensors.torch import load_file
from two_processes import in_two_processes

from lipcert import export, load_run, save_network
from lipcert.checkpoints import load_checkpoint
from lipcert.data import BatchLoader, FashionMNISTMini
from lipcert.distributed import whole_batch
from lipcert.errors import InputError
from lipcert.layers.centering import BatchCentering
from lipcert.modules import LipschitzClassifier
from lipcert.networks import cnn, hkr_convnet
from lipcert.train import main

ROOT = Path(__file__).parents[1]
SECONDS = 120  # of a command that would otherwise hang; it takes about ten
DDP = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
SOFT = ["--model.init_args.loss=deel.torchlip.SoftHKRMulticlassLoss", "--model.init_args.loss.init_args.min_margin=0.1"]
AVERAGED = ["--trainer.callbacks=lipcert.averaging.AveragedWeights", "--trainer.callbacks.decay=0.8"]
SMALL = [
    "--model.init_args.network.init_args.channels=[2,4]",
    "--model.init_args.network.init_args.hidden=8",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.batch_size=50",
    "--data.init_args.val_size=5851",  # leaves 149 images: the last batches are odd
    '--data.init_args.augment=[{"class_path":"lipcert.data.RandomCrop"}]',
]

# One device and two add the same float32 terms in another order, so that gradients differ by a few units in the last
# place, about 1e-7 of their size. Adam divides by that size: the six steps of 2e-3 differ by 1e-7 of a step where the
# gradient is clear, and by more where its terms cancel. 1.8e-6 was seen; the mean of two losses in place of the loss of
# the whole batch gives 2.5e-4.
TOLERANCE = 1e-5


def command(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "lipcert.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )


def finish(process):
    """Wait for a command; return its exit code, output and errors once none of its processes is left."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return process.returncode, output, errors


def train(*arguments, devices=1):
    if devices == 1:
        assert main([*arguments, "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]) == 0
        return
    code, output, errors = finish(command(*arguments, *DDP))
    assert (code, errors) == (0, "")
    assert output.count("run directory:") == 1


def files(run):
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "events" not in path.name)


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same_result(run, expected):
    weights, expected_weights = (load_file(directory / "network.safetensors") for directory in (run, expected))
    assert list(weights) == list(expected_weights)
    for name, value in weights.items():
        torch.testing.assert_close(value, expected_weights[name], rtol=0, atol=TOLERANCE)
    for row, expected_row in zip(rows(run), rows(expected), strict=True):
        del row["seconds"], expected_row["seconds"]
        assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-5)
    summary, expected_summary = (json.loads((directory / "summary.json").read_text()) for directory in (run, expected))
    for timed in ("seconds", "images_per_second", "command"):
        del summary[timed], expected_summary[timed]
    assert summary.keys() == expected_summary.keys()
    for name in ("clean_accuracy", "average_certified_radius", "kr", "lipschitz_upper_bound", "certified_accuracy"):
        assert summary[name] == pytest.approx(expected_summary[name], abs=1e-5)
    for name in ("status", "epochs", "best_epoch", "seed", "samples", "train_samples", "versions"):
        assert summary[name] == expected_summary[name]


CASES = {"HKR": ([], 2), "SoftHKR": (SOFT, 1), "averaged weights": (AVERAGED, 2)}


@pytest.mark.parametrize(("settings", "first"), CASES.values(), ids=CASES)
def test_two_devices_give_the_result_of_one_and_continue_each_other(tmp_path, settings, first):
    """Two epochs on one device, against one epoch on ``first`` devices and one on the other number."""
    options = [f"--output={tmp_path}", *SMALL, *settings]
    train(*options, "--name=one", "--trainer.max_epochs=2")
    train(*options, "--name=both", "--trainer.max_epochs=1", devices=first)
    run = tmp_path / "both"
    assert files(run) == files(tmp_path / "one")
    train(f"--resume={run}", "--trainer.max_epochs=2", devices=3 - first)
    assert_same_result(run, tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "both"}
    assert [row["images"] for row in rows(run)] == [149, 149]
    last = [load_checkpoint(directory / "checkpoints" / "last.ckpt") for directory in (run, tmp_path / "one")]
    assert [checkpoint["epoch"] for checkpoint in last] == [1, 1]
    torch.testing.assert_close(*(checkpoint["state_dict"] for checkpoint in last), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(*(checkpoint["loss_tensors"] for checkpoint in last), rtol=1e-5, atol=0)


BAD = [
    pytest.param(
        ["--data.init_args.batch_size=25"], "batch_size to be a multiple of the 2 devices, got 25", id="share"
    ),
    pytest.param(["--data.init_args.eval_batch_size=975"], "one batch has 1", id="last-batch"),
    pytest.param(["--trainer.strategy=ddp_spawn"], "forks or spawns", id="spawn"),
    pytest.param(["--trainer.strategy=ddp_fork"], "forks or spawns", id="fork"),
    pytest.param(["--trainer.strategy=no_such_strategy"], "no_such_strategy", id="strategy"),
    pytest.param(["--model.init_args.epsilons=[-1.0]"], "epsilon >= 0", id="negative-epsilon"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_gives_one_line_before_a_process_is_started(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(subprocess_script, "_basic_subprocess_cmd", None)
    with pytest.raises(SystemExit) as exit_info:
        main([f"--output={tmp_path}", *SMALL, *DDP, *arguments])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lipcert train: error: ")
    assert message in line
    assert not any(tmp_path.iterdir())


class FailsIn(Callback):
    """Fails at the end of the second epoch, in one of the processes or in both."""

    def __init__(self, how: str):
        self.how = how

    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            if self.how == "dies in 1" and trainer.global_rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "raises in both" or (self.how == "raises in 0" and trainer.global_rank == 0):
                raise InputError("expected this")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raises in 0", "raises in both", "dies in 1"])
def test_a_failure_ends_every_process_and_leaves_a_run_to_continue(tmp_path, how):
    fails = ["--trainer.callbacks=test_train_ddp.FailsIn", f"--trainer.callbacks.how={how}"]
    code, output, errors = finish(command(f"--output={tmp_path}", "--name=x", *SMALL, *DDP, *fails))
    assert output == ""
    if how == "dies in 1" and code == -signal.SIGKILL:  # Lightning's observer was faster
        assert errors == ""
    else:
        assert code == 2
        (line,) = errors.strip().splitlines()
        assert ("expected this" if "raises" in how else "--resume") in line
    run = tmp_path / "x"
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 0
    assert len(rows(run)) == 1
    train(f"--resume={run}", "--trainer.max_epochs=2", "--trainer.callbacks=[]")
    assert len(rows(run)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [True, False], ids=["terminal", "one-process"])
def test_an_interrupt_leaves_a_run_that_loads_and_continues(tmp_path, everywhere):
    process = command(f"--output={tmp_path}", "--name=x", *SMALL, *DDP, "--trainer.max_epochs=100000")
    run = tmp_path / "x"
    deadline = time.monotonic() + SECONDS
    while not (run / "checkpoints" / "best.ckpt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    (os.killpg if everywhere else os.kill)(process.pid, signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 2
    (line,) = errors.strip().splitlines()
    assert "interrupted after" in line
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert load_run(run).network_sha256
    epochs = len(rows(run))
    train(f"--resume={run}", f"--trainer.max_epochs={epochs + 1}")
    assert len(rows(run)) == epochs + 1


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory):
    """What each of two gloo processes computes, and what one process does."""
    folder = tmp_path_factory.mktemp("group")
    in_two_processes(_joined, folder, seconds=SECONDS)
    alone = {work.__name__: work(0, 1) for work in (a_step, certified)}
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)], alone


def _joined(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save({work.__name__: work(rank, 2) for work in (a_step, certified)}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


class Centred(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), BatchCentering(3), torch.nn.ReLU())
        self.head = torch.nn.Linear(3 * 26 * 26, 10)

    def forward(self, inputs):
        return self.head(self.body(inputs).flatten(1))


def a_step(rank, world_size):
    """Two steps of a centred network on batches of 6 and 5 images: weights, running mean, gradients, losses."""
    torch.manual_seed(0)
    network, loss_of = Centred().double(), torchlip.HKRMulticlassLoss(alpha=0.9, min_margin=1.0)
    trained = torch.nn.parallel.DistributedDataParallel(network) if world_size > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    images = FashionMNISTMini(val_size=5989).split("train")
    losses = []
    for inputs, labels in BatchLoader(images, batch_size=6, rank=rank, world_size=world_size):
        logits, targets = trained(inputs.double()), torch.nn.functional.one_hot(labels, 10).double()
        if world_size > 1:
            logits, targets = whole_batch(logits), whole_batch(targets)
        loss = loss_of(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    gradients = [parameter.grad for parameter in network.parameters()]
    return [*network.state_dict().values(), *gradients, *losses]


def test_batch_centring_and_the_gradient_of_the_whole_batch(of_processes):
    shared, alone = of_processes
    for results in shared:
        for value, expected in zip(results["a_step"], alone["a_step"], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)  # float64: the order of the sums


def certified(rank, world_size):
    """Metrics of one network on 151 images in batches of 50: the shares are uneven throughout."""
    torch.manual_seed(0)
    model = LipschitzClassifier(
        hkr_convnet(channels=(2, 4), hidden=8), torchlip.HKRMulticlassLoss(0.9), epsilons=(0.01, 0.02)
    )
    model.input_shape = (1, 28, 28)
    model.deploy()
    images = FashionMNISTMini(val_size=153).split("val")
    for inputs, labels in BatchLoader(images, batch_size=51, rank=rank, world_size=world_size):
        with torch.no_grad():
            model.measure("val", torch.tensor(0.0), model.deployed(inputs), labels)
    return {name: torch.as_tensor(value) for name, value in model.report("val").items()}


def test_certified_metrics_of_two_processes_are_those_of_one(of_processes):
    shared, alone = of_processes
    one = alone["certified"]
    assert 0 < one["certified_accuracy_0.01"] <= one["accuracy"] < 1
    for name, expected in one.items():
        tolerance = 0 if "accuracy" in name else 1e-6
        for results in shared:
            torch.testing.assert_close(results["certified"][name], expected, rtol=tolerance, atol=tolerance)


NETWORK = "--model.init_args.network.init_args."
OTHER = "<a trained network>"
# By module: its configuration, the options of the network that is made small, and what else is set. The first 400 of
# the 1,000 validation images are all with the first of two processes, the first 700 are shared unevenly.
CONFIGURED = {
    "distilled": ("distilled", NETWORK, [f"--model.init_args.teacher={OTHER}"]),
    "detector": (
        "detector",
        NETWORK,
        [f"--model.init_args.classifier={OTHER}", "--model.init_args.validation_samples=400"],
    ),
    "adversarial": ("pgd_linf", NETWORK, ["--model.init_args.validation_samples=400"]),
    "half adversarial": (
        "pgd_linf",
        NETWORK,
        ["--model.init_args.ratio=0.5", "--model.init_args.validation_samples=700"],
    ),
    "trades": ("trades", NETWORK, ["--model.init_args.validation_samples=400"]),
    "perturbed weights": (
        "pgd_linf",
        NETWORK,
        ["--model.init_args.validation_samples=400", "--model.init_args.weight_perturbation=0.01"],
    ),
    "smoothing": (
        "columns",
        f"{NETWORK}network.init_args.",
        [f"{NETWORK}network=lipcert.networks.cnn", f"{NETWORK}network.init_args.input_shape=[2,28,28]"],
    ),
}


@pytest.mark.parametrize(("config", "network", "settings"), CONFIGURED.values(), ids=CONFIGURED)
def test_two_devices_train_defenses_as_one_does(tmp_path, config, network, settings):
    """What is crafted, drawn or asked of another network belongs to the sample: the global batch is the same."""
    torch.manual_seed(0)
    small = {"stages": [[4, 0]], "widths": []}
    save_network(export(cnn(**small)), tmp_path / "other" / "network.safetensors", cnn, **small)
    common = [
        f"--config={ROOT / 'experiments' / 'fashion_mnist' / config}.yaml",
        "--data=lipcert.data.FashionMNISTMini",
        "--data.init_args.val_size=5851",
        "--data.init_args.batch_size=50",
        "--data.init_args.augment=[]",
        "--trainer.max_epochs=1",
        "--trainer.precision=32-true",
        "--trainer.enable_progress_bar=false",
        "--trainer.limit_val_batches=1",
        f"--output={tmp_path}",
        *(setting.replace(OTHER, str(tmp_path / "other")) for setting in settings),
        f"{network}stages=[[4,0]]",
        f"{network}widths=[]",
        "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1}}",
    ]
    for devices in (1, 2):
        train(*common, f"--name={devices}", devices=devices)
    weights, expected = (load_file(tmp_path / run / "network.safetensors") for run in ("2", "1"))
    assert weights.keys() == expected.keys()
    for key, value in weights.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=TOLERANCE)
    (row,), (expected_row,) = rows(tmp_path / "2"), rows(tmp_path / "1")
    del row["seconds"], expected_row["seconds"]
    assert row == pytest.approx(expected_row, rel=1e-4)
