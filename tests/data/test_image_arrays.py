import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lipcert.data import ImageArrays, ImageSet, ImageTensors, image_set
from lipcert.data.arrays import read_arrays
from lipcert.errors import InputError
from lipcert.harness.foreign import load_data

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(256, size=(30, 6, 5), dtype=np.uint8)
LABELS = np.arange(30) % 3


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


NAMES = {
    "keras": {"x_train": PIXELS[:20], "y_train": LABELS[:20], "x_test": PIXELS[20:], "y_test": LABELS[20:]},
    "medmnist": {
        "train_images": PIXELS[:20],
        "train_labels": LABELS[:20, None].astype(np.uint8),
        "test_images": PIXELS[20:],
        "test_labels": LABELS[20:, None].astype(np.uint8),
    },
    "one-hot": {
        "train/inputs": PIXELS[:20, None],
        "train/targets": np.eye(3)[LABELS[:20]],
        "test/inputs": PIXELS[20:, None],
        "test/targets": np.eye(3)[LABELS[20:]],
    },
}


@pytest.mark.parametrize("names", NAMES)
def test_the_names_that_others_use_are_known(tmp_path, names):
    data = ImageArrays(saved(tmp_path / "digits.npz", **NAMES[names]), val_size=0)
    assert (data.name, data.num_classes, data.input_shape) == ("digits", 3, (1, 6, 5))
    assert torch.equal(data.split("train").images[:, 0], torch.from_numpy(PIXELS[:20]))
    assert data.split("test").labels.tolist() == LABELS[20:].tolist()


def test_arrays_without_parts_are_split_once_and_for_all(tmp_path):
    path = saved(tmp_path / "flat.npz", images=PIXELS, labels=LABELS, class_names=np.array(["a", "b", "c"]))
    data = load_data(str(path), arguments={"test_size": 6, "val_size": 4})
    sets = [data.split(part) for part in ("train", "val", "test")]
    assert [len(images) for images in sets] == [20, 4, 6]
    assert data.class_names == ("a", "b", "c")
    shown = {image.numpy().tobytes() for images in sets for image in images.images}
    assert shown == {image.tobytes() for image in PIXELS}
    again = ImageArrays(path, test_size=6, val_size=4)
    assert [again.split(part).sha256 for part in ("train", "val", "test")] == [images.sha256 for images in sets]


def test_tensors_and_floats_are_taken_as_they_are(tmp_path):
    floats = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    arrays = {"x_test": floats, "y_test": torch.arange(12) % 2, "val_x": floats, "val_y": torch.arange(12) % 2}
    save_file({name: tensor.clone() for name, tensor in arrays.items()}, tmp_path / "colours.safetensors")
    data = load_data(str(tmp_path / "colours.safetensors"))
    assert torch.equal(data.split("test").inputs(), floats)
    with pytest.raises(InputError, match="expected train images in"):
        data.split("train")


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((4, 7, 8), None, (4, 1, 7, 8)),
        ((4, 7, 8, 3), None, (4, 3, 7, 8)),
        ((4, 3, 7, 8), None, (4, 3, 7, 8)),
        ((4, 3, 7, 3), "channels_last", (4, 3, 3, 7)),
        ((4, 3, 7, 3), "channels_first", (4, 3, 7, 3)),
        ((4, 5, 7, 8), "channels_first", (4, 5, 7, 8)),
    ],
)
def test_where_the_channels_are(shape, layout, expected):
    images = np.arange(np.prod(shape)).reshape(shape) % 256
    found = image_set(images, np.zeros(4, dtype=int), layout=layout).images
    assert tuple(found.shape) == expected
    last = layout == "channels_last" or (layout is None and shape[-1] == 3)
    turned = images.transpose(0, 3, 1, 2) if last else images.reshape(expected)
    assert np.array_equal(found.numpy(), turned)


