import importlib.util
import os
import pickle
import sys

import pytest
import torch
from deel import torchlip
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from lipcert import certify, export
from lipcert.attacks import BoundaryWalk
from lipcert.data import ImageFolder, ImageSet
from lipcert.deployment import file_sha256
from lipcert.errors import InputError
from lipcert.harness import run_audit
from lipcert.harness.foreign import (
    NO_RULE,
    certify_or_not,
    check_runs,
    load_data,
    load_foreign,
    parsed_arguments,
    read_weights,
)

SOURCE = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, width=8, classes=3):
        super().__init__()
        self.first, self.second = nn.Linear(16, width), nn.Linear(width, classes)

    def forward(self, inputs):
        return self.second(self.first(inputs.flatten(1)).relu())


class Squared(Small):
    def forward(self, inputs):
        return super().forward(inputs).square()


class Casting(Small):
    def forward(self, inputs):
        return super().forward(inputs.float())


class Nested:
    @staticmethod
    def make():
        return Small()


def spectral():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 3))
    return nn.Sequential(nn.Flatten(), layer)


def number():
    return 3


def broken(**arguments):
    raise RuntimeError("no\\nsuch luck")


class Crashing(nn.Module):
    def forward(self, inputs):
        return self.nothing(inputs)


class Twins(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1), inputs


