import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lipcert.data import ImageFolder
from lipcert.data.decode import decode_image
from lipcert.errors import InputError


def pixels(seed, size=(4, 5)):
    return np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)


def encode(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


SPLIT = {
    f"{part}/{label}/{n}.png": encode(pixels(1000 * p + 100 * c + n))
    for p, part in enumerate(("train", "test"))
    for c, label in enumerate(("zebra", "ant", "Cat"))
    for n in range(4)
}
FLAT = {f"{label}/{n:02}.png": encode(pixels(100 * c + n)) for c, label in enumerate(("ant", "cat")) for n in range(20)}


def write(tmp_path, files, kind):
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return tmp_path / "pets.zip"
    for name, content in files.items():
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "pets"


both = pytest.mark.parametrize("kind", ["folder", "zip"])


@both
def test_values_labels_and_order_of_classes(tmp_path, kind):
    data = ImageFolder(write(tmp_path, SPLIT, kind), val_size=0)
    assert (data.name, data.class_names, data.num_classes) == ("pets", ("Cat", "ant", "zebra"), 3)
    assert data.input_shape == (3, 4, 5)
    train = data.split("train")
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(train.images[9], torch.from_numpy(pixels(1).transpose(2, 0, 1)))  # zebra, second file
    assert sorted(data.split("test").labels.tolist()) == train.labels.tolist()


@both
def test_the_first_test_images_are_of_all_classes_and_files_are_named(tmp_path, kind):
    many = {f"test/{label}/{n:02}.png": encode(pixels(c)) for c, label in enumerate(("ant", "cat")) for n in range(30)}
    data = ImageFolder(
        write(tmp_path, many | {"train/ant/0.png": encode(pixels(2)), "train/cat/0.png": many["test/cat/00.png"]}, kind)
    )
    test = data.split("test")
    assert 3 <= int(test.labels[:10].sum()) <= 7
    assert sorted(data.test_files) == sorted(many)
    shown = {"ant": pixels(0), "cat": pixels(1)}
    for name, image, label in zip(data.test_files, test.images, test.labels.tolist(), strict=True):
        of_class = name.split("/")[1]
        assert label == ("ant", "cat").index(of_class)
        assert torch.equal(image, torch.from_numpy(shown[of_class].transpose(2, 0, 1)))
    again = ImageFolder(tmp_path / ("pets.zip" if kind == "zip" else "pets"), seed=7)
    assert again.test_files == data.test_files
    assert again.source("test").block(5, 25).labels.equal(test.labels[5:25])


@both
@pytest.mark.parametrize("wrapper", ["", "a folder around everything/"])
def test_clutter_is_passed_over(tmp_path, kind, wrapper):
    clutter = ("__MACOSX/train/ant/0.png", f"{wrapper}train/ant/.hidden.png", f"{wrapper}train/ant/notes.txt")
    files = {f"{wrapper}{name}": content for name, content in SPLIT.items()} | dict.fromkeys(clutter, b"no image")
    data = ImageFolder(write(tmp_path, files, kind), val_size=3)
    assert [len(data.split(which)) for which in ("train", "val", "test")] == [9, 3, 12]


@both
def test_a_val_folder_is_the_validation_split(tmp_path, kind):
    val = {f"val/{label}/0.png": encode(pixels(n)) for n, label in enumerate(("ant", "Cat", "zebra"))}
    data = ImageFolder(write(tmp_path, SPLIT | val, kind), val_size=0)
    assert [len(data.split(which)) for which in ("train", "val", "test")] == [12, 3, 12]
    ant = data.split("val").labels.tolist().index(1)
    assert torch.equal(data.split("val").images[ant], torch.from_numpy(pixels(0).transpose(2, 0, 1)))
    assert len(data.val_dataloader()) == 1


@both
@pytest.mark.parametrize(("sizes", "expected"), [({}, [29, 3, 8]), ({"test_size": 10, "val_size": 0.5}, [15, 15, 10])])
def test_a_flat_tree_is_split_the_same_way_every_time(tmp_path, kind, sizes, expected):
    data = ImageFolder(write(tmp_path, FLAT, kind), **sizes)
    splits = [data.split(which) for which in ("train", "val", "test")]
    assert [len(split) for split in splits] == expected
    images = [image.numpy().tobytes() for split in splits for image in split.images]
    seen = set(zip(images, torch.cat([split.labels for split in splits]).tolist(), strict=True))
    assert seen == {(pixels(100 * c + n).transpose(2, 0, 1).tobytes(), c) for c in range(2) for n in range(20)}
    torch.manual_seed(77)
    again = ImageFolder(tmp_path / ("pets.zip" if kind == "zip" else "pets"), seed=5, **sizes)
    assert [again.split(which).sha256 for which in ("train", "val", "test")] == [split.sha256 for split in splits]


def test_it_is_looked_up_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPCERT_DATA", str(tmp_path))
    write(tmp_path, SPLIT, "zip")
    assert len(ImageFolder("pets.zip").split("test")) == 12
    with pytest.raises(InputError, match=f"found none of missing.zip, {tmp_path}"):
        ImageFolder("missing.zip").split("test")


def test_grayscale(tmp_path):
    images = ImageFolder(write(tmp_path, SPLIT, "zip"), grayscale=True, val_size=0).split("train").images
    assert images.shape[1:] == (1, 4, 5)
    luma = pixels(1).astype(float) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(images[9, 0].numpy() - luma).max() <= 1  # rounding


@pytest.mark.parametrize(("image_size", "shape"), [(4, (3, 4, 4)), ((6, 3), (3, 6, 3))])
def test_resizing_lets_sizes_differ(tmp_path, image_size, shape):
    files = {name: encode(pixels(n, (8 + n, 12 - n % 3))) for n, name in enumerate(SPLIT)}
    data = ImageFolder(write(tmp_path, files, "zip"), image_size=image_size)
    assert data.input_shape == shape
    assert data.split("test").images.shape == (12, *shape)


def test_resizing_crops_around_the_centre():
    wide = pixels(0, (4, 12))
    whole = np.asarray(Image.fromarray(wide).resize((6, 2), Image.Resampling.BILINEAR))
    assert (decode_image(encode(wide), "wide.png", size=(2, 2)) == whole[:, 2:4].transpose(2, 0, 1)).all()
    assert (decode_image(encode(wide), "wide.png", size=(4, 4)) == wide[:, 4:8].transpose(2, 0, 1)).all()


def test_resizing_averages_over_all_pixels():
    checkerboard = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * 200
    small = decode_image(encode(checkerboard.astype(np.uint8)), "board.png", size=(4, 4))
    assert np.abs(small.astype(int) - 100).max() <= 1  # sampling without averaging would give 0 or 200


def test_transparent_palette_and_jpeg_images_are_read():
    rgba = np.dstack([pixels(1), np.full((4, 5), 255, np.uint8)])
    assert (decode_image(encode(rgba), "x.png") == pixels(1).transpose(2, 0, 1)).all()
    assert decode_image(encode(pixels(1)[:, :, 0]), "x.png").shape == (3, 4, 5)
    assert decode_image(encode(pixels(1), "JPEG"), "x.jpg").shape == (3, 4, 5)


def replaced(name, content):
    return SPLIT | {name: content}


def huge_png():
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


ODD = "test/ant/3.png"
UNUSABLE = [
    pytest.param(replaced(ODD, b"no image"), "got test/ant/3.png", id="no image"),
    pytest.param(replaced(ODD, b""), "got test/ant/3.png", id="empty file"),
    pytest.param(replaced(ODD, SPLIT[ODD][:-40]), "got test/ant/3.png", id="truncated image"),
    pytest.param(replaced(ODD, encode(pixels(0), "GIF")), "got test/ant/3.png", id="another format"),
    pytest.param(replaced(ODD, encode(np.zeros((4, 5), np.uint16))), "8 bits a channel, got mode I;16", id="16 bits"),
    pytest.param(replaced(ODD, encode(pixels(0, (4, 6)))), "5 x 4 .*got 6 x 4 in test/ant/3.png; pass", id="odd size"),
    pytest.param(replaced(ODD, huge_png()), "got 9000 x 9000 .*test/ant/3.png", id="huge"),
    pytest.param({n: c for n, c in SPLIT.items() if "test" not in n}, "no images in test", id="no test folder"),
    pytest.param({n: c for n, c in SPLIT.items() if "train" not in n}, "no images in train", id="no train folder"),
    pytest.param({n: c for n, c in SPLIT.items() if "test/ant" not in n}, "same classes .*got ant", id="class missing"),
    pytest.param({n: c for n, c in SPLIT.items() if "zebra" in n}, "at least two classes", id="one class"),
    pytest.param(replaced("valid/ant/1.png", b""), "got valid/ant/1.png", id="unknown part"),
    pytest.param(replaced("test/stray.png", b""), "got test/stray.png", id="no class folder"),
    pytest.param(FLAT | {"ant/deep/1.png": b""}, "got ant/deep/1.png", id="too deep"),
    pytest.param({"train/ant/readme.txt": b""}, "expected PNG or JPEG files", id="no images"),
]


@both
@pytest.mark.parametrize(("files", "message"), UNUSABLE)
def test_unusable_trees_are_refused_by_name(tmp_path, files, message, kind):
    with pytest.raises(InputError, match=message) as caught:
        ImageFolder(write(tmp_path, files, kind)).split("test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train/../../evil.png", "../train/ant/0.png", "/train/ant/0.png"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="expected names inside the archive"):
        ImageFolder(write(tmp_path, SPLIT | {name: b""}, "zip")).split("test")


def test_a_damaged_archive_is_refused(tmp_path):
    path = write(tmp_path, SPLIT, "zip")
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match="expected a folder or a zip archive"):
        ImageFolder(path).split("test")
    position = good.index(SPLIT[ODD]) + 60
    path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
    with pytest.raises(InputError, match=ODD):
        ImageFolder(path).split("test")


def test_a_file_that_claims_to_be_enormous_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lipcert.data.file_tree._LARGEST_FILE", 1000)
    with pytest.raises(InputError, match=r"below 1000 bytes, got 5000 in test/ant/3.png"):
        ImageFolder(write(tmp_path, replaced(ODD, bytes(5000)), "zip")).split("test")


@pytest.mark.parametrize(
    "options", [{"test_size": 0}, {"test_size": -1}, {"test_size": 1.5}, {"image_size": 0}, {"image_size": (4, 0)}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=r"expected (test|image)_size"):
        ImageFolder("pets.zip", **options)