ZEROS = np.zeros((2, 5, 6))
UNUSABLE = [
    (np.zeros((2, 3, 6, 3)), [0, 1], "channels either first or last"),
    (np.zeros((2, 5, 6, 7)), [0, 1], "channels either first or last"),
    (np.zeros(4), [0, 1], "expected images"),
    (ZEROS + 1.5, [0, 1], r"float images in \[0, 1\], got values from 1.5"),
    (ZEROS * np.nan, [0, 1], r"float images in \[0, 1\]"),
    (np.full((2, 5, 6), 256), [0, 1], "from 0 to 255"),
    (np.full((2, 5, 6), -1), [0, 1], "from 0 to 255"),
    (ZEROS.astype(complex), [0, 1], "real numbers"),
    ([[[1, 2]], [[1]]], [0, 1], "array of numbers"),
    (np.array([None, {}]), [0, 1], "array of numbers"),
    (ZEROS, [0, 1, 2], r"labels as int64 of shape \(2,\)"),
    (ZEROS, [0.5, 1], "class numbers"),
    (ZEROS, [0, np.nan], "class numbers"),
    (ZEROS, [[1, 1], [0, 1]], "one-hot"),
    (ZEROS, [[0.4, 0.6], [0.5, 0.5]], "one-hot"),
    (ZEROS[:0], [], "at least one image"),
]


@pytest.mark.parametrize(("images", "labels", "message"), UNUSABLE)
def test_unusable_arrays_are_refused_in_one_line(images, labels, message):
    with pytest.raises(InputError, match=message) as refused:
        image_set(images, labels)
    assert "\n" not in str(refused.value)


class Evil:
    def __reduce__(self):
        return (eval, ("open('was_run', 'w')",))


def pickled(path, monkeypatch):
    np.savez(path, x=np.array([Evil()], dtype=object), y=LABELS)


def truncated(path, monkeypatch):
    saved(path, x=PIXELS, y=LABELS)
    path.write_bytes(path.read_bytes()[:-40])


def damaged(path, monkeypatch):
    content = bytearray(saved(path, x=PIXELS, y=LABELS).read_bytes())
    content[400] ^= 0xFF
    path.write_bytes(content)


def huge(path, monkeypatch):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**50, 2, 2)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())


def lone(path, monkeypatch):
    np.save(path.with_suffix(".npy"), PIXELS)
    path.with_suffix(".npy").rename(path)


FILES = {
    "pickled": (pickled, "claims to be object"),
    "truncated": (truncated, "expected named arrays in"),
    "damaged": (damaged, "expected named arrays in"),
    "huge": (huge, "expected named arrays in"),
    "text": (lambda path, _: path.write_text("images"), "expected named arrays in"),
    "a pickle": (lambda path, _: path.write_bytes(pickle.dumps(Evil())), "expected named arrays in"),
    "empty": (lambda path, _: path.touch(), "expected named arrays in"),
    "one array": (lone, "not a zip file"),
    "nothing": (lambda path, _: saved(path), "got none in"),
    "no labels": (lambda path, _: saved(path, x_train=PIXELS), "got x_train in"),
    "two of a kind": (lambda path, _: saved(path, x=PIXELS, images=PIXELS, y=LABELS), "one array of images a part"),
    "lengths": (lambda path, _: saved(path, x=PIXELS, y=LABELS[:3]), "in x and y of"),
    "one class": (lambda path, _: saved(path, x_test=PIXELS, y_test=LABELS * 0), "at least two classes"),
    "shapes": (
        lambda path, _: saved(path, x_train=PIXELS, y_train=LABELS, x_test=PIXELS[:, 1:], y_test=LABELS),
        "images of one shape",
    ),
    "names": (lambda path, _: saved(path, x=PIXELS, y=LABELS, classes=LABELS), "list of strings"),
}


@pytest.mark.parametrize("name", FILES)
def test_unusable_files_are_refused_in_one_line(tmp_path, monkeypatch, name):
    write, message = FILES[name]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "arrays.npz", monkeypatch)
    with pytest.raises(InputError, match=message) as refused:
        ImageArrays(tmp_path / "arrays.npz").split("test")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "was_run").exists()


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "arrays.npy").touch()
    for name in ("arrays.npy", "nowhere.npz"):
        with pytest.raises(InputError, match="expected a file of arrays"):
            read_arrays(tmp_path / name)


def test_images_in_memory_are_a_data_module():
    images = ImageSet(torch.from_numpy(PIXELS).unsqueeze(1), torch.from_numpy(LABELS))
    data = ImageTensors(images, test=images.subset(torch.arange(9)), val_size=3, class_names=["a", "b", "c"])
    assert [len(data.split(part)) for part in ("train", "val", "test")] == [27, 3, 9]
    assert (data.num_classes, data.input_shape) == (3, (1, 6, 5))
    with pytest.raises(InputError, match="labels from 0 to 1"):
        ImageTensors(images, class_names=["a", "b"]).split("train")
    with pytest.raises(InputError, match="test_size"):
        ImageTensors(images, test_size=30)
