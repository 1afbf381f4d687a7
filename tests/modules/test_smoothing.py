"""Derandomized smoothing is trained on a view of its own for each image, and validated by the certified vote."""

import csv
import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import nn

from lipcert import load_run
from lipcert.certificates import (
    ColumnAblation,
    certify_patch,
    l1_certificate,
    lipschitz_upper_bound,
    predict_votes,
    vote_counts,
)
from lipcert.data import FashionMNISTMini
from lipcert.deployment import export, save_network
from lipcert.errors import InputError
from lipcert.modules import DerandomizedSmoothing
from lipcert.networks import SmoothedNetwork, SplittingNetwork, cnn, conv_network
from lipcert.train import main
from lipcert.training import quiet_lightning

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "experiments" / "mnist" / "columns.yaml"
BASE = "--model.init_args.network.init_args.network"
SMALL = [
    "--data=lipcert.data.FashionMNISTMini",
    "--data.init_args.val_size=200",
    "--data.init_args.batch_size=64",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--trainer.enable_progress_bar=false",
    f"{BASE}.init_args.stages=[[4,2]]",
    f"{BASE}.init_args.width=8",
]
WHOLE = {"input_shape": [2, 28, 28], "stages": [[4, 0]], "widths": [], "batch_norm": True}


class Recording(nn.Module):
    """Keeps the views that it is shown."""

    def __init__(self, channels=1):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels * 28 * 28, 10)
        self.seen = []

    def forward(self, views):
        if self.training:
            self.seen.append(views.detach().clone())
        return self.head(self.norm(views).flatten(1))


