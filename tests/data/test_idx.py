import gzip
import hashlib
import struct

import pytest
import torch

from lipcert.data.idx import read_idx
from lipcert.errors import InputError


def idx(shape, payload, *, magic=None):
    magic = bytes([0, 0, 8, len(shape)]) if magic is None else magic
    return magic + struct.pack(f">{len(shape)}I", *shape) + payload


IMAGES = idx((2, 3, 4), bytes(range(24)))


def write(folder, content, *, compressed=True):
    path = folder / ("images-idx3-ubyte" + (".gz" if compressed else ""))
    path.write_bytes(gzip.compress(content) if compressed else content)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_values_and_shape_are_those_written(tmp_path, compressed):
    values = read_idx(write(tmp_path, IMAGES, compressed=compressed), dimensions=3)
    assert torch.equal(values, torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(IMAGES[:-1], "got 23 in the truncated|only 39 bytes", id="truncated"),
        pytest.param(IMAGES + b"x", "trailing bytes", id="trailing"),
        pytest.param(IMAGES[:9], "truncated header", id="half a header"),
        pytest.param(b"", "expected IDX magic number", id="empty"),
        pytest.param(idx((2, 3, 4), bytes(24), magic=b"\0\0\x0d\x03"), "0x00000d03", id="floats"),
        pytest.param(idx((24,), bytes(24)), "0x00000801", id="labels instead of images"),
        pytest.param(idx((0, 3, 4), b""), "at least one item", id="no image"),
        pytest.param(idx((2**32 - 1,) * 3, bytes(24)), r"got a file of only \d+ bytes", id="claims 2**96 bytes"),
    ],
)
def test_damage_is_named_with_the_file(tmp_path, content, message, compressed):
    path = write(tmp_path, content, compressed=compressed)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path, dimensions=3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [5, 20, -9, -1])
def test_a_truncated_gzip_file_is_refused(tmp_path, kept):
    path = write(tmp_path, idx((2000, 3, 4), torch.randint(256, (24000,)).to(torch.uint8).numpy().tobytes()))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"truncated or damaged|gzip"):
        read_idx(path, dimensions=3)


def test_a_flipped_bit_in_a_gzip_file_is_refused(tmp_path):
    path = write(tmp_path, idx((2000, 3, 4), torch.randint(256, (24000,)).to(torch.uint8).numpy().tobytes()))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)):
        read_idx(path, dimensions=3)


def test_a_plain_file_named_gz_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(IMAGES)
    with pytest.raises(InputError, match="expected a gzip file"):
        read_idx(path, dimensions=3)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"found nothing at .*missing"):
        read_idx(tmp_path / "missing", dimensions=1)


def test_a_gzip_bomb_is_not_expanded(tmp_path, monkeypatch):
    path = write(tmp_path, idx((2, 3, 4), bytes(50_000_000)))
    expanded = []
    read = gzip.GzipFile.read

    def counted(self, size=-1):
        chunk = read(self, size)
        expanded.append(len(chunk))
        return chunk

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(InputError, match="trailing bytes"):
        read_idx(path, dimensions=3)
    assert sum(expanded) == 16 + 24 + 1


def test_the_checksum_is_of_the_uncompressed_content(tmp_path):
    good = hashlib.sha256(IMAGES).hexdigest()
    assert read_idx(write(tmp_path, IMAGES), dimensions=3, sha256=good).shape == (2, 3, 4)
    changed = hashlib.sha256(IMAGES[:-1] + b"x").hexdigest()
    path = write(tmp_path, IMAGES[:-1] + b"x")
    with pytest.raises(InputError, match=f"{good}, got {changed} in {path}"):
        read_idx(path, dimensions=3, sha256=good)
