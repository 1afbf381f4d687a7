"""Plain convolutional networks for every size of image."""

import json

import pytest
import torch
from torch import nn

from lipcert import export, load_network, save_network
from lipcert.deployment import build_network, check_export
from lipcert.errors import InputError
from lipcert.networks import cnn

SIZES = {
    "28": {"input_shape": [1, 28, 28], "stages": [[4, 0], [6, 1]], "widths": [8]},
    "32-normalised": {"input_shape": [3, 32, 32], "num_classes": 4, "stages": [[4, 1]], "batch_norm": True},
    "224-mean": {"input_shape": [3, 224, 224], "stages": [[2, 0]] * 5, "pooling": "mean", "widths": []},
    "odd": {"input_shape": [2, 9, 7], "stages": [[2, 0], [4, 0]], "kernel_size": 5},
}


@pytest.mark.parametrize("arguments", SIZES.values(), ids=SIZES)
def test_networks_run_and_reload_from_json_arguments(arguments, tmp_path):
    network = cnn(**arguments)
    inputs = torch.rand(3, *arguments["input_shape"])
    assert network(inputs).shape == (3, arguments.get("num_classes", 10))
    save_network(export(network), tmp_path / "n.safetensors", cnn, **json.loads(json.dumps(arguments)))
    check_export(network, load_network(tmp_path / "n.safetensors"), inputs)


def test_layers_and_numbers_of_parameters():
    network = cnn((2, 9, 7), 3, stages=((4, 1), (6, 0)), widths=(5,), batch_norm=True)
    kinds = [type(layer) for layer in network]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [*block, *block, *block, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.stride[0] for layer in network if isinstance(layer, nn.Conv2d)] == [2, 1, 2]
    counts = [2 * 4 * 9, 8, 4 * 4 * 9, 8, 4 * 6 * 9, 12, 6 * 3 * 2 * 5 + 5, 5 * 3 + 3]
    assert sum(parameter.numel() for parameter in network.parameters()) == sum(counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": [28, 28]}, r"^expected an input shape \(C, H, W\), got \(28, 28\)$"),
        ({"num_classes": 1}, "^expected at least 2 classes, got 1$"),
        ({"stages": []}, r"^expected at least one stage \(channels, blocks\), got \[\]$"),
        ({"stages": [[4]]}, "^expected at least one stage"),
        ({"stages": [[0, 1]]}, "^expected at least one stage"),
        ({"kernel_size": 4}, "^expected an odd kernel size, got 4$"),
        ({"pooling": "max"}, "^expected a pooling among flatten, mean, got 'max'$"),
        ({"widths": [0]}, r"^expected widths >= 1, got \[0\]$"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        build_network("lipcert.networks.cnn", options)
