import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lipcert.data import data_of_columns, image_set_of_columns
from lipcert.errors import InputError

PIXELS = np.random.default_rng(0).integers(256, size=(6, 5, 4, 3), dtype=np.uint8)


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {
    "pillow": Image.fromarray,
    "bytes": encoded,
    "undecoded": lambda pixels: {"bytes": encoded(pixels), "path": None},
    "arrays": lambda pixels: pixels,
    "lists": lambda pixels: pixels.tolist(),
    "tensors": lambda pixels: torch.from_numpy(pixels.copy()),
}


class Rows(list):
    """What ``datasets.Dataset`` is to whoever iterates over it."""

    features = {"label": SimpleNamespace(names=["ant", "bee", "cat"])}  # noqa: RUF012


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label"), ("x", "y")])
def test_rows_of_images_and_labels(kind, image, label):
    rows = [{image: IMAGES[kind](pixels), label: number % 3, "id": 7} for number, pixels in enumerate(PIXELS)]
    columns = {"image": "x", "label": "y"} if image == "x" else {}
    layout = {"layout": "channels_last"} if kind in ("arrays", "lists", "tensors") else {}
    found = image_set_of_columns(rows, **columns, **layout)
    assert np.array_equal(found.images.numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_grey_images_have_one_channel_unless_told_otherwise():
    rows = [{"image": Image.fromarray(pixels[..., 0]), "label": 0} for pixels in PIXELS]
    assert np.array_equal(image_set_of_columns(rows).images[:, 0].numpy(), PIXELS[..., 0])
    assert image_set_of_columns(rows, grayscale=False).images.shape == (6, 3, 5, 4)
    assert image_set_of_columns(rows, image_size=(8, 9)).images.shape == (6, 1, 8, 9)


def test_splits_are_a_data_module():
    rows = Rows({"image": Image.fromarray(pixels), "label": number % 2} for number, pixels in enumerate(PIXELS))
    data = data_of_columns({"train": rows, "validation": rows, "test": rows, "unsupervised": []}, name="animals")
    assert [len(data.split(part)) for part in ("train", "val", "test")] == [6, 6, 6]
    assert (data.name, data.class_names) == ("animals", ("ant", "bee", "cat"))
    alone = data_of_columns(list(rows), test_size=2, val_size=0, class_names=["a", "b"])
    assert [len(alone.split(part)) for part in ("train", "test")] == [4, 2]
    assert alone.class_names == ("a", "b")


GOOD = {"image": Image.fromarray(PIXELS[0]), "label": 0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row"),
        (5, "yields rows, got int"),
        ([(1, 2)], "mappings of columns, got tuple"),
        ([{"label": 0}], "a column among image, img"),
        ([{"image": GOOD["image"]}], "a column among label"),
        ([GOOD, {"image": Image.new("RGB", (3, 3)), "label": 0}], r"in row 1; pass image_size"),
        ([{"image": b"no image", "label": 0}], "row 0"),
        ([{"image": "path.png", "label": 0}], "an image in row 0 as an array"),
        ([{"image": Image.new("F", (3, 3)), "label": 0}], "8 bits a channel"),
        ([{**GOOD, "label": "cat"}], "labels as an array of numbers"),
    ],
)
def test_unusable_rows_are_refused_in_one_line(rows, message):
    with pytest.raises(InputError, match=message) as refused:
        image_set_of_columns(rows)
    assert "\n" not in str(refused.value)


def test_splits_without_training_images_are_refused():
    with pytest.raises(InputError, match="expected a split train, and validation and test if there are, got test"):
        data_of_columns({"test": [GOOD]})
