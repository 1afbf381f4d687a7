"""Training with weights that are split over two processes (FSDP2): the same result as whole ones."""

import copy
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies.launchers import subprocess_script
from safetensors.torch import load_file
from test_train_ddp import SMALL, TOLERANCE, assert_same_result, command, files, finish, rows
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from two_processes import in_two_processes

from lipcert import load_run
from lipcert.checkpoints import load_checkpoint
from lipcert.distributed import whole_batch
from lipcert.errors import InputError
from lipcert.layers import keep_orthogonal, project_
from lipcert.layers.stiefel import kept_weights
from lipcert.modules.crafting import searchable
from lipcert.networks import dense_network
from lipcert.networks.residual import ConvexResidual
from lipcert.optimizers import OneSidedShampoo
from lipcert.sharding import check_splittable, gathered, is_split, split_, whole
from lipcert.strategies import OLDEST_TORCH
from lipcert.train import main

ROOT = Path(__file__).parents[1]
SECONDS = 300  # of processes that would otherwise hang
FSDP = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=fsdp2"]
NETWORK = "--model.init_args.network.init_args."
ONE_EPOCH = ["--trainer.max_epochs=1", "--trainer.precision=32-true", "--trainer.limit_val_batches=1"]

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH, reason="FSDP2 of an earlier torch"
)


