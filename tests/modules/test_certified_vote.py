"""Votes are trained for their certificate on all views of every image."""

import pytest
import torch
from lightning import Trainer
from torch import nn

from lipcert.certificates import ColumnAblation
from lipcert.certificates.early import affected_sets
from lipcert.data import FashionMNISTMini
from lipcert.errors import InputError
from lipcert.losses import CertifiedVoteLoss
from lipcert.modules import CertifiedVote
from lipcert.networks import CropNetwork, SmoothedNetwork, SplittingNetwork
from lipcert.training import quiet_lightning

ABLATION = ColumnAblation(9, stride=7)


class Recording(CertifiedVoteLoss):
    """Keeps what it is called with."""

    def __init__(self, threshold):
        super().__init__(threshold)
        self.calls = []

    def forward(self, logits, targets, affected):
        self.calls.append((logits.detach().clone(), targets, affected))
        return super().forward(logits, targets, affected)


def fitted(module, steps=2):
    data = FashionMNISTMini(batch_size=25, val_size=100)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with quiet_lightning():
        trainer = Trainer(max_epochs=1, limit_train_batches=steps, logger=False, accelerator="cpu", **quiet)
        trainer.fit(module, datamodule=data)
    return trainer


def of_crops():
    crops = CropNetwork((1, 28, 28), crop=(None, 9), stages=[(4, 2)], width=8)
    return SmoothedNetwork(crops, ABLATION, threshold=0.3)


def of_whole_images():
    return SmoothedNetwork(nn.Sequential(nn.Flatten(), nn.Linear(2 * 28 * 28, 10)), ABLATION)


@pytest.mark.parametrize("make", [of_crops, of_whole_images])
def test_a_step_sees_the_votes_that_are_certified(make):
    torch.manual_seed(0)
    network = make()
    loss = Recording(network.threshold)
    module = CertifiedVote(network.eval(), loss, patch=(3, 4), optimizer=lambda weights: torch.optim.SGD(weights, lr=0))
    inputs, labels = torch.rand(6, 1, 28, 28), torch.arange(6)
    module.training_step((inputs, labels), 0)
    [(logits, targets, affected)] = loss.calls
    torch.testing.assert_close(logits, network.view_logits(inputs).detach())
    assert targets.equal(labels)
    assert affected.equal(affected_sets(ABLATION, (28, 28), (3, 4)))


def test_training_moves_the_weights_and_validates_the_certificate():
    torch.manual_seed(0)
    network = of_crops()
    before = [weight.clone() for weight in network.parameters()]
    module = CertifiedVote(network, patch=3, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1))
    assert module.loss.threshold == network.threshold
    figures = fitted(module).callback_metrics
    assert all(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    assert 0 <= figures["val/certified_accuracy"] <= figures["val/accuracy"] <= 1
    assert 0 < figures["train/loss"] < 1.1


def test_splitting_noise_is_refused():
    network = SplittingNetwork(nn.Flatten(), 8)
    with pytest.raises(InputError, match="SmoothedNetwork, got SplittingNetwork"):
        CertifiedVote(network)
