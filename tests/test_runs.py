"""Run directories that are not what they should be."""

import json
import shutil

import pytest
import yaml

from lipcert import InputError, export, load_run, save_network
from lipcert.networks import hkr_convnet

CONFIG = {"data": {"class_path": "lipcert.data.FashionMNISTMini", "init_args": {"batch_size": 10}}, "name": "x"}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    save_network(export(hkr_convnet()), tmp_path / "network.safetensors", hkr_convnet)
    return tmp_path


def test_a_run_is_its_network_and_its_data(run):
    loaded = load_run(run)
    assert loaded.data.name == "fashion-mnist-mini" or loaded.data.class_names[1] == "Trouser"
    assert loaded.data.batch_size == 10
    assert loaded.network(loaded.data.split("test").inputs()[:3]).shape == (3, 10)
    assert len(loaded.network_sha256) == 64


def config(run, text):
    (run / "config.yaml").write_text(text)


BAD = [
    pytest.param(lambda run: shutil.rmtree(run), "config.yaml, found none", id="no-directory"),
    pytest.param(lambda run: (run / "config.yaml").unlink(), "config.yaml, found none", id="no-config"),
    pytest.param(lambda run: (run / "network.safetensors").unlink(), "no checkpoint", id="no-network"),
    pytest.param(lambda run: config(run, "a: [unclosed"), "expected YAML", id="no-yaml"),
    pytest.param(lambda run: config(run, "3"), "expected a mapping", id="no-mapping"),
    pytest.param(lambda run: config(run, json.dumps({"name": "x"})), "data module", id="no-data"),
    pytest.param(
        lambda run: config(run, json.dumps({"data": {"class_path": "os.system"}})),
        "data module",
        id="not-a-data-module",
    ),
    pytest.param(
        lambda run: config(
            run, json.dumps({"data": {"class_path": "lipcert.data.FashionMNISTMini", "init_args": {"k": 1}}})
        ),
        "data module",
        id="unknown-argument",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_one_clear_line(run, spoil, message):
    spoil(run)
    with pytest.raises(InputError, match=message):
        load_run(run)
