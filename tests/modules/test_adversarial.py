"""Adversarial training in a loop of the user's own: what each step trains on, and what validation says."""

import copy

import pytest
import torch
from test_modules import SHAPE, fit
from torch import nn
from torch.nn import functional as F

from lipcert.attacks import Attack, DecoupledDirection, FastGradient, LossAscent, ProjectedGradient
from lipcert.attacks.verify import predictions
from lipcert.errors import InputError
from lipcert.losses import TradesLoss
from lipcert.modules import AdversarialClassifier
from lipcert.modules.crafting import craft

LINF = {"norm": "linf", "epsilon": 0.1}


def network(batch_norm=False):
    torch.manual_seed(0)
    normaliser = [nn.BatchNorm2d(3)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(1, 3, 3), *normaliser, nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))


def classifier(loss=None, *, net=None, **options):
    options = {"num_classes": 3, "one_hot": False, **LINF, **options}
    sgd = lambda params: torch.optim.SGD(params, lr=0.05)  # noqa: E731
    return AdversarialClassifier(net or network(), loss or nn.CrossEntropyLoss(), optimizer=sgd, **options)


class Shown(nn.Module):
    """A loss that keeps the logits it is given while training."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, logits, targets):
        if torch.is_grad_enabled():
            self.seen.append(logits.detach().clone())
        return F.cross_entropy(logits, targets)


def one_step(loss, **options):
    """The step of a batch: the loss, and the network as it was before."""
    model = classifier(loss, **options)
    before = copy.deepcopy(model.network)
    torch.manual_seed(3)
    batch = torch.rand(6, *SHAPE), torch.arange(6) % 3
    return model.training_step(batch, 0), before, batch, model


def made(before, batch, attack=None, **more):
    return craft(attack or LossAscent(), before, *batch, **LINF, seed=torch.initial_seed(), **more)


def test_adversarial_samples_alone():
    shown = Shown()
    loss, before, batch, model = one_step(shown)
    expected = before(made(before, batch))
    assert len(shown.seen) == 1
    assert torch.equal(shown.seen[0], expected)
    torch.testing.assert_close(loss, F.cross_entropy(expected, batch[1]))
    scalars = model.report("train")
    assert set(scalars) == {"loss", "robust_accuracy"}
    assert scalars["robust_accuracy"].item() == pytest.approx((expected.argmax(1) == batch[1]).double().mean().item())


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_both_halves_weigh_as_the_ratio_says(ratio):
    loss, before, batch, model = one_step(Shown(), ratio=ratio)
    halves = [F.cross_entropy(before(inputs), batch[1]) for inputs in (made(before, batch), batch[0])]
    torch.testing.assert_close(loss, ratio * halves[0] + (1 - ratio) * halves[1])
    assert set(model.report("train")) == {"loss", "accuracy", "robust_accuracy"}


def test_ratio_0_is_plain_training():
    shown = Shown()
    _, before, batch, _ = one_step(shown, ratio=0.0)
    assert torch.equal(shown.seen[0], before(batch[0]))


def test_trades_pairs_clean_and_adversarial_logits():
    loss, before, batch, _ = one_step(TradesLoss(2.0), attack=LossAscent(loss="divergence"))
    adversarial = made(before, batch, LossAscent(loss="divergence"))
    clean, other = before(batch[0]), before(adversarial)
    disagreement = (clean.softmax(1) * (clean.log_softmax(1) - other.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(loss, F.cross_entropy(clean, batch[1]) + 2 * disagreement)


def test_no_gradient_flows_through_the_crafting():
    """The gradient is that of the loss at fixed samples."""
    loss, before, batch, model = one_step(Shown())
    loss.backward()
    F.cross_entropy(before(made(before, batch)), batch[1]).backward()
    for own, other in zip(model.network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("followed", ["both", "clean", "adversarial"])
def test_whose_statistics_batch_norm_follows(followed):
    loss, before, batch, model = one_step(Shown(), net=network(True), ratio=0.5, running_statistics=followed)
    adversarial = made(before, batch)
    halves = {"clean": batch[0], "adversarial": adversarial, "both": torch.cat([batch[0], adversarial])}
    expected = copy.deepcopy(before).train()
    expected(halves[followed])
    torch.testing.assert_close(model.network[1].running_mean, expected[1].running_mean)
    assert model.network[1].num_batches_tracked == 1
    if followed != "both":
        apart = [F.cross_entropy(copy.deepcopy(before).train()(half), batch[1]) for half in (batch[0], adversarial)]
        torch.testing.assert_close(loss, sum(apart) / 2)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_gradients_are_those_of_the_weights_at_their_worst(ratio):
    loss, before, batch, model = one_step(Shown(), net=network(True), ratio=ratio, weight_perturbation=0.1)
    adversarial = made(before, batch)

    def objective(net):
        if ratio == 1:
            return F.cross_entropy(net(adversarial), batch[1])
        first, second = net(torch.cat([batch[0], adversarial])).chunk(2)
        return (F.cross_entropy(first, batch[1]) + F.cross_entropy(second, batch[1])) / 2

    worst = copy.deepcopy(before).train()
    weights = [worst[0].weight, worst[4].weight]  # neither biases nor those of BatchNorm
    own = copy.deepcopy(before).train()
    gradients = torch.autograd.grad(objective(own), [own[0].weight, own[4].weight])
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight += 0.1 * weight.norm() * gradient / gradient.norm()
    expected = objective(worst)
    torch.testing.assert_close(loss, expected)
    assert expected > objective(copy.deepcopy(before).train())
    expected.backward()
    loss.backward()
    for parameter, other in zip(model.network.parameters(), worst.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    for parameter, other in zip(model.network.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, other)
    assert model.network[1].num_batches_tracked == 1
    torch.testing.assert_close(model.network[1].running_mean, worst[1].running_mean)


def test_weights_are_perturbed_once_the_budget_is_full():
    shown = Shown()
    fit(classifier(shown, warmup=0.5, weight_perturbation=0.01), max_epochs=4)  # 12 steps
    assert len(shown.seen) == 5 + 2 * 7


class Budget(Attack):
    """Notes the budgets that it is given."""

    name, norms, fixed_budget = "budget", ("linf",), True
    seen: list = []  # noqa: RUF012

    def run(self, model, task):
        self.seen.append(task.epsilon)
        return task.inputs


def test_the_budget_grows_over_the_warm_up():
    Budget.seen.clear()
    fit(classifier(attack=Budget(), warmup=0.5), max_epochs=4)  # 12 steps
    assert Budget.seen == pytest.approx([0.1 * min(1, step / 6) for step in range(1, 13)])


ATTACKS = {
    "fgsm": ({"attack": FastGradient()}, "linf", 0.1),
    "pgd": ({"attack": ProjectedGradient(2)}, "l1", 1.0),
    "ddn": ({"attack": DecoupledDirection(3)}, "l2", None),
    "ddn-budget": ({"attack": DecoupledDirection(3)}, "l2", 0.5),
    "ascent-l2": ({"attack": LossAscent(2), "crafting_statistics": "batch"}, "l2", 0.5),
}


@pytest.mark.parametrize(("options", "norm", "epsilon"), ATTACKS.values(), ids=ATTACKS)
def test_any_attack_trains(options, norm, epsilon):
    model, trainer, _ = fit(classifier(net=network(True), norm=norm, epsilon=epsilon, **options))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert ("val/robust_accuracy" in trainer.callback_metrics) == (epsilon is not None)
    assert model.monitor == ("val/accuracy" if epsilon is None else "val/robust_accuracy")
    assert all(parameter.requires_grad for parameter in model.network.parameters())


def test_validation_measures_what_an_attack_on_the_deployed_network_leaves():
    model, trainer, (inputs, labels) = fit(classifier(), max_epochs=2)
    attack = ProjectedGradient(10, 0.25, loss="margin")
    right = predictions(model.deployed, inputs) == labels
    fallen = attack(model.deployed, inputs, labels, **LINF).verified.success
    logged = trainer.callback_metrics
    assert logged["val/robust_accuracy"].item() == pytest.approx((right & ~fallen).double().mean().item(), abs=1e-6)
    single = FastGradient(loss="cross-entropy")(model.deployed, inputs, labels, **LINF).verified.success
    assert logged["val/fgsm_accuracy"].item() == pytest.approx((right & ~single).double().mean().item(), abs=1e-6)
    assert logged["val/overfitting_gap"] == logged["val/fgsm_accuracy"] - logged["val/robust_accuracy"]


class Cheater(Budget):
    """Leaves the budget."""

    name = "cheater"

    def run(self, model, task):
        return 1 - task.inputs


def test_what_a_validation_attack_finds_beyond_the_budget_does_not_count():
    _, trainer, _ = fit(classifier(validation_attack=Cheater()))
    assert trainer.callback_metrics["val/robust_accuracy"] == trainer.callback_metrics["val/accuracy"]


def test_only_some_images_are_attacked():
    seen = []

    class Counting(Budget):
        name = "counting"

        def run(self, model, task):
            seen.append(len(task.inputs))
            return task.inputs

    fit(classifier(validation_attack=Counting(), validation_samples=7), max_epochs=2)
    assert seen == [7, 7]


@pytest.mark.parametrize(("gap", "warned"), [(0.2, True), (1.0, False)])
def test_catastrophic_overfitting_is_told(gap, warned, capsys, monkeypatch):
    rates = iter([torch.tensor(0.25), torch.tensor(0.75)])
    model = classifier(overfitting_gap=gap)
    monkeypatch.setattr(
        AdversarialClassifier,
        "_right_under",
        lambda self, attack, net, inputs, labels: torch.arange(len(labels)) < next(rates) * len(labels),
    )
    _, trainer, _ = fit(model)
    assert trainer.callback_metrics["val/overfitting_gap"] == pytest.approx(0.5, abs=0.02)
    assert ("warning: catastrophic overfitting in epoch 0: accuracy is 0.75" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.5}, "^expected ratio between 0 and 1, got 1.5$"),
        ({"ratio": -0.1}, "^expected ratio between 0 and 1, got -0.1$"),
        ({"warmup": 2.0}, "^expected warmup between 0 and 1, got 2.0$"),
        ({"weight_perturbation": -0.1}, "^expected weight_perturbation >= 0, got -0.1$"),
        ({"epsilon": 0.0}, "^expected a finite epsilon > 0, got 0$"),
        ({"epsilon": -1.0}, "^expected a finite epsilon > 0, got -1$"),
        ({"epsilon": None}, "^expected an epsilon for loss-ascent, got none$"),
        ({"norm": "l1"}, "^expected a norm among l2, linf for loss-ascent, got 'l1'$"),
        ({"crafting_statistics": "train"}, "^expected crafting statistics among running, batch, got 'train'$"),
        ({"running_statistics": "none"}, "^expected running statistics among both, clean, adversarial, got 'none'$"),
        ({"validation_samples": 0}, "^expected validation_samples >= 1, got 0$"),
        ({"loss": TradesLoss(), "ratio": 0.5}, "^expected ratio 1 with TradesLoss"),
        ({"validation_attack": DecoupledDirection()}, "^expected a norm among l2 for ddn, got 'linf'$"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        classifier(**options)
