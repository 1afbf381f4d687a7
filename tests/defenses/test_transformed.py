"""Networks behind transformations: when they apply, what is averaged, and the way through training and export."""

import copy

import pytest
import torch
from torch import nn

from lipcert import InputError, certify, export, load_network, save_network
from lipcert.attacks import ProjectedGradient
from lipcert.defenses import JPEG, BitDepth, TotalVariation, TransformedNetwork
from lipcert.deployment import check_export
from lipcert.runs import load_run
from lipcert.train import main as train

INPUTS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def linear(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.parametrize(
    ("when", "in_training", "in_eval"),
    [("inference", False, True), ("training", True, False), ("both", True, True)],
)
def test_transformations_apply_when_they_should(when, in_training, in_eval):
    network = linear()
    defended = TransformedNetwork(network, [BitDepth(1)], when=when)
    plain, squeezed = network(INPUTS), network(INPUTS.round())
    assert torch.equal(defended.train()(INPUTS), squeezed if in_training else plain)
    assert torch.equal(defended.eval()(INPUTS), squeezed if in_eval else plain)


def test_transformations_are_applied_in_order():
    first, second = BitDepth(1), JPEG(20)
    defended = TransformedNetwork(nn.Flatten(), [first, second]).eval()
    assert torch.equal(defended(INPUTS), second(first(INPUTS)).flatten(1))


def test_draws_are_averaged_as_promised():
    network, drawn = linear(), TotalVariation(0.1, iterations=5, seed=3)
    each = torch.stack([network(drawn(INPUTS, draw)) for draw in range(4)])
    assert (each[0] - each[1]).abs().max() > 1e-3
    mean = TransformedNetwork(network, [drawn], samples=4).eval()(INPUTS)
    assert torch.allclose(mean, each.mean(0), atol=1e-6)
    mean = TransformedNetwork(network, [drawn], samples=4, average="probabilities").eval()(INPUTS)
    assert torch.allclose(mean.exp(), each.softmax(-1).mean(0), atol=1e-6)


def test_evaluation_is_a_function_of_the_inputs_and_training_is_not():
    defended = TransformedNetwork(linear(), [TotalVariation(0.1, iterations=3)], when="both", samples=2)
    first = defended.train()(INPUTS)
    assert not torch.equal(defended(INPUTS), first)
    evaluated = defended.eval()(INPUTS)
    assert torch.equal(defended(INPUTS), evaluated)
    resumed = TransformedNetwork(linear(), [TotalVariation(0.1, iterations=3)], when="both", samples=2)
    resumed.load_state_dict(defended.state_dict())
    assert torch.equal(resumed.train()(INPUTS), copy.deepcopy(defended).train()(INPUTS))


def test_an_attack_through_the_average_follows_the_mean_gradient():
    network, drawn = linear(), TotalVariation(0.1, iterations=5)
    points = INPUTS.clone().requires_grad_()
    total = TransformedNetwork(network, [drawn], samples=3).eval()(points)[:, 0].sum()
    found = torch.autograd.grad(total, points)[0]
    each = [torch.autograd.grad(network(drawn(points, draw))[:, 0].sum(), points)[0] for draw in range(3)]
    assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-6)


def test_an_attack_needs_the_straight_through_gradient_that_rounding_hides():
    defended = TransformedNetwork(linear(), [BitDepth(3)]).eval()
    labels = defended(INPUTS).argmax(1)
    found = ProjectedGradient()(defended, INPUTS, labels, norm="linf", epsilon=0.3)
    assert found.verified.success.all()


def recipe():
    network = {"class_path": "lipcert.networks.hkr_convnet"}
    network["init_args"] = {"input_shape": [1, 8, 8], "num_classes": 3, "channels": [2, 4], "hidden": 6}
    squeezer = {"class_path": "lipcert.defenses.BitDepth", "init_args": {"bits": 3}}
    drawn = {"class_path": "lipcert.defenses.TotalVariation", "init_args": {"iterations": 2}}
    return {"network": network, "transformations": [squeezer, drawn], "when": "both", "samples": 2}


def test_export_saves_and_reloads_what_is_nested(tmp_path):
    from lipcert.deployment import build_network

    defended = build_network("lipcert.defenses.TransformedNetwork", recipe())
    defended.train()(INPUTS)
    plain = export(defended)
    save_network(plain, tmp_path / "network.safetensors", TransformedNetwork, **recipe())
    reloaded = load_network(tmp_path / "network.safetensors")
    assert torch.equal(reloaded(INPUTS), plain(INPUTS))
    check_export(defended, reloaded, INPUTS)


def test_what_is_nested_must_be_a_network_too():
    from lipcert.deployment import build_network

    with pytest.raises(InputError, match=r"expected os.getcwd to be an nn.Module .*or a function annotated"):
        build_network("lipcert.defenses.TransformedNetwork", {"network": {"class_path": "os.getcwd"}})


def test_nothing_is_certified():
    for transformation in (BitDepth(3), JPEG(50), TotalVariation()):
        with pytest.raises(InputError):
            certify(TransformedNetwork(linear(), [transformation]).eval(), INPUTS)


CONFIG = """
seed_everything: 0
name: squeezed
model:
  class_path: lipcert.modules.Classifier
  init_args:
    network:
      class_path: lipcert.defenses.TransformedNetwork
      init_args:
        network:
          class_path: lipcert.networks.dense_network
          init_args: {input_shape: [1, 28, 28], widths: [8]}
        transformations:
        - class_path: lipcert.defenses.BitDepth
          init_args: {bits: 3}
        - class_path: lipcert.defenses.JPEG
          init_args: {quality: 60, gradient: differentiable}
        when: both
    loss: torch.nn.CrossEntropyLoss
    one_hot: false
data: lipcert.data.FashionMNISTMini
trainer: {max_epochs: 1, limit_train_batches: 2, enable_progress_bar: false}
"""


def test_a_configuration_trains_it_and_its_run_loads(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    assert train(["--config", str(config), f"--output={tmp_path}"]) == 0
    run = load_run(tmp_path / "squeezed")
    assert [type(each).__name__ for each in run.network.transformations] == ["BitDepth", "JPEG"]
    assert run.network.transformations[1].gradient == "differentiable"
    assert run.network(run.data.split("test").inputs()[:2]).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transformations": []}, "expected at least one transformation, and nothing else, got none"),
        ({"transformations": [nn.ReLU()]}, "expected at least one transformation, and nothing else, got ReLU"),
        ({"when": "always"}, "expected when among inference, training, both, got 'always'"),
        ({"average": "votes"}, "expected average among logits, probabilities, got 'votes'"),
        ({"samples": 0}, "expected samples >= 1, got 0"),
        ({"samples": 2}, "expected samples=1 where nothing is drawn at random, got 2"),
    ],
)
def test_bad_settings_are_one_clear_error(settings, message):
    with pytest.raises(InputError, match=message):
        TransformedNetwork(linear(), **{"transformations": [BitDepth(1)], **settings})
