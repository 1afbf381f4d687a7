"""Export, save and reload: the deployed network is the trained one, to the bit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lipcert import InputError, export, load_network, save_network
from lipcert.deployment import BUILD_KEY, check_export
from lipcert.layers import retract_
from lipcert.networks import dense_network, hkr_convnet

INPUTS = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL = {"input_shape": (1, 8, 8), "num_classes": 3, "channels": (2, 4), "hidden": 6}


def trained(steps: int = 3) -> nn.Module:
    torch.manual_seed(0)
    network = hkr_convnet(**SMALL)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        network(INPUTS).square().sum().backward()
        optimizer.step()
    return network


def test_export_is_fresh_where_torchlips_eval_mode_is_stale():
    network = trained()
    plain = export(network)
    stale = network.eval()(INPUTS)
    assert (plain(INPUTS) - stale).abs().max() > 1e-4
    network.train()(INPUTS)
    assert torch.equal(plain(INPUTS), network.eval()(INPUTS))


def test_export_changes_nothing_of_the_network():
    network = trained()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export(network)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_export_has_no_parametrizations():
    plain = export(trained())
    assert not plain.training
    assert all(not name.startswith("parametrizations") for name, _ in plain.named_parameters())
    assert [type(layer).__name__ for layer in plain][:3] == ["Conv2d", "GroupSort2", "LPPool2d"]


def test_torchs_own_parametrizations_are_exported_inside_any_module():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))

        def forward(self, inputs):
            return inputs + self.inner(inputs)

    network = Residual()
    plain = export(network)
    assert sorted(plain.state_dict()) == ["inner.bias", "inner.weight"]
    inputs = torch.rand(5, 4)
    assert torch.equal(plain(inputs), network.eval()(inputs))


def test_reloading_changes_no_logit(tmp_path):
    network = trained()
    save_network(export(network), tmp_path / "network.safetensors", hkr_convnet, **SMALL)
    reloaded = load_network(tmp_path / "network.safetensors")
    check_export(network, reloaded, INPUTS)
    assert not reloaded.training
    assert not any(parameter.requires_grad for parameter in reloaded.parameters())


def test_check_export_finds_a_changed_weight():
    network = trained()
    plain = export(network)
    plain[0].weight.data[0, 0, 0, 0] += 1e-4
    with pytest.raises(InputError, match="differ by"):
        check_export(network, plain, INPUTS)


def drifted() -> nn.Module:
    """A network kept by projection some steps after its last retraction, with pixels that have been centred."""
    torch.manual_seed(0)
    network = dense_network((1, 8, 8), (6, 6), 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(INPUTS).square().sum().backward()
        optimizer.step()
    return network


def departure(network: nn.Module) -> float:
    weights = [layer.weight.detach().double() for layer in network if isinstance(layer, nn.Linear)]
    return max(float((torch.linalg.svdvals(weight) - 1).abs().max()) for weight in weights)


def test_export_projects_what_training_keeps_near_the_manifold():
    network = drifted()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    plain = export(network)
    assert departure(network) > 1e-3
    assert departure(plain) < 1e-6
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    for layer, kept in zip(plain, network, strict=True):
        if isinstance(layer, nn.Linear):
            left, _, right = torch.linalg.svd(kept.weight.detach().double(), full_matrices=False)
            torch.testing.assert_close(layer.weight.double(), left @ right, rtol=0, atol=1e-6)


def test_a_projected_export_gives_the_trained_networks_logits_to_the_bit(tmp_path):
    network, arguments = drifted(), {"input_shape": [1, 8, 8], "widths": [6, 6], "num_classes": 3}
    save_network(export(network), tmp_path / "network.safetensors", dense_network, **arguments)
    reloaded = load_network(tmp_path / "network.safetensors")
    check_export(network, reloaded, INPUTS)
    assert torch.equal(export(reloaded)(INPUTS), reloaded(INPUTS))
    retract_(network)  # nearly the same network
    with pytest.raises(InputError, match="differ by"):
        check_export(network, reloaded, INPUTS)


def test_saving_under_the_wrong_recipe_keeps_the_old_file(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(export(trained()), path, hkr_convnet, **SMALL)
    before = path.read_bytes()
    with pytest.raises(InputError, match="expected the tensors of"):
        save_network(export(trained()), path, hkr_convnet, **{**SMALL, "hidden": 8})
    assert path.read_bytes() == before


def saved(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(export(trained()), path, hkr_convnet, **SMALL)
    return path


def with_recipe(path, recipe):
    save_file(load_file(path), path, metadata=None if recipe is None else {BUILD_KEY: json.dumps(recipe)})


BAD_FILES = [
    pytest.param(lambda path: path.unlink(), "found none", id="missing"),
    pytest.param(lambda path: path.write_bytes(b"not a network"), "safetensors", id="garbage"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-100]), "safetensors", id="truncated"),
    pytest.param(lambda path: torch.save({"a": 1}, path), "safetensors", id="pickle"),
    pytest.param(lambda path: with_recipe(path, None), "how its network is built", id="no-recipe"),
    pytest.param(lambda path: with_recipe(path, {"class_path": "os.system"}), "nn.Module", id="not-a-network"),
    pytest.param(lambda path: with_recipe(path, {"class_path": "no.such.thing"}), "import path", id="no-module"),
    pytest.param(lambda path: with_recipe(path, {"class_path": "lipcert.networks.hkr_convnet"}), "tensors", id="other"),
    pytest.param(
        lambda path: with_recipe(path, {"class_path": "lipcert.networks.hkr_convnet", "init_args": {"depth": 3}}),
        "arguments",
        id="arguments",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES)
def test_files_that_are_no_network_are_refused(tmp_path, spoil, message):
    path = saved(tmp_path)
    spoil(path)
    with pytest.raises(InputError, match=message):
        load_network(path)
