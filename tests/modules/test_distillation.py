"""Defensive distillation: what the student learns from, and what its large logits hide."""

import json

import pytest
import torch
from test_modules import SHAPE
from torch import nn
from torch.nn import functional as F

from lipcert import export, load_network, save_network
from lipcert.attacks import LossAscent, RescaledNetwork
from lipcert.checkpoints import load_checkpoint
from lipcert.errors import InputError
from lipcert.losses import DistillationLoss
from lipcert.modules import DistilledClassifier
from lipcert.networks import cnn
from lipcert.train import main

TINY = {"input_shape": [1, 8, 8], "num_classes": 3, "stages": [[4, 0]], "widths": []}
BATCH = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def tiny(seed=0):
    torch.manual_seed(seed)
    return cnn(**TINY)


def test_the_loss_is_the_cross_entropy_of_both_softened_outputs():
    logits, teacher = torch.randn(5, 4), torch.randn(5, 4)
    shares, own = (values.double() / 3 for values in (teacher, logits))
    expected = -3 * (shares.softmax(1) * own.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(DistillationLoss(3.0)(logits, teacher).double(), expected, rtol=1e-5, atol=0)


def test_gradients_do_not_shrink_with_the_temperature_and_reach_the_student_only():
    logits, teacher = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    DistillationLoss(7.0)(logits, teacher).backward()
    expected = ((logits / 7).softmax(1) - (teacher / 7).softmax(1)) / 5
    torch.testing.assert_close(logits.grad, expected)
    assert teacher.grad is None


def test_a_student_learns_its_teachers_answers():
    teacher = tiny(1)
    model = DistilledClassifier(tiny(0), teacher=teacher, temperature=5.0, num_classes=3)
    loss = model.training_step(BATCH, 0)
    expected = DistillationLoss(5.0)(model.network(BATCH[0]), teacher(BATCH[0]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert model.network[0].weight.grad.abs().sum() > 0


def test_a_teacher_that_is_trained_here_begins_anew():
    model = DistilledClassifier(tiny(), num_classes=3)
    assert not torch.equal(model.teacher[0].weight, model.network[0].weight)
    assert not model.taught


def test_a_teacher_is_read_from_its_run(tmp_path):
    save_network(export(tiny(1)), tmp_path / "network.safetensors", cnn, **TINY)
    for source in (tmp_path, tmp_path / "network.safetensors"):
        model = DistilledClassifier(tiny(), teacher=source, num_classes=3)
        assert torch.equal(model.teacher(BATCH[0]), tiny(1)(BATCH[0]))
        assert model.taught


SMALL = [
    "--model=lipcert.modules.DistilledClassifier",
    "--model.init_args.network=lipcert.networks.cnn",
    "--model.init_args.network.init_args.stages=[[2,0]]",
    "--model.init_args.network.init_args.widths=[]",
    "--data=lipcert.data.FashionMNISTMini",
    "--trainer.limit_train_batches=3",
    "--trainer.max_epochs=2",
    "--trainer.enable_progress_bar=false",
]


def test_teacher_and_student_in_one_run_that_can_be_resumed(tmp_path, recwarn):
    configuration = tmp_path / "distilled.yaml"
    configuration.write_text("seed_everything: 0\nname: distilled\n")
    assert main(["--config", str(configuration), f"--output={tmp_path}", *SMALL]) == 0
    assert not [warning for warning in recwarn if "deprecated" not in str(warning.message)]
    run = tmp_path / "distilled"
    state = load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert state["taught"]
    untrained = DistilledClassifier(cnn(stages=((2, 0),), widths=())).teacher.state_dict()
    assert not torch.equal(state["teacher.0.weight"], untrained["0.weight"])
    assert set(load_network(run / "network.safetensors").state_dict()) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert main(["--resume", str(run), "--trainer.max_epochs=3"]) == 0
    resumed = load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(resumed["teacher.0.weight"], state["teacher.0.weight"])
    assert not torch.equal(resumed["network.0.weight"], state["network.0.weight"])
    assert json.loads((run / "summary.json").read_text())["epochs"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "^expected temperature > 0, got 0.0$"),
        ({"teacher_epochs": 0}, "^expected teacher_epochs >= 1, got 0$"),
        ({"teacher": "runs/none"}, "^expected a network file, found none at runs/none/network.safetensors$"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        DistilledClassifier(tiny(), num_classes=3, **options)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (tiny(), cnn(**{**TINY, "num_classes": 4}), "^expected 3 classes as the student has, got 4 from the teacher$"),
        (tiny(), nn.Sequential(tiny(), nn.Softmax(1)), "^expected logits from the teacher, got probabilities"),
        (nn.Sequential(tiny(), nn.Softmax(1)), tiny(), "^expected logits from the student, got probabilities"),
    ],
)
def test_what_shows_in_the_first_step_is_refused(student, teacher, message):
    model = DistilledClassifier(student, teacher=teacher, num_classes=3)
    with pytest.raises(InputError, match=message):
        model.training_step(BATCH, 0)


def masked(scale=2000.0):
    """A network whose logits are so large that its cross-entropy has no gradient in float32."""
    network = tiny().eval()
    with torch.no_grad():
        network[-1].weight *= scale
        network[-1].bias.copy_(-network(BATCH[0]).mean(0))
    return network.requires_grad_(False)


@pytest.mark.parametrize("temperature", [None, 2000.0])
def test_rescaled_logits_undo_the_masking(temperature):
    network, inputs = masked(), BATCH[0]
    labels = network(inputs).argmax(1)
    rescaled = RescaledNetwork(network, temperature)
    budget = {"norm": "linf", "epsilon": 0.3}
    attack = LossAscent(10, 0.25, random_start=False)
    blind, seeing = (attack(model, inputs, labels, **budget) for model in (network, rescaled))
    stuck = (blind.candidates == inputs).flatten(1).all(1)
    assert stuck.any(), "nothing is masked"
    assert bool((seeing.candidates != inputs).flatten(1).any(1).all())
    assert seeing.verified.success.sum() > blind.verified.success.sum()
    assert torch.equal(network(seeing.candidates).argmax(1) != labels, seeing.verified.success)


@pytest.mark.parametrize("temperature", [None, 3.0, 100.0, 1e-3])
def test_rescaling_keeps_every_bit_of_the_order(temperature):
    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 300
    logits[:, 3] = logits[:, 7]  # ties stay ties
    logits[5] = 0.0
    scaled = RescaledNetwork(nn.Identity(), temperature)(logits)
    factors = (scaled / logits)[logits != 0]
    assert torch.equal(factors.frexp().mantissa, torch.full_like(factors, 0.5)), "no power of two"
    assert torch.equal(scaled.argsort(dim=1, stable=True), logits.argsort(dim=1, stable=True))
    if temperature is None:
        spread = scaled.amax(1) - scaled.amin(1)
        assert bool(((spread >= 0.5) & (spread <= 1) | (spread == 0)).all())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_no_temperature_to_divide_by(temperature):
    with pytest.raises(InputError, match=r"^expected a finite temperature > 0"):
        RescaledNetwork(nn.Identity(), temperature)


def test_the_same_answers_need_no_more_than_rounding():
    """At temperature 1 distillation of a network into itself is at its minimum."""
    logits = torch.randn(4, 3, requires_grad=True)
    DistillationLoss(1.0)(logits, logits.detach()).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(4, 3), rtol=0, atol=1e-6)
    assert F.cross_entropy(logits, logits.softmax(1)).isfinite()
