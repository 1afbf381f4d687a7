"""The average of the weights is what is validated, saved and exported, and it changes nothing of the training."""

import csv
from itertools import pairwise

import pytest
import torch
from deel import torchlip
from lightning.pytorch import Callback, Trainer
from test_callbacks import reads_in
from test_train import metrics, train
from torch.utils.data import DataLoader, TensorDataset

from lipcert import load_run
from lipcert.averaging import AveragedWeights
from lipcert.certificates import class_pair_upper_bounds, lipschitz_upper_bound, margin_radius
from lipcert.checkpoints import load_checkpoint
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.metrics import average_certified_radius
from lipcert.modules import LipschitzClassifier
from lipcert.networks import hkr_convnet
from lipcert.train import main
from lipcert.training import quiet_lightning

SHAPE = (1, 8, 8)
AVERAGED = ["--trainer.callbacks=lipcert.averaging.AveragedWeights", "--trainer.callbacks.decay=0.8"]


class Watch(Callback):
    """Keeps copies of the parameters after every step, and of what is validated."""

    def __init__(self):
        self.trained, self.validated, self.deployed = [], [], []

    def on_train_start(self, trainer, module):
        self.trained.append(copied(module.network.parameters()))

    def on_train_batch_end(self, trainer, module, *arguments):
        self.trained.append(copied(module.network.parameters()))

    def on_validation_batch_start(self, trainer, module, *arguments):
        self.validated.append(copied(module.network.parameters()))
        self.deployed.append(copied(module.deployed.parameters()))


def copied(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def fitted(*callbacks, epochs=2, **options):
    torch.manual_seed(0)
    network = hkr_convnet(SHAPE, 3, channels=(2,), hidden=4)
    loss = torchlip.HKRMulticlassLoss(alpha=0.99, min_margin=0.25)
    optimizer = lambda params: torch.optim.Adam(params, lr=0.05)  # noqa: E731
    model = LipschitzClassifier(network, loss, num_classes=3, input_shape=SHAPE, optimizer=optimizer)
    data = TensorDataset(torch.rand(60, *SHAPE), torch.arange(60) % 3)
    with quiet_lightning():
        trainer = Trainer(
            max_epochs=epochs,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        trainer.fit(model, DataLoader(data, 20), DataLoader(data, 60))
    return model, trainer


def equal(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def reference_averages(trained, decay):
    averages = [[tensor.double() for tensor in trained[0]]]
    for step, weights in enumerate(trained[1:], start=1):
        kept = min(decay, step / (step + 9))
        averages.append([kept * a + (1 - kept) * w for a, w in zip(averages[-1], weights, strict=True)])
    return averages


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_what_is_validated_and_kept_is_the_moving_average(decay):
    watch = Watch()
    model, _ = fitted(AveragedWeights(decay), watch)
    averages = reference_averages(watch.trained, decay)
    assert len(averages) == 7
    for got, wanted in ((watch.validated[0], averages[3]), (watch.validated[1], averages[6])):
        torch.testing.assert_close(got, [tensor.float() for tensor in wanted])
    assert equal(copied(model.network.parameters()), watch.validated[-1])


def test_training_does_not_notice_the_average():
    plain, averaged = Watch(), Watch()
    fitted(plain)
    fitted(AveragedWeights(0.9), averaged)
    assert all(equal(*weights) for weights in zip(plain.trained, averaged.trained, strict=True))
    assert not any(equal(*weights) for weights in pairwise(plain.trained))
    assert not equal(plain.validated[0], averaged.validated[0])


def test_the_export_is_that_of_the_average_with_its_constraints_applied():
    watch = Watch()
    model, _ = fitted(AveragedWeights(0.9), watch)
    plain = export(model.network)
    assert equal(copied(plain.parameters()), watch.deployed[-1])
    # An average before the constraints is no constrained weight; the cached weights were those of the last step.
    assert lipschitz_upper_bound(plain[:-1].eval(), SHAPE).value < 1.001
    assert not torch.equal(model.network.eval()[0].weight, plain[0].weight)


def test_accumulated_gradients_count_as_one_step():
    class Steps(Callback):
        averages = ()

        def on_train_batch_end(self, trainer, module, *arguments):
            self.averages = (*self.averages, copied(averaging._average_model.module.network.parameters()))

    averaging, steps = AveragedWeights(0.9), Steps()
    fitted(averaging, steps, epochs=1, accumulate_grad_batches=3)
    first, second, third = steps.averages
    assert equal(first, second)
    assert not equal(second, third)


def test_a_step_reads_nothing_from_the_device(tmp_path, monkeypatch):
    counts = [
        reads_in(tmp_path / name, steps, monkeypatch, AveragedWeights(0.9)) for name, steps in (("a", 5), ("b", 25))
    ]
    assert counts[0] == counts[1] > 0


def test_the_average_follows_the_module_to_its_device():
    model, trainer = fitted(epochs=1)
    averaging = AveragedWeights()
    averaging.setup(trainer, model, "fit")
    model.to("meta")
    averaging.on_fit_start(trainer, model)
    kept = averaging._average_model.module
    assert {tensor.device.type for tensor in (*kept.parameters(), *kept.buffers())} == {"meta"}


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_makes_no_sense_is_refused(decay):
    with pytest.raises(InputError, match="expected a decay"):
        AveragedWeights(decay)


def test_a_resumed_run_continues_the_average_and_the_training_exactly(tmp_path):
    train(tmp_path / "whole", *AVERAGED, "--trainer.max_epochs=3")
    train(tmp_path / "parts", *AVERAGED, "--trainer.max_epochs=1")
    run, whole = (tmp_path / name / "quickstart" for name in ("parts", "whole"))
    assert main(["--resume", str(run), "--trainer.max_epochs=3"]) == 0
    assert metrics(run) == metrics(whole)
    assert (run / "network.safetensors").read_bytes() == (whole / "network.safetensors").read_bytes()
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.ckpt") for path in (run, whole))
    for kind in ("state_dict", "current_model_state"):
        assert equal(ours[kind].values(), theirs[kind].values())
    assert not equal(ours["state_dict"].values(), ours["current_model_state"].values())


def test_the_file_of_a_run_is_the_network_that_was_validated_best(tmp_path):
    train(tmp_path, *AVERAGED, "--trainer.max_epochs=2")
    run = load_run(tmp_path / "quickstart")
    with (run.directory / "metrics.csv").open() as file:
        best = max(float(row["val/average_certified_radius"]) for row in csv.DictReader(file))
    images = run.data.split("val")
    bounds, _ = class_pair_upper_bounds(run.network, (1, 28, 28))
    preds, radius = margin_radius(run.network(images.inputs()), bounds)
    assert average_certified_radius(radius, preds, images.labels).item() == pytest.approx(best, rel=1e-5)