constant = 5
"""

INPUTS = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def strangers(tmp_path, monkeypatch):
    """A module in the working directory that is not on the import path."""
    (tmp_path / "strangers.py").write_text(SOURCE)
    (tmp_path / "unreadable.py").write_text("import nothing_of_that_name")
    (tmp_path / "invalid.py").write_text("class:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def small(**arguments):
    return load_foreign("strangers:Small", arguments=arguments).network


def test_a_class_in_the_working_directory_is_found_and_made_plain():
    foreign = load_foreign("strangers:Small", arguments='{"width": 4, "classes": 5}')
    assert foreign.name == "Small"
    assert foreign.sha256 == ""
    assert foreign.constrained is None
    assert foreign.network.first.out_features == 4
    assert not any(module.training for module in foreign.network.modules())
    assert not any(parameter.requires_grad for parameter in foreign.network.parameters())
    check_runs(foreign, INPUTS, 5)


def test_a_nested_factory_is_found():
    assert type(load_foreign("strangers:Nested.make").network).__name__ == "Small"


def shared(state):
    return {name: tensor.clone() for name, tensor in state.items()}


FILES = {
    "safetensors": lambda state, path: save_file(shared(state), path / "weights.safetensors"),
    "torch": lambda state, path: torch.save(state, path / "weights.pt"),
    "nested": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path / "weights.pth"),
    "data parallel": lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path / "weights.pt"),
    "both": lambda state, path: torch.save(
        {"model": {f"module.{k}": v for k, v in state.items()}, "best": 0.5}, path / "weights.bin"
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_are_read(strangers, name):
    torch.manual_seed(5)
    original = small()
    FILES[name](original.state_dict(), strangers)
    [path] = strangers.glob("weights.*")
    torch.manual_seed(6)
    foreign = load_foreign("strangers:Small", weights=path)
    assert torch.equal(foreign.network(INPUTS), original(INPUTS))
    assert foreign.sha256 == file_sha256(path)


def test_constraints_are_exported_with_their_present_values():
    foreign = load_foreign("strangers:spectral")
    assert foreign.constrained is not None
    assert [name for name, _ in foreign.network.named_parameters()] == ["1.bias", "1.weight"]
    assert certify(foreign.network, INPUTS).lipschitz_upper_bound < 1.01
    check_runs(foreign, INPUTS, 3)
    with torch.no_grad():
        foreign.network[1].bias += 1
    with pytest.raises(InputError, match="they differ by"):
        check_runs(foreign, INPUTS, 3)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("was_run",))


def test_nothing_in_a_file_of_weights_is_run(strangers):
    torch.save({"first.weight": Evil()}, strangers / "evil.pt")
    torch.save(nn.Linear(16, 3), strangers / "whole.pt")
    (strangers / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "whole.pt", "evil.pkl"):
        with pytest.raises(InputError, match="running its code") as refused:
            read_weights(strangers / name)
        assert "\n" not in str(refused.value)
    assert not (strangers / "was_run").exists()


def cut(state, path):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:500])


SPOILED = {
    "missing": lambda state, path: None,
    "a folder": lambda state, path: path.mkdir(),
    "text": lambda state, path: path.write_text("not a checkpoint"),
    "empty file": lambda state, path: path.touch(),
    "cut": cut,
    "list": lambda state, path: torch.save(list(state.values()), path),
    "nothing": lambda state, path: torch.save({}, path),
    "numbers": lambda state, path: torch.save({"epoch": 3, "best": 0.5}, path),
    "one too few": lambda state, path: torch.save({"second.weight": state["second.weight"]}, path),
    "one too many": lambda state, path: torch.save({**state, "third.weight": torch.zeros(2)}, path),
    "another shape": lambda state, path: torch.save({**state, "first.weight": torch.zeros(2, 2)}, path),
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "found none at"),
        ("a folder", "found none at"),
        ("text", "a.pt"),
        ("empty file", "expected weights in"),
        ("cut", "expected a whole archive at"),
        ("list", "got list"),
        ("nothing", "got an empty one"),
        ("numbers", "something else in epoch, best"),
        ("one too few", "first.weight, first.bias, second.bias missing"),
        ("one too many", "third.weight unknown"),
        ("another shape", "size mismatch for first.weight"),
    ],
)
def test_unusable_weights_are_refused_in_one_line(strangers, name, message):
    path = strangers / "a.pt"
    SPOILED[name](small().state_dict(), path)
    with pytest.raises(InputError, match=message) as refused:
        load_foreign("strangers:Small", weights=path)
    assert "\n" not in str(refused.value)


def test_a_broken_safetensors_file_is_refused(strangers):
    (strangers / "a.safetensors").write_text("not a checkpoint")
    with pytest.raises(InputError, match="expected weights in"):
        read_weights(strangers / "a.safetensors")


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("strangers", None, "package.module:factory"),
        (":Small", None, "package.module:factory"),
        ("nowhere.at.all:Small", None, "ModuleNotFoundError"),
        ("unreadable:Small", None, "nothing_of_that_name"),
        ("invalid:Small", None, "SyntaxError"),
        ("strangers:Large", None, "AttributeError"),
        ("strangers:constant", None, "class or a function, got int"),
        ("strangers:number", None, "nn.Module, got int"),
        ("strangers:broken", None, "RuntimeError: no such luck"),
        ("strangers:Small", '{"depth": 3}', "TypeError.*depth"),
        ("strangers:Small", "[1]", "JSON object"),
        ("strangers:Small", "width=3", "JSON object"),
    ],
    ids=lambda case: case,
)
def test_unusable_models_are_refused_in_one_line(model, arguments, message):
    with pytest.raises(InputError, match=message) as refused:
        load_foreign(model, arguments=arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "classes", "message"),
    [
        ("strangers:Crashing", 3, "to run on images"),
        ("strangers:Twins", 3, "got tuple"),
        ("strangers:Small", 4, r"expected logits \(4, 4\) from Small, got \(4, 3\)"),
        ("torch.nn:Flatten", 17, "got"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(model, classes, message):
    with pytest.raises(InputError, match=message):
        check_runs(load_foreign(model), INPUTS, classes)


def test_arguments_are_taken_as_they_are_or_as_json():
    assert parsed_arguments({"a": (1, 2)}) == {"a": (1, 2)}
    assert parsed_arguments('{"a": [1, 2]}') == {"a": [1, 2]}


def test_what_can_be_proved_is_certified_as_it_always_is():
    network = small()
    found, expected = certify_or_not(network, INPUTS), certify(network, INPUTS)
    assert torch.equal(found.radius, expected.radius)
    assert (found.rule, found.arithmetic, found.assumptions) == ("best", "float32", expected.assumptions)
    assert certify_or_not(network, INPUTS, arithmetic="real", rule="joint").rule == "joint"


def test_without_a_bound_of_the_rounding_the_real_network_is_certified_and_says_why():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh()).eval()
    found, real = certify_or_not(network, INPUTS), certify(network, INPUTS, arithmetic="real")
    assert found.arithmetic == "real"
    assert torch.equal(found.radius, real.radius)
    assert "tanh" in found.assumptions[-1]
    assert "layer '2'" in found.assumptions[-1]
    assert found.assumptions[:-1] == real.assumptions


def test_without_a_bound_nothing_is_certified_and_the_layer_is_named():
    network = load_foreign("strangers:Squared").network
    found = certify_or_not(network, INPUTS)
    assert found.rule == NO_RULE == "none"
    assert found.radius.tolist() == [0.0] * 4
    assert found.lipschitz_upper_bound == float("inf")
    assert torch.equal(found.prediction, network(INPUTS).argmax(1))
    [said] = found.assumptions
    assert "Nothing is certified" in said
    assert "square" in said


def test_unusable_inputs_are_no_reason_to_certify_nothing():
    with pytest.raises(InputError, match="finite"):
        certify_or_not(small(), INPUTS * torch.nan)


@pytest.mark.parametrize("name", ["Squared", "Casting"])
def test_a_network_without_certificates_is_audited_empirically(name):
    torch.manual_seed(0)
    network = load_foreign(f"strangers:{name}").network
    network.first.weight.mul_(10)  # more than one class in the box
    pixels = INPUTS.mul(255).round().to(torch.uint8)
    images = ImageSet(pixels, network(pixels / 255).argmax(1))
    result = run_audit(network, images, certifier=certify_or_not, attacks=[BoundaryWalk()])
    assert result.verdict == "pass"
    assert result.rule == NO_RULE
    assert any(row.distance is not None and row.distance > 0 for row in result.rows)
    assert all(row.ratio is None for row in result.rows)


def test_a_network_of_torchlip_is_exported_and_certified():
    torch.manual_seed(0)
    network = torchlip.Sequential(nn.Flatten(), torchlip.SpectralLinear(16, 8), torchlip.FrobeniusLinear(8, 3))
    plain = export(network)
    assert torch.equal(certify_or_not(plain, INPUTS).radius, certify(plain, INPUTS).radius)


@pytest.fixture
def folder(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(20):
            image = Image.new("RGB", (4, 4), (10 * number, 10, 10))
            image.save(tmp_path / "pets" / label / f"{number}.png")
    return tmp_path / "pets"


def test_data_are_found_by_class_or_by_folder(folder):
    assert load_data("lipcert.data.FashionMNISTMini").name == load_data("lipcert.data:FashionMNISTMini").name
    data = load_data(str(folder), arguments='{"grayscale": true}')
    assert isinstance(data, ImageFolder)
    assert data.class_names == ("cat", "dog")
    assert data.split("test").images.shape[1:] == (1, 4, 4)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("nowhere/at/all", None, "folder of images"),
        ("FashionMNIST", None, "folder of images"),
        ("lipcert.data.Nothing", None, "AttributeError"),
        ("torch.nn.Linear", None, "subclass of lipcert.data.ImageData"),
        ("lipcert.data.FashionMNISTMini", '{"size": 3}', "TypeError.*size"),
        ("lipcert.data.FashionMNISTMini", '{"batch_size": 0}', "batch_size >= 1"),
    ],
)
def test_unusable_data_are_refused(data, arguments, message):
    with pytest.raises(InputError, match=message):
        load_data(data, arguments=arguments)


def test_the_working_directory_hides_nothing(strangers, monkeypatch):
    (strangers / "this.py").write_text("raise RuntimeError('hidden')")
    monkeypatch.delitem(sys.modules, "this", raising=False)
    load_foreign("strangers:Small")
    assert sys.path[-1] == str(strangers)
    assert importlib.util.find_spec("this").origin != str(strangers / "this.py")