def train(*arguments, split=False):
    if split:
        code, output, errors = finish(command(*arguments, *FSDP))
        assert (code, errors) == (0, "")
        assert output.count("run directory:") == 1
    else:
        assert main([*arguments, "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]) == 0


def of_config(name):
    return [
        f"--config={ROOT / 'experiments' / 'fashion_mnist' / name}.yaml",
        "--data=lipcert.data.FashionMNISTMini",
        "--data.init_args.batch_size=50",
        "--data.init_args.val_size=5851",  # leaves 149 images: the last batches are odd
        "--data.init_args.augment=[]",
        "--trainer.enable_progress_bar=false",
    ]


# 17 rows: the two processes have unequal shares. A 16 x 16 weight: the optimizer's statistics of it have its shape.
ORTHOGONAL = [
    *of_config("quick"),
    f"{NETWORK}widths=[16,16]",
    "--model.init_args.optimizer=lipcert.optimizers.OneSidedShampoo",
    "--model.init_args.lr_scheduler=null",  # OneCycle's depends on how long a training is
]
CASES = {"torchlip, begun split": (SMALL, True), "orthogonal, begun whole": (ORTHOGONAL, False)}


@pytest.mark.parametrize(("options", "split"), CASES.values(), ids=CASES)
def test_split_weights_give_the_result_of_whole_ones_and_continue_each_other(tmp_path, options, split):
    """Two epochs on one device, against one epoch with split weights and one without, in either order."""
    options = [f"--output={tmp_path}", *options]
    train(*options, "--name=one", "--trainer.max_epochs=2")
    train(*options, "--name=both", "--trainer.max_epochs=1", split=split)
    run = tmp_path / "both"
    assert files(run) == files(tmp_path / "one")
    first = load_checkpoint(run / "checkpoints" / "last.ckpt")
    train(f"--resume={run}", "--trainer.max_epochs=2", split=not split)
    last = [load_checkpoint(directory / "checkpoints" / "last.ckpt") for directory in (run, tmp_path / "one")]
    assert_same_result(run, tmp_path / "one")
    torch.testing.assert_close(*(checkpoint["state_dict"] for checkpoint in last), rtol=0, atol=TOLERANCE)
    states = ([optimizer["state"] for optimizer in checkpoint["optimizer_states"]] for checkpoint in last)
    torch.testing.assert_close(*states, rtol=1e-3, atol=TOLERANCE)
    weights = [name for name, value in first["state_dict"].items() if value.is_floating_point() and value.ndim > 1]
    moved = [(first["state_dict"][name] - last[0]["state_dict"][name]).abs().max() for name in weights]
    assert min(moved) > 10 * TOLERANCE  # the second epoch has trained


STAGES = ["stages=[[4,0]]", "widths=[]"]
SGD = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1}}"
CONFIGURED = {
    "adversarial": [
        *of_config("pgd_linf"),
        *(f"{NETWORK}{setting}" for setting in STAGES),
        "--model.init_args.validation_samples=400",
        SGD,
    ],
    "smoothed": [
        *of_config("columns"),
        f"{NETWORK}network=lipcert.networks.cnn",
        f"{NETWORK}network.init_args.input_shape=[2,28,28]",
        *(f"{NETWORK}network.init_args.{setting}" for setting in STAGES),
        SGD,
    ],
    "clipped": [*ORTHOGONAL, "--trainer.gradient_clip_val=0.01", SGD],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", CONFIGURED.values(), ids=CONFIGURED)
def test_split_weights_train_other_modules_as_whole_ones_do(tmp_path, options):
    for name, split in (("one", False), ("split", True)):
        train(*options, *ONE_EPOCH, f"--output={tmp_path}", f"--name={name}", split=split)
    weights, expected = (load_file(tmp_path / run / "network.safetensors") for run in ("split", "one"))
    torch.testing.assert_close(weights, expected, rtol=0, atol=TOLERANCE)
    (row,), (expected_row,) = rows(tmp_path / "split"), rows(tmp_path / "one")
    del row["seconds"], expected_row["seconds"]
    assert row == pytest.approx(expected_row, rel=1e-4)


@pytest.mark.slow
def test_bfloat16_trains_split_weights(tmp_path):
    """Products are rounded to 8 bits, a relative 2^-9, where float32 sums in another order fall on the other side."""
    options = [*ORTHOGONAL, SGD, *ONE_EPOCH, "--trainer.precision=bf16-mixed", f"--output={tmp_path}"]
    for name, split in (("one", False), ("split", True)):
        train(*options, f"--name={name}", split=split)
    weights, expected = (load_file(tmp_path / run / "network.safetensors") for run in ("split", "one"))
    assert {value.dtype for value in weights.values()} == {torch.float32}
    torch.testing.assert_close(weights, expected, rtol=0, atol=2**-9)


@pytest.mark.slow
def test_an_interrupt_leaves_a_run_that_loads_and_continues(tmp_path):
    options = [f"--output={tmp_path}", "--name=x", *SMALL, *FSDP, "--trainer.max_epochs=100000"]
    process, run = command(*options), tmp_path / "x"
    deadline = time.monotonic() + SECONDS
    while not (run / "checkpoints" / "best.ckpt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 2
    line, *others = errors.strip().splitlines()
    assert "interrupted after" in line
    assert others == [] or "unwaited collective calls" in others[0]  # torch's own last word, if it was sending
    assert load_run(run).network_sha256
    epochs = len(rows(run))
    train(f"--resume={run}", f"--trainer.max_epochs={epochs + 1}")
    assert len(rows(run)) == epochs + 1


AVERAGED = ["--trainer.callbacks=lipcert.averaging.AveragedWeights"]
PERTURBED = [*of_config("pgd_linf"), "--model.init_args.weight_perturbation=0.01"]
REFUSED = {
    "fsdp": (["--trainer.strategy=fsdp"], "expected ddp, or fsdp2 to split weights, got fsdp"),
    "offloaded": (["--trainer.strategy=fsdp_cpu_offload"], "fsdp2 to split weights, got fsdp_cpu_offload"),
    "deepspeed": (["--trainer.strategy=deepspeed"], "fsdp2 to split weights, got deepspeed"),
    "Lightning's": (
        ["--trainer.strategy={class_path: lightning.pytorch.strategies.ModelParallelStrategy}"],
        "fsdp2 to split weights, got ModelParallelStrategy",
    ),
    "bfloat16": (["--trainer.precision=bf16-true"], "expected a precision among 32-true, bf16-mixed with fsdp2"),
    "averaged": (AVERAGED, "expected no averaged weights with fsdp2"),
    "perturbed": (PERTURBED, "expected weight_perturbation 0 with fsdp2"),
    "statistics": (["--trainer.sync_batchnorm=true"], "expected sync_batchnorm false with fsdp2"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_needs_whole_weights_is_refused_before_a_process_is_started(
    tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setattr(subprocess_script, "_basic_subprocess_cmd", None)
    with pytest.raises(SystemExit) as stop:
        main([f"--output={tmp_path}", *FSDP, *options])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lipcert train: error: ")
    assert message in line
    assert not any(tmp_path.iterdir())


def test_a_single_number_cannot_be_split():
    with pytest.raises(InputError, match=r"got the number '1\.parametrizations\.share\.original'; use ddp"):
        check_splittable(nn.Sequential(nn.Linear(2, 2), ConvexResidual(nn.ReLU(), learned=True)))


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory):
    """What each of two gloo processes computes with split weights, and what one process does with whole ones."""
    folder = tmp_path_factory.mktemp("group")
    in_two_processes(_joined, folder, seconds=SECONDS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)], kept_orthogonal(0, 1)


def _joined(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    works = (kept_orthogonal, passed_unequally, statistics)
    torch.save({work.__name__: work(rank, 2) for work in works}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def made(world_size, network):
    """A network, split if there are several processes, and what returns it with whole weights."""
    if world_size == 1:
        return network, lambda: network
    template = copy.deepcopy(network)
    split_(network, init_device_mesh("cpu", (world_size,)))
    return network, lambda: gathered(network, template)


def kept_orthogonal(rank, world_size):
    """Weights after each of three steps and their retractions, and after a projection: of 6, 4 and 3 rows."""
    torch.manual_seed(0 if rank == 0 else 1)  # the second process is given the weights of the first
    network, of_network = made(world_size, dense_network((1, 4, 4), widths=(6, 4), num_classes=3).double())
    optimizer = OneSidedShampoo(network.parameters(), lr=0.1)
    keep_orthogonal(optimizer, network, every=1, tangent=True)
    generator, weights = torch.Generator().manual_seed(0), []
    for _ in range(3):
        inputs = torch.rand(4, 1, 4, 4, generator=generator, dtype=torch.float64)
        labels = torch.randint(3, (4,), generator=generator)
        share = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
        logits, targets = network(inputs[share]), labels[share]
        if world_size > 1:
            logits, targets = whole_batch(logits), whole_batch(targets)
        optimizer.zero_grad()
        nn.functional.cross_entropy(10 * logits, targets).backward()
        optimizer.step()
        weights.append([weight.detach().clone() for weight, _ in kept_weights(of_network())])
    project_(network)
    weights.append([weight.detach().clone() for weight, _ in kept_weights(of_network())])
    return weights


def test_constraints_of_split_weights_hold_for_whole_matrices_after_every_step(of_processes):
    shared, alone = of_processes
    for results in shared:
        torch.testing.assert_close(results["kept_orthogonal"], alone, rtol=0, atol=1e-10)  # float64: order of sums
    for weights in alone[:3]:  # a step turns by 0.1: a retraction leaves the square of what it finds
        assert max(distance_from_orthonormal(weight) for weight in weights) < 0.05
    assert max(distance_from_orthonormal(weight) for weight in alone[3]) < 1e-12
    assert min((first - last).abs().max() for first, last in zip(alone[0], alone[2], strict=True)) > 0.01


def distance_from_orthonormal(weight):
    gram = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
    return (gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max()


def passed_unequally(rank, world_size):
    """What a search leaves behind in which the second process needs three passes, the first one none."""
    torch.manual_seed(0)
    network, _ = made(world_size, nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)))
    with searchable(network):
        for _ in range(3 * rank):
            inputs = torch.rand(2, 4, requires_grad=True)
            torch.autograd.grad(network(inputs).sum(), inputs)
    split = [is_split(parameter) for parameter in network.parameters()]
    network(torch.ones(2, 4)).sum().backward()
    return split, [whole(parameter.grad) for parameter in network.parameters()]


def test_processes_search_as_long_as_each_needs_and_train_on(of_processes):
    shared, _ = of_processes
    (first, gradients), (second, others) = (results["passed_unequally"] for results in shared)
    assert first == second == [True] * 4
    torch.testing.assert_close(gradients, others, rtol=0, atol=0)
    assert gradients[-1].tolist() == [2.0] * 3


def statistics(rank, world_size):
    """The running mean of a gathered network whose processes have seen different images."""
    network, of_network = made(world_size, nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2)))
    network(torch.full((4, 1), 10.0 * (rank + 1)))
    return of_network()[0].running_mean


def test_what_is_gathered_has_the_buffers_of_the_first_process(of_processes):
    shared, _ = of_processes
    assert [results["statistics"].item() for results in shared] == [1.0, 1.0]  # momentum 0.1 of a mean of 10
