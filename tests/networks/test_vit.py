"""The vision transformer: what is dropped is never seen, and costs nothing but rounding."""

import pytest
import torch

from lipcert.errors import InputError
from lipcert.networks import VisionTransformer, resnet, resnet_small_images, vit_large_images, vit_small_images


def small(**settings):
    torch.manual_seed(0)
    return VisionTransformer((2, 8, 12), 5, width=16, depth=3, heads=2, **settings).eval()


def selections():
    keep = torch.rand(9, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    keep[0], keep[1] = False, True
    return torch.rand(9, 2, 8, 12), keep


def test_dropped_tokens_give_what_a_full_pass_gives_that_does_not_attend_to_them():
    network, (inputs, keep) = small(), selections()
    dropped, masked = network(inputs, keep), network(inputs, keep, drop=False)
    assert torch.allclose(dropped, masked, rtol=0, atol=1e-5)
    assert not torch.allclose(dropped, network(inputs), atol=1e-3)
    assert torch.allclose(network(inputs), network(inputs, torch.ones_like(keep)), atol=1e-5)


def test_pixels_of_dropped_tokens_are_never_read():
    network, (inputs, keep) = small(), selections()
    pixels = keep.view(9, 1, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(network(inputs, keep), network(torch.where(pixels, inputs, torch.nan), keep))


def test_images_do_not_depend_on_their_neighbours():
    network, (inputs, keep) = small(), selections()
    together = network(inputs, keep)
    alone = torch.cat([network(inputs[i : i + 1], keep[i : i + 1]) for i in range(9)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5)


def test_positions_and_gradients():
    network, (inputs, keep) = small(), selections()
    assert not torch.allclose(network(inputs.flip(3), keep), network(inputs, keep), atol=1e-3)
    network.train()(inputs, keep).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_stochastic_depth_leaves_branches_out_for_whole_samples_and_in_training_only():
    network = small(stochastic_depth=0.9)
    inputs = torch.rand(1, 2, 8, 12).expand(64, -1, -1, -1)
    assert len(network.eval()(inputs).round(decimals=4).unique(dim=0)) == 1
    assert len(network.train()(inputs).round(decimals=4).unique(dim=0)) > 1


@pytest.mark.parametrize(
    ("network", "shape", "classes"),
    [
        (vit_small_images, (3, 32, 32), 10),
        (vit_large_images, (3, 224, 224), 1000),
        (resnet_small_images, (3, 32, 32), 10),
        (resnet, (3, 224, 224), 1000),
    ],
)
def test_presets(network, shape, classes):
    with torch.no_grad():
        assert network().eval()(torch.rand(1, *shape)).shape == (1, classes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shape": (3, 30, 32)}, "multiples of 4"),
        ({"heads": 5}, "multiple of 5 heads"),
        ({"depth": 0}, ">= 1"),
        ({"stochastic_depth": 1.0}, "stochastic_depth"),
        ({"num_classes": 1}, "2 classes"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(InputError, match=message):
        VisionTransformer(**settings)


def test_images_and_selections_that_do_not_fit():
    with pytest.raises(InputError, match="expected images"):
        small()(torch.rand(1, 3, 8, 12))
    with pytest.raises(InputError, match="tokens to keep"):
        small()(torch.rand(1, 2, 8, 12), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(InputError, match="at least one stage"):
        resnet(channels=())
