import hashlib
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

from lipcert.data import CIFAR10, cifar10
from lipcert.data.safe_pickle import load_byte_arrays
from lipcert.errors import InputError

ROWS = 6
IMAGES = np.random.default_rng(0).integers(256, size=(6, ROWS, 3072), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(10, size=(6, ROWS)).tolist()


def python_2_pickle(images, labels):
    """The very instructions that Python 2 with its numpy wrote for such a batch."""
    raw = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        + (b"(K\x01(K" + bytes([len(images)]) + b"M" + struct.pack("<H", 3072) + b"t")
        + b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + (b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb")
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"U\x0bbatch_labelU\x01xu."


def python_3_pickle(images, labels):
    return pickle.dumps({b"data": images, b"labels": labels})


def binary(images, labels):
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


FORMATS = {
    "bin": (cifar10.BINARY, binary),
    "py2": (cifar10.PICKLED, python_2_pickle),
    "py3": (cifar10.PICKLED, python_3_pickle),
}
ARCHIVES = {"bin": cifar10.BINARY_ARCHIVE, "py2": cifar10.PICKLED_ARCHIVE, "py3": cifar10.PICKLED_ARCHIVE}


def tar(folder, name, members):
    with tarfile.open(folder / name, "w:gz") as archive:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a small CIFAR-10 in one of its formats, whose checksums then count as the official ones."""

    def write_as(kind, archive, changes=()):
        names, encode = FORMATS[kind]
        contents = {name: encode(*batch) for name, *batch in zip(names, IMAGES, LABELS, strict=True)} | dict(changes)
        if archive:
            tar(tmp_path, ARCHIVES[kind], contents)
        else:
            for name, content in contents.items():
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_bytes(content)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        checksums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}
        monkeypatch.setattr(cifar10, "MD5", {cifar10.BINARY_ARCHIVE: "0" * 32} | checksums)
        monkeypatch.setattr(cifar10, "ROWS", ROWS)
        return tmp_path

    return write_as


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_holds_the_same_images(write, kind, archive):
    data = CIFAR10(root=write(kind, archive), val_size=0)
    data.prepare_data()
    train, test = data.split("train"), data.split("test")
    assert torch.equal(train.images, torch.from_numpy(IMAGES[:5].reshape(-1, 3, 32, 32)))
    assert torch.equal(test.images, torch.from_numpy(IMAGES[5].reshape(-1, 3, 32, 32)))
    assert (train.labels.reshape(5, ROWS).tolist(), test.labels.tolist()) == (LABELS[:5], LABELS[5])
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), 10)


@pytest.mark.parametrize(("kind", "archive"), [("bin", True), ("py2", True), ("py2", False)])
def test_another_checksum_is_refused_before_reading(write, monkeypatch, kind, archive):
    folder = write(kind, archive)
    monkeypatch.setattr(cifar10, "MD5", dict.fromkeys(cifar10.MD5, "f" * 32))
    monkeypatch.setattr(cifar10, "load_byte_arrays", None)
    with pytest.raises(InputError, match=f"expected content with md5 f+, got [0-9a-f]+ in {folder}"):
        CIFAR10(root=folder).split("train")


@pytest.mark.parametrize(
    ("kind", "archive", "content", "message"),
    [
        ("bin", False, binary(IMAGES[0], LABELS[0])[:-1], "expected 18438 bytes, got 18437"),
        ("bin", True, binary(IMAGES[0], LABELS[0]) + b"x", "expected 18438 bytes, got 18439"),
        ("bin", False, binary(IMAGES[0], [10] * ROWS), "labels from 0 to 9"),
        ("py2", False, python_2_pickle(IMAGES[0], LABELS[0])[:-50], "expected a pickled batch"),
        ("py2", True, python_2_pickle(IMAGES[0][1:], LABELS[0][1:]), r"shape \(6, 3072\)"),
        ("py3", False, python_3_pickle(IMAGES[0], LABELS[0][1:]), "6 whole numbers"),
        ("py3", False, python_3_pickle(IMAGES[0], [*LABELS[0][1:], "1"]), "6 whole numbers"),
        ("py3", False, python_3_pickle(IMAGES[0].astype(np.int32), LABELS[0]), "not of unsigned bytes"),
        ("py3", False, pickle.dumps([1]), "holds a list instead of a dictionary"),
    ],
)
def test_unusable_batches_are_refused_by_name(write, kind, archive, content, message):
    name = FORMATS[kind][0][2]
    folder = write(kind, archive, {name: content})
    with pytest.raises(InputError, match=message) as caught:
        CIFAR10(root=folder, val_size=0).split("train")
    assert "labels from" in message or name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_is_not_extracted_and_links_are_not_followed(write, tmp_path, monkeypatch):
    folder = write("bin", True)
    secret = tmp_path / "secret"
    secret.write_bytes(binary(IMAGES[5], LABELS[5]))
    with tarfile.open(folder / cifar10.BINARY_ARCHIVE, "w:gz") as archive:
        for name in cifar10.BINARY:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(secret)
            archive.addfile(link)
        archive.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    md5 = hashlib.md5((folder / cifar10.BINARY_ARCHIVE).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "MD5", {cifar10.BINARY_ARCHIVE: md5})
    with pytest.raises(InputError, match="expected"):
        CIFAR10(root=folder).split("test")
    assert not (folder.parent / "escaped").exists()


def test_a_jpeg_copy_is_pointed_out(tmp_path):
    (tmp_path / "cifar10-jpeg.zip").touch()
    with pytest.raises(InputError, match=rf"ImageFolder\(path={tmp_path}/cifar10-jpeg.zip\)"):
        CIFAR10(root=tmp_path).split("test")


class Attack:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def malicious(target):
    """Pickles that would create the file ``target``, or change something, if they were run."""
    command = f"touch {target}"
    return {
        "os.system": pickle.dumps(Attack(os.system, command)),
        "inside the dictionary": pickle.dumps({b"data": IMAGES[0], b"labels": [Attack(os.system, command)]}),
        "nested": pickle.dumps(Attack(list, Attack(map, os.system, [command]))),
        "attribute": b"cbuiltins\ngetattr\n(cos\nS'__dict__'\ntR.",
        "eval": pickle.dumps(Attack(eval, f"open({str(target)!r}, 'w')")),
        "open": pickle.dumps(Attack(open, str(target), "w")),
        "old protocol": f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        "instance": f"(S'{command}'\nios\nsystem\n.".encode(),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        "another function of numpy": b"cnumpy\nload\n(S'x'\ntR.",
        "submodule of numpy": b"cnumpy.core.multiarray\nfrombuffer\n(S'x'\ntR.",
        "the class itself": b"cnumpy\nndarray\n(I1000000000\ntR.",
        "change of a stand-in": b"(S'a'\ncnumpy.core.multiarray\n_reconstruct\n}S'x'\nI1\nsbd.",
        "attributes of a stand-in": b"(S'a'\ncnumpy\ndtype\n(N}S'_name'\nS'_reconstruct'\nstbd.",
        "persistent id": b"P1\n.",
        "extension": b"\x80\x02\x82\x01.",
        "incomplete array": b"}S'data'\ncnumpy.core.multiarray\n_reconstruct\n)Rs.",
        "empty": b"",
    }


@pytest.mark.parametrize("kind", malicious("x"))
def test_malicious_pickles_are_refused_without_effect(write, tmp_path, kind):
    target = tmp_path / "created"
    content = malicious(target)[kind]
    with pytest.raises(pickle.UnpicklingError):
        load_byte_arrays(content)
    folder = write("py2", False, {cifar10.PICKLED[5]: content})
    with pytest.raises(InputError, match="expected a pickled batch of CIFAR-10"):
        CIFAR10(root=folder).split("test")
    assert not target.exists()


@pytest.mark.parametrize("name", ["numpy load", "numpy.random _reconstruct", "builtins eval", "copyreg _reconstructor"])
def test_no_other_name_is_looked_up(name):
    module, _, attribute = name.partition(" ")
    with pytest.raises(pickle.UnpicklingError, match=f"asks for {module}.{attribute}"):
        load_byte_arrays(f"}}S'a'\nc{module}\n{attribute}\ns.".encode())


def test_the_attacks_above_would_work_on_the_standard_unpickler(tmp_path):
    for kind in ("os.system", "inside the dictionary", "nested", "open", "old protocol"):
        target = tmp_path / kind.replace(" ", "_")
        loaded = pickle.loads(malicious(target)[kind], encoding="bytes")
        assert target.exists()
        if kind == "open":
            loaded.close()


def test_arrays_in_column_order_are_read_as_such():
    array = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert (load_byte_arrays(pickle.dumps({"a": array}))["a"] == array).all()
