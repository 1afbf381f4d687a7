"""The binary detector: what it is trained on, how it is calibrated, how it is audited."""

import json

import pytest
import torch
from test_modules import SHAPE, fit
from torch import nn

from lipcert import export, save_network
from lipcert.attacks import Attack, DecoupledDirection, FastGradient, LossAscent
from lipcert.errors import InputError
from lipcert.harness.detectors import load_detected
from lipcert.modules import DetectorClassifier
from lipcert.networks import cnn
from lipcert.train import main

LINF = {"norm": "linf", "epsilon": 0.2}


def victim():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def detector(attacks=None, *, classes=2, classifier=None, **options):
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))
    attacks = [LossAscent(2)] if attacks is None else attacks
    return DetectorClassifier(network, classifier or victim(), attacks=attacks, **{**LINF, **options})


class Seen(nn.Module):
    """A loss that keeps what it is given."""

    def forward(self, logits, targets):
        self.logits, self.targets = logits, targets
        return logits.square().mean()


def test_it_learns_from_clean_samples_and_those_that_fool():
    model = detector([FastGradient()], epsilon=0.05)
    model.loss = Seen()
    inputs = torch.rand(40, *SHAPE)
    before = {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}
    model.training_step((inputs, torch.zeros(40, dtype=torch.int64)), 0).backward()
    preds = model.classifier(inputs).argmax(1)
    outcome = FastGradient()(model.classifier, inputs, preds, norm="linf", epsilon=0.05)
    fooled = outcome.verified.success
    assert 0 < fooled.sum() < 40, "the problem is trivial"
    expected = model.network(torch.cat([inputs, outcome.candidates[fooled]]))
    torch.testing.assert_close(model.loss.logits, expected)
    assert model.loss.targets.tolist() == [0] * 40 + [1] * int(fooled.sum())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in model.classifier.parameters())


def test_attacks_take_turns():
    asked = []

    class Noting(Attack):
        norms = ("linf",)

        def __init__(self, name):
            self.name = name

        def run(self, net, task):
            asked.append(self.name)
            return 1 - task.inputs

    fit(detector([Noting("a"), Noting("b")]))
    assert asked == ["a", "b", "a", "a", "b"]  # three steps, and both in validation


def test_calibration_is_met_on_the_half_that_chose_it_and_told_for_the_other():
    model, trainer, (inputs, _) = fit(detector(false_positive_rate=0.1), max_epochs=3)
    with torch.no_grad():
        logits = model.deployed(inputs)
    scores = logits[:, 1] - logits[:, 0]
    threshold = trainer.callback_metrics["val/threshold"]
    assert int((scores[::2] > threshold).sum()) == 2  # of 30: with the image to come, 3 of 31 are no more than a tenth
    told = trainer.callback_metrics["val/false_positive_rate"]
    assert told.item() == pytest.approx((scores[1::2] > threshold).double().mean().item())
    assert model.threshold == threshold == model.state_dict()["threshold"]
    assert 0 < trainer.callback_metrics["val/auroc"] <= 1


def test_one_class_is_nothing_to_learn():
    constant = victim()
    nn.init.zeros_(constant[1].weight)
    constant[1].bias.data = torch.tensor([1.0, 0.0, 0.0])
    message = "^expected adversarial samples to learn from, got none in an epoch of loss-ascent: one class$"
    with pytest.raises(InputError, match=message):
        fit(detector(classifier=constant))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": []}, "^expected at least one attack to learn from, got none$"),
        ({"epsilon": None}, "^expected an epsilon for loss-ascent, got none$"),
        ({"epsilon": 0.0}, "^expected a finite epsilon > 0, got 0$"),
        ({"attacks": [DecoupledDirection()]}, "^expected a norm among l2 for ddn, got 'linf'$"),
        ({"false_positive_rate": 0.0}, r"^expected a false positive rate in \(0, 1\), got 0.0$"),
        ({"validation_samples": 0}, "^expected validation_samples >= 1, got 0$"),
        ({"classifier": "runs/none"}, "^expected a network file, found none at runs/none/network.safetensors$"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        detector(**options)


def test_a_network_with_other_than_two_logits_is_refused():
    with pytest.raises(InputError, match=r"^expected two logits of a detector, clean and adversarial, got \(3,\)$"):
        fit(detector(classes=3))


def test_from_training_to_an_audited_network(tmp_path):
    small = {"stages": [[2, 0]], "widths": []}
    save_network(export(cnn(**small)), tmp_path / "network.safetensors", cnn, **small)
    configuration = tmp_path / "detector.yaml"
    configuration.write_text("seed_everything: 0\nname: detector\n")
    network = {"class_path": "lipcert.networks.cnn", "init_args": {**small, "num_classes": 2}}
    attacks = [{"class_path": "lipcert.attacks.FastGradient"}, {"class_path": "lipcert.attacks.LossAscent"}]
    arguments = [
        "--model=lipcert.modules.DetectorClassifier",
        f"--model.init_args.network={json.dumps(network)}",
        f"--model.init_args.classifier={tmp_path}",
        f"--model.init_args.attacks={json.dumps(attacks)}",
        "--model.init_args.epsilon=0.1",
        "--model.init_args.validation_samples=50",
        "--data=lipcert.data.FashionMNISTMini",
        "--data.val_size=100",
        "--trainer.limit_train_batches=3",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
    ]
    assert main(["--config", str(configuration), f"--output={tmp_path}", *arguments]) == 0
    summary = json.loads((tmp_path / "detector" / "summary.json").read_text())
    assert summary["clean_accuracy"] == pytest.approx(1 - summary["false_positive_rate"])
    assert list(summary["attacks"]) == ["0: fast-gradient", "1: loss-ascent"]
    loaded = load_detected(
        cnn(**small).eval(),
        "lipcert.modules.detector:scoring_network",
        arguments={"detector": str(tmp_path / "detector")},
        threshold=summary["threshold"],
    )
    with torch.no_grad():
        assert loaded(torch.rand(4, 1, 28, 28)).shape == (4, 11)
