"""What runs beside a training loop must not slow it down or get it wrong."""

import math

import pytest
import torch
from deel import torchlip
from lightning.pytorch import Callback, Trainer
from test_train import TwoLayers

from lipcert.callbacks import EpochSeed, FiniteLoss, Progress, RunRecorder, Throughput, doubtful_choice, rows_to_csv
from lipcert.data import FashionMNISTMini
from lipcert.errors import InputError
from lipcert.modules import LipschitzClassifier
from lipcert.training import quiet_lightning

READS = ("item", "__bool__", "__int__", "__float__", "tolist", "numpy", "__index__")


def fit(directory, steps, *callbacks, lr=1e-3, monitor=None, loss=None, **options):
    """One epoch of so many steps without anything that waits for the device by itself, such as Björck's early stop."""
    torch.manual_seed(0)
    loss = loss or torchlip.HKRMulticlassLoss(alpha=0.99, min_margin=0.25)
    model = LipschitzClassifier(TwoLayers(8), loss, optimizer=lambda params: torch.optim.SGD(params, lr=lr))
    recorder = RunRecorder(directory, monitor=monitor)
    with quiet_lightning():
        trainer = Trainer(
            **{"max_epochs": 1, **options},
            limit_train_batches=steps,
            limit_val_batches=1,
            callbacks=[EpochSeed(0), *callbacks, recorder],
            logger=False,
            enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, datamodule=FashionMNISTMini(batch_size=10))
    return recorder


def reads_in(directory, steps, monkeypatch, *callbacks):
    count = 0

    def counted(original):
        def read(tensor, *arguments):
            nonlocal count
            count += 1
            return original(tensor, *arguments)

        return read

    with monkeypatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
        fit(directory, steps, FiniteLoss(every=1000), *callbacks)
    return count


def test_a_training_step_reads_nothing_from_the_device(tmp_path, monkeypatch):
    assert reads_in(tmp_path / "a", 5, monkeypatch) == reads_in(tmp_path / "b", 25, monkeypatch) > 0


def test_a_diverging_run_is_stopped_before_its_checkpoint(tmp_path):
    with pytest.raises(InputError, match="not finite"):
        fit(tmp_path, 30, FiniteLoss(), lr=1e30)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 0
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_recorder_counts_images_and_seconds(tmp_path):
    recorder = fit(tmp_path, 7)
    (row,) = recorder.rows
    assert row["images"] == 70
    assert row["step"] == 7
    assert recorder.images_per_second == pytest.approx(70 / row["seconds"])
    assert (tmp_path / "metrics.csv").read_text() == rows_to_csv(recorder.rows)


ACR = "val/average_certified_radius"


def epochs(*pairs):
    return [{"epoch": epoch, "val/accuracy": right, ACR: radius} for epoch, (right, radius) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        (epochs((0.9, 0.8), (0.1, 1.1)), "epoch 1, with accuracy 0.1 where epoch 0 had 0.9"),
        (epochs((0.1, 1.1), (0.9, 0.8), (0.7, 0.9)), "epoch 0, with accuracy 0.1 where epoch 1 had 0.9"),
        (epochs((0.9, 0.8), (0.73, 1.1)), None),
        (epochs((0.1, 1.1)), None),
        (epochs((0.9, 0.8), (0.1, math.nan)), None),
        ([{"epoch": 0, "train/loss": 1.0}], None),
        ([], None),
    ],
    ids=["constant", "constant at first", "a trade", "no other", "nan", "nothing measured", "no epoch"],
)
def test_a_metric_that_prefers_a_useless_network_is_noticed(rows, chosen):
    line = doubtful_choice(rows, ACR)
    assert (chosen in line) if chosen else line is None


def test_the_smallest_may_be_best():
    rows = epochs((0.9, 0.8), (0.1, 0.1))
    assert "epoch 1" in doubtful_choice(rows, ACR, largest=False)
    assert doubtful_choice(rows, ACR) is None


class Constant(Callback):
    """Turns the network into a constant classifier before the second validation."""

    def on_validation_start(self, trainer, module):
        if trainer.current_epoch == 1:
            head = module.network[-1]
            with torch.no_grad():
                head.weight.mul_(1e-3)
                head.bias.zero_()[0] = 100.0


def test_a_run_whose_best_checkpoint_is_a_constant_classifier_says_so(tmp_path, caplog):
    learns = {"lr": 0.1, "loss": torch.nn.CrossEntropyLoss(), "max_epochs": 2}
    fit(tmp_path / "a", 30, Constant(), monitor="val/accuracy", **learns)
    assert not [line for line in caplog.messages if line.startswith("warning")]
    fit(tmp_path / "b", 30, Constant(), monitor=ACR, **learns)
    [line] = [line for line in caplog.messages if line.startswith("warning")]
    assert f"{ACR} has chosen epoch 1, with accuracy 0." in line


def test_csv_keeps_columns_that_appear_late():
    assert rows_to_csv([{"a": 1.0}, {"a": 2.0, "b": math.pi}]) == f"a,b\n1.0,\n2.0,{math.pi}\n"


def test_throughput_forgets_the_past_and_leaves_out_pauses():
    now = 0.0
    throughput = Throughput(memory=5.0, clock=lambda: now)
    throughput.start()
    for _ in range(1000):
        now += 0.1
        rate = throughput.add(30)
    assert rate == pytest.approx(300)
    now += 3600
    throughput.start()
    now += 0.1
    assert throughput.add(30) == pytest.approx(300)
    for _ in range(50):  # five seconds at a third of the speed
        now += 0.1
        rate = throughput.add(10)
    assert rate == pytest.approx(100 + 200 / math.e, rel=1e-6)


def test_the_bar_shows_the_throughput_of_training_only(tmp_path, monkeypatch):
    class Clock:
        seconds = 0.0

        def __call__(self):
            return self.seconds

    class Tick(Callback):
        """Steps of 0.1 s and validations of an hour."""

        def on_train_batch_start(self, *arguments):
            clock.seconds += 0.1

        def on_validation_start(self, *arguments):
            clock.seconds += 3600

    clock, bar, shown = Clock(), Progress(), []
    bar.throughput.clock = clock
    show = bar.get_metrics
    monkeypatch.setattr(bar, "get_metrics", lambda *arguments: shown.append(show(*arguments)) or shown[-1])
    fit(tmp_path, 25, Tick(), bar, val_check_interval=5)
    assert {metrics["images/s"] for metrics in shown} == {"100"}
    assert "val/accuracy" in shown[-1]
