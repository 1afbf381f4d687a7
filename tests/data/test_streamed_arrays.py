"""Arrays in files are read a block at a time, and never executed."""

import numpy as np
import pytest
import torch
from PIL import Image

from lipcert.data import ImageFolder, ImageSet, StreamedArrays
from lipcert.data.image_set import sha256_of
from lipcert.errors import InputError
from lipcert.harness.foreign import load_data

IMAGES = np.random.default_rng(0).integers(256, size=(25, 1, 6, 6), dtype=np.uint8)
LABELS = np.arange(25) % 4


def save(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path, test_images=IMAGES, test_labels=LABELS, x_train=IMAGES[:20], y_train=LABELS[:20])


def test_blocks_are_parts_of_the_split(folder):
    data = StreamedArrays(folder, val_size=5)
    source, whole = data.source("test"), data.split("test")
    assert (len(source), data.class_names) == (25, ("0", "1", "2", "3"))
    blocks = [source.block(begin, min(begin + 10, 25)) for begin in range(0, 25, 10)]
    assert [len(block) for block in blocks] == [10, 10, 5]
    torch.testing.assert_close(torch.cat([block.inputs() for block in blocks]), whole.inputs(), rtol=0, atol=0)
    assert sha256_of((25, 1, 6, 6), blocks, [block.labels.numpy() for block in blocks]) == whole.sha256
    assert [len(data.split(part)) for part in ("train", "val")] == [15, 5]
    assert load_data(str(folder)).source("test").block(3, 4).labels.tolist() == [3]


def test_a_block_of_memory_is_a_part_of_it(folder):
    images = StreamedArrays(folder).split("test")
    block = images.block(20, 25)
    assert isinstance(block, ImageSet)
    assert block.images.data_ptr() == images.images[20:].data_ptr()


def test_folders_of_images_are_decoded_block_by_block(tmp_path):
    for number, label in enumerate(LABELS):
        path = tmp_path / ("test" if number < 20 else "train") / str(label) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[number, 0]).save(path)
    for label in range(4):
        (tmp_path / "train" / str(label)).mkdir(exist_ok=True)
        Image.fromarray(IMAGES[0, 0]).save(tmp_path / "train" / str(label) / "more.png")
    data = ImageFolder(tmp_path, grayscale=True, val_size=2)
    source, whole = data.source("test"), data.split("test")
    assert len(source) == len(whole) == 20
    block = source.block(5, 12)
    torch.testing.assert_close(block.images, whole.images[5:12], rtol=0, atol=0)
    assert block.labels.tolist() == whole.labels[5:12].tolist()


BAD = {
    "no arrays": ({}, "got none"),
    "labels missing": ({"test_images": IMAGES}, "expected arrays such as x_train and y_train"),
    "train only": ({"x_train": IMAGES, "y_train": LABELS}, "expected test images"),
    "fewer labels": ({"test_images": IMAGES, "test_labels": LABELS[:9]}, "as many labels as images, got 9 and 25"),
    "a pickle": ({"test_images": IMAGES, "test_labels": np.array([None] * 25)}, "expected an array in"),
    "empty": ({"test_images": IMAGES[:0], "test_labels": LABELS[:0]}, "at least one entry"),
    "large pixels": ({"test_images": IMAGES.astype(int) + 1, "test_labels": LABELS}, "from 0 to 255"),
    "names": ({"test_images": IMAGES, "test_labels": LABELS, "class_names": np.arange(4)}, "list of strings"),
    "few names": (
        {"test_images": IMAGES, "test_labels": LABELS, "class_names": np.array(["a", "b"])},
        "labels from 0 to 1",
    ),
}


def read(data):
    source = data.source("test")
    return source.block(0, len(source))


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD)
def test_unusable_arrays_are_refused(tmp_path, arrays, message):
    save(tmp_path, **arrays)
    with pytest.raises(InputError, match=message):
        read(StreamedArrays(tmp_path))


def test_a_file_that_claims_more_than_it_holds_is_refused(folder):
    path = folder / "test_images.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="expected an array in"):
        len(StreamedArrays(folder).source("test"))
