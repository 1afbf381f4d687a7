"""What runs beside a training loop must not slow it down or get it wrong."""

import math

import pytest
import torch
from deel import torchlip
from lightning.pytorch import Trainer
from test_train import TwoLayers

from lipcert.callbacks import EpochSeed, FiniteLoss, RunRecorder, rows_to_csv
from lipcert.data import FashionMNISTMini
from lipcert.errors import InputError
from lipcert.modules import LipschitzClassifier
from lipcert.training import quiet_lightning

READS = ("item", "__bool__", "__int__", "__float__", "tolist", "numpy", "__index__")


def fit(directory, steps, *callbacks, lr=1e-3):
    """One epoch of so many steps without anything that waits for the device by itself, such as Björck's early stop."""
    torch.manual_seed(0)
    loss = torchlip.HKRMulticlassLoss(alpha=0.99, min_margin=0.25)
    model = LipschitzClassifier(TwoLayers(8), loss, optimizer=lambda params: torch.optim.SGD(params, lr=lr))
    recorder = RunRecorder(directory, monitor=None)
    with quiet_lightning():
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=steps,
            limit_val_batches=1,
            callbacks=[EpochSeed(0), *callbacks, recorder],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, datamodule=FashionMNISTMini(batch_size=10))
    return recorder


def reads_in(directory, steps, monkeypatch):
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
        fit(directory, steps, FiniteLoss(every=1000))
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


def test_csv_keeps_columns_that_appear_late():
    assert rows_to_csv([{"a": 1.0}, {"a": 2.0, "b": math.pi}]) == f"a,b\n1.0,\n2.0,{math.pi}\n"
