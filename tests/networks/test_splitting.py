"""The vote over splitting noise: the vote of a loop over its views, whatever the batches."""

import pytest
import torch
from torch import nn

from lipcert import load_network, save_network
from lipcert.certificates import SplittingNoise, l1_certificate
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.networks import SplittingNetwork, cnn


def network_of(**settings):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    with torch.no_grad():
        base[1].bias -= base(SplittingNoise(30).views(images()).flatten(0, 1)).mean(0)
    return SplittingNetwork(base, 30, num_classes=3, **settings).eval()


def images(count=6):
    return torch.randint(0, 256, (count, 1, 4, 6), generator=torch.Generator().manual_seed(2)) / 255


@pytest.mark.parametrize("elements", [None, 1, 100])
def test_votes_are_those_of_a_loop_over_views(elements):
    network, inputs = network_of(elements_at_once=elements), images()
    views = SplittingNoise(30).views(inputs)
    expected = torch.stack([torch.stack([network.network(view[None])[0].argmax() for view in each]) for each in views])
    assert expected.unique().numel() > 1
    assert torch.equal(network.votes(inputs), expected)
    assert network(inputs).sum(1).eq(30).all()
    certified = network.certificate(inputs)
    assert torch.equal(certified.radius, l1_certificate(expected, network.noise, num_classes=3).radius)
    assert torch.equal(certified.prediction, network(inputs).argmax(1))


def test_gradients_see_a_view_as_bright_as_its_image():
    network, leaf = network_of(), images().requires_grad_()
    (slope,) = torch.autograd.grad(network.view_logits(leaf)[..., 1].sum(), leaf)
    torch.testing.assert_close(slope[0].flatten(), 30 * network.network[1].weight[1])
    assert torch.equal(network.view_logits(leaf), network.view_logits(leaf.detach()))


def test_it_is_saved_and_loaded(tmp_path):
    sizes = {"input_shape": [1, 4, 6], "num_classes": 3, "stages": [[4, 0]]}
    base = {"class_path": "lipcert.networks.cnn", "init_args": sizes}
    torch.manual_seed(0)
    network = SplittingNetwork(cnn(**sizes), 12, seed=4, num_classes=3)
    plain = export(network)
    arguments = {"network": base, "levels": 12, "seed": 4, "num_classes": 3}
    save_network(plain, tmp_path / "network.safetensors", SplittingNetwork, **arguments)
    assert torch.equal(load_network(tmp_path / "network.safetensors").votes(images()), plain.votes(images()))


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: network_of()(torch.rand(1, 1, 4, 6)), "8-bit images"),
        (lambda: network_of().votes(images().half()), "float32 or float64"),
        (lambda: SplittingNetwork(nn.Flatten(), 1), "whole number of levels"),
        (lambda: SplittingNetwork(nn.Flatten(), 5, num_classes=1), "at least 2 classes"),
        (lambda: SplittingNetwork(nn.Flatten(), 5, elements_at_once=0), "elements_at_once >= 1"),
        (lambda: SplittingNetwork(nn.Flatten(), 5, num_classes=3).eval()(images()), "logits for 3 classes, got 24"),
    ],
)
def test_what_cannot_be_voted_on_is_refused(work, message):
    with pytest.raises(InputError, match=message):
        work()