def fitted(module, **settings):
    data = FashionMNISTMini(batch_size=50, val_size=100)
    options = {"max_epochs": 1, "limit_train_batches": 3, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    with quiet_lightning():
        trainer = Trainer(**{**options, **quiet, **settings})
        trainer.fit(module, datamodule=data)
    return trainer


def test_every_image_shows_a_view_of_its_own_and_the_same_ones_again():
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        base = Recording()
        fitted(DerandomizedSmoothing(SmoothedNetwork(base, ColumnAblation(4, wrap=False), encoding="null", null=-1.0)))
        runs.append(torch.cat(base.seen))
    retained = (runs[0] > -1).all(1).all(1)
    assert retained.sum(1).eq(4).all()
    first = retained.int().argmax(1)
    assert len(first[:50].unique()) > 15  # within one batch; 25 views in all
    assert len(first.unique()) == 25
    assert torch.equal(*runs)


def test_batch_norm_follows_views_alone():
    torch.manual_seed(0)
    base = Recording()
    fitted(DerandomizedSmoothing(SmoothedNetwork(base, ColumnAblation(4), encoding="null")), max_epochs=2)
    expected = torch.zeros(1)
    for views in base.seen:
        expected = 0.9 * expected + 0.1 * views.mean()
    assert base.norm.num_batches_tracked == len(base.seen) == 6
    assert torch.allclose(base.norm.running_mean, expected, rtol=1e-5)


def test_the_run_directory_holds_the_vote_and_its_figures(tmp_path):
    assert main(["--config", str(CONFIG), f"--output={tmp_path}", *SMALL]) == 0
    run = load_run(tmp_path / "mnist_columns")
    assert isinstance(run.network, SmoothedNetwork)
    summary = json.loads((tmp_path / "mnist_columns" / "summary.json").read_text())
    images = run.data.split("test")
    votes = run.network.votes(images.inputs())
    right = predict_votes(vote_counts(votes)) == images.labels
    certified = certify_patch(votes, run.network.ablation, (28, 28), 5)
    assert summary["clean_accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-6)
    assert summary["certified_accuracy_of_patch"] == pytest.approx((right & certified).double().mean().item(), abs=1e-6)
    assert summary["certified_accuracy"].get("5", 0) == summary["certified_accuracy_of_patch"]
    with (tmp_path / "mnist_columns" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    validation = run.data.split("val")
    votes = run.network.votes(validation.inputs())
    right = predict_votes(vote_counts(votes)) == validation.labels
    certified = certify_patch(votes, run.network.ablation, (28, 28), 5)
    assert float(row["val/accuracy"]) == pytest.approx(right.double().mean().item(), abs=1e-6)
    assert float(row["val/certified_accuracy"]) == pytest.approx((right & certified).double().mean().item(), abs=1e-6)


def test_training_starts_from_a_network_of_whole_images_or_of_the_same_views_and_of_no_others(tmp_path, capsys):
    save_network(export(cnn(**WHOLE)), tmp_path / "whole.safetensors", cnn, **WHOLE)
    base = json.dumps({"class_path": "lipcert.networks.cnn", "init_args": WHOLE})
    start = ["--config", str(CONFIG), f"--output={tmp_path}", *SMALL[:-2], f"{BASE}={base}"]
    assert main([*start, f"--weights={tmp_path / 'whole.safetensors'}", "--name=views"]) == 0
    assert main([*start, f"--weights={tmp_path / 'views'}"]) == 0
    size = "--model.init_args.network.init_args.ablation.init_args.size=3"
    with pytest.raises(SystemExit):
        main([*start, f"--weights={tmp_path / 'views'}", size])
    assert "expected weights for views of ColumnAblation 3, doubled, got weights for views of ColumnAblation 2" in (
        capsys.readouterr().err
    )


def test_splitting_noise_is_trained_on_views_of_its_own_and_measured_in_l1():
    torch.manual_seed(0)
    base = Recording()
    module = DerandomizedSmoothing(SplittingNetwork(base, 40), radius=2 / 255)
    trainer = fitted(module)
    first = base.seen[0]
    images, _ = next(iter(trainer.train_dataloader))
    assert first.shape == images.shape
    assert len({tuple((image * 1020).round().flatten().tolist()) for image in first}) == 50
    deployed, held_out = export(module.network), trainer.datamodule.split("test")
    figures = module.figures(deployed, held_out)
    votes = deployed.votes(held_out.inputs())
    certificate = l1_certificate(votes, deployed.noise, num_classes=10)
    right = certificate.prediction == held_out.labels
    assert figures["norm"] == "l1"
    assert figures["views"] == 40
    assert figures["clean_accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-6)
    mean = (certificate.radius * right).mean().item()
    assert figures["average_certified_radius"] == pytest.approx(mean, abs=1e-6)
    assert 0 < mean < 20 / 255
    logged = trainer.callback_metrics["val/certified_accuracy"]
    validation = trainer.datamodule.split("val")
    certificate = deployed.certificate(validation.inputs())
    stands = (certificate.prediction == validation.labels) & (certificate.radius >= 2 / 255)
    assert logged.item() == pytest.approx(stands.double().mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("network", "patch", "message"),
    [
        (lambda: SmoothedNetwork(cnn(), ColumnAblation(4)), 5, "takes views encoded as 'doubled'"),
        (lambda: SmoothedNetwork(cnn((2, 28, 28)), ColumnAblation(29)), 5, "at most 28 columns"),
        (lambda: SmoothedNetwork(cnn((2, 28, 28)), ColumnAblation(4)), 29, "within images of 28 x 28"),
        (lambda: SmoothedNetwork(cnn((2, 28, 28)), ColumnAblation(4)), 0, "at least one pixel"),
        (lambda: SplittingNetwork(cnn((2, 28, 28)), 20), 5, "takes views as splitting noise makes them"),
        (cnn, 5, "a SmoothedNetwork or a SplittingNetwork, got Sequential"),
    ],
)
def test_what_cannot_work_is_refused_before_training(network, patch, message):
    with pytest.raises(InputError, match=message):
        fitted(DerandomizedSmoothing(network(), patch=patch))


def test_a_lipschitz_network_votes_as_it_is_deployed():
    torch.manual_seed(0)
    base = conv_network((2, 28, 28), stages=((4, 0), (4, 0)), widths=(8,))
    network = SmoothedNetwork(base, ColumnAblation(9, stride=7), threshold=0.2)
    fitted(DerandomizedSmoothing(network, patch=3, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1)))
    deployed = export(network.eval())
    assert lipschitz_upper_bound(deployed.network, (2, 28, 28)).value < 1.001
    inputs = torch.rand(8, 1, 28, 28)
    assert torch.equal(deployed.votes(inputs), network.votes(inputs))
    assert deployed.certificate(inputs).norm == "patch"
