import os
import runpy
from pathlib import Path

import pytest
import torch

from lipcert.data import FashionMNIST, FashionMNISTMini
from lipcert.data.idx import read_idx
from lipcert.errors import InputError

FOLDER = Path(os.environ.get("LIPCERT_DATA", "")) / "fashion-mnist"
SCRIPT = Path(__file__).parents[2] / "experiments" / "make_fashion_mnist_mini.py"
needs_full_set = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Fashion-MNIST in LIPCERT_DATA")


def test_classes_are_balanced():
    data = FashionMNISTMini(val_size=0)
    assert data.split("train").labels.bincount().tolist() == [600] * 10
    assert data.split("test").labels.bincount().tolist() == [100] * 10
    assert (data.input_shape, data.num_classes, data.name) == ((1, 28, 28), 10, "fashion-mnist-mini")


def test_it_needs_neither_environment_nor_network(monkeypatch):
    monkeypatch.delenv("LIPCERT_DATA", raising=False)
    monkeypatch.setattr("lipcert.data.lookup.pooch.retrieve", None)
    assert [len(FashionMNISTMini().split(which)) for which in ("train", "val", "test")] == [5500, 500, 1000]


def test_a_damaged_copy_is_refused(tmp_path):
    for path in FashionMNISTMini()._paths():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / path.name).write_bytes(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        FashionMNISTMini(root=tmp_path).split("train")


@needs_full_set
def test_images_are_the_first_of_each_class_of_the_full_set():
    full, mini = FashionMNIST(val_size=0), FashionMNISTMini(val_size=0)
    for part, count in (("train", 600), ("test", 100)):
        for label in range(10):
            expected = full.split(part).images[full.split(part).labels == label][:count]
            assert torch.equal(mini.split(part).images[mini.split(part).labels == label], expected)


@needs_full_set
def test_the_committed_script_makes_the_embedded_files(tmp_path):
    script = runpy.run_path(str(SCRIPT))
    script["main"](tmp_path)
    for path in FashionMNISTMini()._paths():
        dimensions = 3 if "images" in path.name else 1
        made = read_idx(tmp_path / path.name, dimensions=dimensions)
        assert torch.equal(made, read_idx(path, dimensions=dimensions))


@needs_full_set
def test_the_full_set_has_the_official_content():
    data = FashionMNIST()
    assert [len(data.split(which)) for which in ("train", "val", "test")] == [55_000, 5_000, 10_000]
