"""The Lightning modules in a loop of the user's own."""

import pytest
import torch
from deel import torchlip
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lipcert.certificates import class_pair_upper_bounds, margin_radius
from lipcert.errors import InputError
from lipcert.layers import OrthogonalLinear
from lipcert.losses import PairwiseLoss
from lipcert.metrics import average_certified_radius
from lipcert.modules import Classifier, LipschitzClassifier
from lipcert.networks import dense_network, hkr_convnet
from lipcert.schedules import OneCycle
from lipcert.training import quiet_lightning

SHAPE = (1, 8, 8)


def fit(model, *callbacks, **options):
    """Three steps an epoch and a validation."""
    data = TensorDataset(torch.rand(60, *SHAPE), torch.arange(60) % 3)
    with quiet_lightning():
        trainer = Trainer(
            **{"max_epochs": 1, **options},
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, DataLoader(data, 20), DataLoader(data, 60))
    return model, trainer, data.tensors


def fitted(**options):
    torch.manual_seed(0)
    network = hkr_convnet(SHAPE, 3, channels=(2,), hidden=4)
    loss = torchlip.HKRMulticlassLoss(alpha=0.99, min_margin=0.25)
    return fit(LipschitzClassifier(network, loss, num_classes=3, epsilons=(0.1,), **options))


def test_validation_measures_the_network_that_would_be_deployed():
    model, trainer, (inputs, labels) = fitted(input_shape=SHAPE)
    logged = trainer.callback_metrics
    assert not model.deployed.training
    bounds, _ = class_pair_upper_bounds(model.deployed, SHAPE)
    preds, radius = margin_radius(model.deployed(inputs), bounds)
    assert logged["val/average_certified_radius"].item() == pytest.approx(
        average_certified_radius(radius, preds, labels).item(), rel=1e-6
    )
    assert logged["val/accuracy"].item() == pytest.approx((preds == labels).float().mean().item(), abs=1e-6)


def test_without_a_data_module_the_shape_must_be_said():
    with pytest.raises(InputError, match="input_shape"):
        fitted()


def orthogonal(loss=None, **options):
    """A classifier whose weights are kept orthogonal by projection."""
    torch.manual_seed(0)
    options = {"one_hot": False, "input_shape": SHAPE, "num_classes": 3, **options}
    return LipschitzClassifier(dense_network(SHAPE, (6, 6), 3), loss or nn.CrossEntropyLoss(), **options)


class Drift(Callback):
    """Largest distance of a singular value from 1, after every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, *arguments):
        self.seen.append(drift(module.network))

    def on_train_end(self, trainer, module):
        self.seen.append(drift(module.network))


def drift(network):
    weights = [layer.weight.detach() for layer in network if isinstance(layer, nn.Linear)]
    return max(float((torch.linalg.svdvals(weight) - 1).abs().max()) for weight in weights)


def drifting(every):
    """The drift after every step of four epochs, and the classifier."""
    watch = Drift()
    optimizer = lambda params: torch.optim.SGD(params, lr=0.1)  # noqa: E731
    model, _, _ = fit(orthogonal(optimizer=optimizer, retract_every=every), watch, max_epochs=4)
    assert len(watch.seen) == 13
    return watch.seen, model


def test_weights_are_pulled_back_every_few_steps():
    """What is never pulled back drifts away; what is deployed is projected in any case."""
    (never, left_alone), (each, model), (second, _) = (drifting(every) for every in (1000, 1, 2))
    assert never[-1] > 10 * max(each)
    assert never[-1] > 10 * max(second[::2])
    assert all(after < before / 4 for before, after in zip(second[1::2], second[2::2], strict=True))
    assert drift(model.deployed) < 1e-6
    assert drift(left_alone.deployed) < 1e-6


def test_weights_that_no_step_has_moved_are_orthogonal_to_rounding():
    assert drift(orthogonal().network) < 1e-6


@pytest.mark.parametrize("every", [0, -1])
def test_a_retraction_every_no_steps_is_refused(every):
    with pytest.raises(InputError, match=f"expected retract_every >= 1, got {every}"):
        orthogonal(retract_every=every)


class Told(PairwiseLoss):
    """A loss that keeps what it is told."""

    def __init__(self, network=None):
        super().__init__()
        self.heads = []
        self.trained, self.validated = [], []
        self.network = [network]

    def forward(self, logits, targets, pair_bounds=None):
        told = self.trained if torch.is_grad_enabled() else self.validated
        told.append((self.progress, pair_bounds, logits))
        if self.network[0] is not None:
            self.heads.append(self.network[0][-1].weight.detach().clone())
        return nn.functional.cross_entropy(logits, targets)


def test_a_pairwise_loss_is_told_progress_and_the_constants_of_the_head():
    loss = Told()
    model = orthogonal(loss)
    loss.network = [model.network]
    fit(model, max_epochs=2)
    assert [progress for progress, _, _ in loss.trained] == pytest.approx([step / 6 for step in range(6)])
    for (_, bounds, _), head in zip(loss.trained, (loss.heads[place] for place in (0, 1, 2, 4, 5, 6)), strict=True):
        assert bounds.requires_grad
        torch.testing.assert_close(bounds, (head[:, None] - head).norm(dim=2))
    certified, _ = class_pair_upper_bounds(model.deployed, SHAPE)
    assert torch.equal(loss.validated[-1][1], certified)
    assert certified[0, 1] >= loss.trained[-1][1][0, 1] > 0


def test_a_schedule_is_as_long_as_the_training():
    schedules = []

    def make(optimizer):
        schedules.append(OneCycle(optimizer, warmup=0.5, end=0.0))
        return schedules[0]

    _, trainer, _ = fit(orthogonal(lr_scheduler=make), max_epochs=2, accumulate_grad_batches=2)
    assert trainer.global_step == 4
    assert schedules[0].total_steps == schedules[0].last_epoch == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


class Validated(Callback):
    """The logits that are measured."""

    def on_fit_start(self, trainer, module):
        measure, self.seen = module.measure, []

        def measured(stage, loss, logits, labels):
            self.seen.append((stage, logits))
            return measure(stage, loss, logits, labels)

        module.measure = measured


def test_validation_runs_in_full_precision_whatever_training_does():
    watch, rounded = Validated(), Told()
    model, _, (inputs, _) = fit(orthogonal(rounded), watch, precision="bf16-mixed")
    [logits] = [logits for stage, logits in watch.seen if stage == "val"]
    assert logits.dtype == torch.float32
    assert torch.equal(logits, model.deployed(inputs))
    trained = [logits for stage, logits in watch.seen if stage == "train"]
    assert {logits.dtype for logits in trained} == {torch.float32}
    assert all(torch.equal(logits, logits.bfloat16().float()) for logits in trained), "training is not mixed"
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize(("given", "kept"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_losses_are_given_at_least_single_precision(given, kept):
    dtype, loss = getattr(torch, given), Told()
    network = nn.Sequential(nn.Flatten(), OrthogonalLinear(64, 3)).to(dtype)
    model = Classifier(network, loss, num_classes=3, one_hot=False)
    model.training_step((torch.rand(4, *SHAPE, dtype=dtype), torch.arange(4) % 3), 0)
    [(_, _, logits)] = loss.trained
    assert logits.dtype == getattr(torch, kept)
