"""The schedule's rates in closed form, the length that it gets from the trainer, and resuming to the bit."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from test_train import metrics, names

from lipcert.checkpoints import load_checkpoint
from lipcert.errors import InputError
from lipcert.schedules import OneCycle
from lipcert.train import main


def rates(schedule, steps):
    """Learning rates of so many steps."""
    optimizer, seen = schedule.optimizer, []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def one_cycle(*arguments, lr=1.0, **options):
    return OneCycle(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr), *arguments, **options)


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.9])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.001), (0.0, 0.5), (1.0, 0.0)])
def test_rates_in_closed_form(warmup, start, end):
    due = []
    for step in range(100):
        p = step / 100
        ramp = start + (1 - start) * p / warmup if p < warmup else None
        angle = math.pi * (p - warmup) / (1 - warmup)
        due.append(2.0 * (end + (1 - end) * (1 + math.cos(angle)) / 2 if ramp is None else ramp))
    schedule = one_cycle(100, lr=2.0, warmup=warmup, start=start, end=end)
    assert rates(schedule, 100) == pytest.approx(due, rel=1e-12)
    assert rates(schedule, 3) == pytest.approx([2.0 * end] * 3)


def test_groups_keep_their_ratio():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    schedule = OneCycle(torch.optim.SGD(groups), 10)
    for _ in range(10):
        first, second = schedule.get_last_lr()
        assert second == pytest.approx(first / 10)
        schedule.optimizer.step()
        schedule.step()


def test_a_longer_training_continues_with_its_own_rates():
    whole, short, longer = one_cycle(20), one_cycle(10), one_cycle(20)
    due = rates(whole, 20)
    rates(short, 6)
    longer.load_state_dict(short.state_dict())
    longer.optimizer.load_state_dict(short.optimizer.state_dict())
    assert rates(longer, 14)[1:] == pytest.approx(due[7:])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"warmup": 1.0}, "warm-up"), ({"warmup": -0.1}, "warm-up"), ({"total_steps": 0}, "total_steps >= 1")],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        one_cycle(**options)


def test_a_length_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="expected total_steps"):
        rates(one_cycle(), 1)


class Breakdown(Callback):
    """Stops a process once, at the start of the second epoch."""

    armed = False

    def on_train_epoch_start(self, trainer, module):
        if Breakdown.armed and trainer.current_epoch == 1:
            Breakdown.armed = False
            raise InputError("broken down")


COMMAND = [
    "--name=run",
    "--model.init_args.network={class_path: lipcert.networks.dense_network, init_args: {widths: [8]}}",
    "--model.init_args.loss={class_path: lipcert.losses.CertifiedRadiusLoss, init_args: {max_radius: 0.5}}",
    "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.4, momentum: 0.9}}",
    "--model.init_args.lr_scheduler=lipcert.schedules.OneCycle",
    "--model.init_args.retract_every=2",
    "--trainer.callbacks=[{class_path: lipcert.averaging.AveragedWeights, init_args: {decay: 0.8}},"
    " {class_path: test_schedules.Breakdown}]",
    "--trainer.max_epochs=3",
    "--trainer.limit_train_batches=3",
    "--trainer.enable_progress_bar=false",
]


def test_a_run_that_broke_down_continues_to_the_bit(tmp_path, monkeypatch):
    """With a schedule, weights kept by projection every second step, and averaged weights."""
    monkeypatch.setattr(Breakdown, "armed", True)
    with pytest.raises(SystemExit):
        main([*COMMAND, f"--output={tmp_path / 'parts'}"])
    run, whole = (tmp_path / name / "run" for name in ("parts", "whole"))
    assert "network.safetensors" not in names(run)
    assert main(["--resume", str(run)]) == 0
    assert main([*COMMAND, f"--output={tmp_path / 'whole'}"]) == 0
    assert metrics(run) == metrics(whole)
    assert (run / "network.safetensors").read_bytes() == (whole / "network.safetensors").read_bytes()
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.ckpt") for path in (run, whole))
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    [schedule] = ours["lr_schedulers"]
    assert schedule["last_epoch"] == 9
    assert schedule["_last_lr"] == [pytest.approx(0.4 * 0.001)]  # the end of nine steps: the trainer's, not an epoch's
    assert all(torch.equal(ours["state_dict"][name], tensor) for name, tensor in theirs["state_dict"].items())
