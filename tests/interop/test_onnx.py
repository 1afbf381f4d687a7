"""The exported file gives the network's logits in another runtime, and carries the constants that certify them."""

import json

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import lipcert
from lipcert.certificates import class_pair_upper_bounds, logit_errors, margin_radius
from lipcert.deployment import tensors_sha256
from lipcert.errors import InputError
from lipcert.interop import onnx as interop
from lipcert.layers.blocked import BlockedLinear
from lipcert.networks import conv_network, dense_network

SHAPES = {"run": (1, 28, 28), "network": (3, 8, 8)}


def saved_run(folder):
    torch.manual_seed(0)
    arguments = {"input_shape": [1, 28, 28], "widths": [16]}
    lipcert.save_network(
        lipcert.export(dense_network(**arguments)), folder / "network.safetensors", dense_network, **arguments
    )
    (folder / "config.yaml").write_text("data: {class_path: lipcert.data.FashionMNISTMini}\n")
    return folder


@pytest.fixture(scope="module", params=list(SHAPES))
def exported(request, tmp_path_factory):
    """A network of which the long sums are added up in blocks, and one with convolutions; each with its file."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "run":
        source = saved_run(folder)
        network = lipcert.load_run(source).network
        assert any(isinstance(layer, BlockedLinear) for layer in network.modules())
        path = interop.export(str(source), folder / "network.onnx")
    else:
        torch.manual_seed(1)
        source = conv_network((3, 8, 8), 4, stages=((8, 1),), widths=(16,))
        network = lipcert.export(source)
        path = interop.export(source, folder / "network.onnx", input_shape=(3, 8, 8))
    inputs = torch.rand(7, *SHAPES[request.param], generator=torch.Generator().manual_seed(2))
    return network, path, inputs


def logits_of(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"inputs": inputs.numpy()})[0])


def test_logits_agree_within_what_rounding_explains(exported):
    network, path, inputs = exported
    with torch.no_grad():
        ours = network(inputs).double()
    theirs = logits_of(path, inputs).double()
    errors = logit_errors(network, inputs.shape[1:])
    norms = inputs.flatten(1).double().norm(dim=1)[:, None, None]
    gaps = (theirs[:, :, None] - theirs[:, None]) - (ours[:, :, None] - ours[:, None])
    assert (gaps.abs() <= 2 * (errors.constant + errors.coefficient * norms)).all()
    assert torch.allclose(logits_of(path, inputs[:1]), theirs[:1].float(), atol=1e-5)  # a batch of any size


def test_the_metadata_certify_the_logits_of_another_runtime(exported):
    network, path, inputs = exported
    found = interop.read_certificate(path)
    bounds, proof = class_pair_upper_bounds(network, inputs.shape[1:])
    assert found.lipschitz_upper_bound == proof.value
    assert torch.equal(found.pair_upper_bounds, bounds)  # to the last bit
    assert found.weights_sha256 == tensors_sha256(network)
    assert found.input_shape == tuple(inputs.shape[1:])
    assert found.lipcert_version == lipcert.__version__
    assert "for another runtime they hold only if" in found.statement.lower()
    assert any("IEEE" in sentence for sentence in found.assumptions)
    expected = lipcert.certify(network, inputs, arithmetic="real")
    prediction, radius = margin_radius(logits_of(path, inputs), found.pair_upper_bounds)
    assert torch.equal(prediction, expected.prediction)
    assert torch.allclose(radius, expected.radius, atol=1e-5)


def test_the_file_is_one_of_onnx_and_nothing_is_left_beside_it(exported):
    _, path, inputs = exported
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["inputs", "logits"]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert sizes[0].dim_param  # a name, and so a batch of any size
    assert [size.dim_value for size in sizes[1:]] == list(inputs.shape[1:])
    assert not list(path.parent.glob(".*"))
    assert not list(path.parent.glob("*.data"))


def tampered(model, path, change):
    said = json.loads(next(entry.value for entry in model.metadata_props if entry.key == interop.KEY))
    change(said)
    onnx.helper.set_model_props(model, {interop.KEY: json.dumps(said)})
    path.write_bytes(model.SerializeToString())


CHANGES = {
    "a missing constant": lambda said: said.pop("pair_upper_bounds"),
    "a negative constant": lambda said: said.update(pair_upper_bounds=[[-1.0]]),
    "a constant that is no number": lambda said: said.update(pair_upper_bounds=[[float("nan")]]),
    "a row": lambda said: said.update(pair_upper_bounds=[1.0, 2.0]),
    "words": lambda said: said.update(lipschitz_upper_bound="one"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_constants_that_are_none_are_refused(exported, tmp_path, name):
    _, path, _ = exported
    tampered(onnx.load(str(path)), tmp_path / "tampered.onnx", CHANGES[name])
    with pytest.raises(InputError, match="expected the constants of a certificate in") as refused:
        interop.read_certificate(tmp_path / "tampered.onnx")
    assert "\n" not in str(refused.value)


def test_files_without_constants_are_refused(exported, tmp_path):
    _, path, _ = exported
    model = onnx.load(str(path))
    del model.metadata_props[:]
    (tmp_path / "plain.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "text.onnx").write_text("not a model")
    for name, message in (
        ("plain", "expected the metadata lipcert.certificate in"),
        ("text", "an ONNX file at"),
        ("nowhere", "found none at"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            interop.read_certificate(tmp_path / f"{name}.onnx")
        assert "\n" not in str(refused.value)


def test_a_translation_with_other_logits_is_not_written(exported, tmp_path, monkeypatch):
    network, path, inputs = exported
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0, 0] += 1e-2
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            break
    (tmp_path / "kept.onnx").write_bytes(b"before")
    monkeypatch.setattr(interop, "_translated", lambda *_: model)
    with pytest.raises(InputError, match="a translation that gives the network's logits, gaps differ by"):
        interop.export(network, tmp_path / "kept.onnx", input_shape=inputs.shape[1:])
    assert (tmp_path / "kept.onnx").read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.onnx"]


class Squared(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1).square()


LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("source", "shape", "message"),
    [
        (LINEAR, None, r"expected input_shape=\(C, H, W\)"),
        (LINEAR, (1, 3, 3), "expected 4 features or channels, got 9"),
        (Squared(), (1, 2, 2), "expected"),
        (3, (1, 2, 2), "a run directory or a network, got int"),
        ("nowhere", None, "expected a run directory"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, source, shape, message):
    with pytest.raises(InputError, match=message) as refused:
        interop.export(source, tmp_path / "network.onnx", input_shape=shape)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(interop, "import_module", missing)
    with pytest.raises(InputError, match=r"expected the package onnx, .* pip install 'lipcert\[onnx\]'"):
        interop.export(LINEAR, tmp_path / "network.onnx", input_shape=(1, 2, 2))
    with pytest.raises(InputError, match="expected the package onnx"):
        interop.read_certificate(tmp_path / "network.onnx")
