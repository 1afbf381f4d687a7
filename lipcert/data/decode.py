"""PNG and JPEG files as one tensor of bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from lipcert.data.deflate import DEFLATE_LIMIT
from lipcert.data.file_tree import FileTree
from lipcert.errors import InputError
from lipcert.logs import is_quiet

_LARGEST_IMAGE = 1 << 26  # pixels; a small file can claim to be huge
_MOST_PIXELS_A_BYTE = 8 * DEFLATE_LIMIT  # of a PNG with a bit a pixel; a JPEG takes at least a bit for 64
_CHUNK = 64  # images a task: threads that take turns at single small images wait more than they work


def decode_image(
    content: bytes, name: str, *, size: tuple[int, int] | None = None, grayscale: bool = False
) -> NDArray[np.uint8]:
    """Decode one file.

    Args:
        content: the file's bytes.
        name: the file's name, for messages.
        size: height and width; the image is scaled to cover them, with antialiasing, and cropped around its centre.
            None keeps the image's own.
        grayscale: one channel instead of three.

    Returns:
        ``(C, H, W)`` uint8, C = 1 or 3; transparency is dropped.

    Raises:
        InputError: no image, damaged, not of 8 bits a channel, or too large to be decoded safely.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MOST_PIXELS_A_BYTE * len(content):
                claimed = f"{image.width} x {image.height} pixels in {len(content)} bytes"
                raise InputError(f"expected an image that its file can hold, got {claimed} of {name}")
            return pixels_of(image, name, size=size, grayscale=grayscale)
    except InputError:
        raise
    except Exception as error:  # what a damaged file makes a decoder raise is not limited to a few types
        raise InputError(f"expected a PNG or JPEG image, got {name}: {' '.join(str(error).split())}") from None


def pixels_of(
    image: Image.Image, name: str, *, size: tuple[int, int] | None = None, grayscale: bool = False
) -> NDArray[np.uint8]:
    """Return the pixels ``(C, H, W)`` of an image that Pillow has opened; arguments as for :func:`decode_image`.

    Raises:
        InputError: not of 8 bits a channel, or too large to be decoded safely.
    """
    if image.width * image.height > _LARGEST_IMAGE:
        raise InputError(f"expected at most {_LARGEST_IMAGE} pixels, got {image.width} x {image.height} in {name}")
    if image.mode.startswith(("I", "F")):
        raise InputError(f"expected an image of 8 bits a channel, got mode {image.mode} in {name}")
    decoded = image.convert("L" if grayscale else "RGB")
    if size is not None:
        decoded = ImageOps.fit(decoded, (size[1], size[0]), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(decoded)
    return pixels[None] if grayscale else pixels.transpose(2, 0, 1)


def decode_all(
    tree: FileTree, names: Sequence[str], *, size: tuple[int, int] | None = None, grayscale: bool = False
) -> Tensor:
    """Decode many files of one size, with threads and, if it takes a while, a progress bar.

    Args:
        tree: where the files are.
        names: their N names.
        size: see :func:`decode_image`.
        grayscale: see :func:`decode_image`.

    Returns:
        ``(N, C, H, W)`` uint8, in the order of ``names``.

    Raises:
        InputError: a file cannot be used, or has another size than the first; the message names the first such file.
    """
    first = decode_image(tree.read(names[0]), names[0], size=size, grayscale=grayscale)
    images = np.empty((len(names), *first.shape), dtype=np.uint8)

    def fill(start: int) -> int:
        chunk = names[start : start + _CHUNK]
        for position, name in enumerate(chunk, start):
            image = decode_image(tree.read(name), name, size=size, grayscale=grayscale)
            if image.shape != first.shape:
                expected = f"expected all images to be {first.shape[2]} x {first.shape[1]} pixels like {names[0]}"
                found = f"{image.shape[2]} x {image.shape[1]} in {name}"
                raise InputError(f"{expected}, got {found}; pass image_size to resize")
            images[position] = image
        return len(chunk)

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        # delay and disable: silent unless it takes a while and a person is watching
        tqdm(
            total=len(names), desc=f"decoding {tree.path.name}", unit="image", delay=1, disable=is_quiet() or None
        ) as bar,
    ):
        try:
            for done in pool.map(fill, range(0, len(names), _CHUNK)):
                bar.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return torch.from_numpy(images)
