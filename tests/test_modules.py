"""The Lightning modules in a loop of the user's own."""

import pytest
import torch
from deel import torchlip
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from lipcert.certificates import class_pair_upper_bounds, margin_radius
from lipcert.errors import InputError
from lipcert.metrics import average_certified_radius
from lipcert.modules import LipschitzClassifier
from lipcert.networks import hkr_convnet
from lipcert.training import quiet_lightning

SHAPE = (1, 8, 8)


def fitted(**options):
    torch.manual_seed(0)
    network = hkr_convnet(SHAPE, 3, channels=(2,), hidden=4)
    loss = torchlip.HKRMulticlassLoss(alpha=0.99, min_margin=0.25)
    model = LipschitzClassifier(network, loss, num_classes=3, epsilons=(0.1,), **options)
    data = TensorDataset(torch.rand(60, *SHAPE), torch.arange(60) % 3)
    with quiet_lightning():
        trainer = Trainer(
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, DataLoader(data, 20), DataLoader(data, 60))
    return model, trainer.callback_metrics, data.tensors


def test_validation_measures_the_network_that_would_be_deployed():
    model, logged, (inputs, labels) = fitted(input_shape=SHAPE)
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
