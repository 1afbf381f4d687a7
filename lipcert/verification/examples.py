"""The adversarial examples that a report keeps, looked at once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lipcert.errors import InputError
from lipcert.verification.document import Row
from lipcert.verification.finding import Errors, Finding
from lipcert.verification.views import WHITE, grey_levels

FILE = "adversarial.safetensors"


@dataclass(frozen=True)
class Example:
    """An image and what an attack made of it, both ``(C, H, W)`` float32."""

    image: Tensor
    adversarial: Tensor


class Examples:
    """Whether kept examples are near their images as the rows say, and of the classes that they say.

    Args:
        kept: examples by their samples.
        norm: of the distances, ``"patch"`` or ``"l1"``.
    """

    def __init__(self, kept: Mapping[int, Example], norm: str) -> None:
        self._kept = kept
        self._left = set(kept)
        self._distance = {"patch": patch_side, "l1": l1_distance}[norm]
        self._errors = Errors()

    def add(self, rows: Sequence[Row], inputs: Tensor, elect: Callable[[Tensor], list[set[int]]]) -> None:
        """Look at the examples of some rows.

        Args:
            rows: some.
            inputs: ``(N, C, H, W)``, their images.
            elect: returns the classes that the network may give to images.
        """
        for row, image in zip(rows, inputs, strict=True):
            if row.index in self._left:
                self._left.remove(row.index)
                self._errors.add(self._wrong(row, image, self._kept[row.index], elect))

    def finding(self) -> Finding:
        """Return what was found."""
        self._errors.add(f"{FILE} has sample {index}, which no row has" for index in sorted(self._left))
        count = len(self._kept)
        said = f"{count:,} kept adversarial examples are as near as the rows say, and elect what they say"
        return self._errors.finding("examples", said if count else "none are kept")

    def _wrong(
        self, row: Row, image: Tensor, example: Example, elect: Callable[[Tensor], list[set[int]]]
    ) -> Iterator[str]:
        where = f"the example of sample {row.index}"
        if not torch.equal(example.image, image):
            yield f"{where} is of another image than that of the data"
            return
        pixels = example.adversarial
        if pixels.shape != image.shape or not bool(((pixels >= 0) & (pixels <= 1)).all()):
            yield f"{where} is no image in [0, 1]"
            return
        try:
            distance = self._distance(image, pixels)
        except InputError:
            yield f"{where} is no image of 8 bits"
            return
        if distance != row.distance:
            yield f"{where} is {distance} away, its row says {row.distance}"
        [elected] = elect(pixels[None])
        if row.adversarial_prediction not in elected:
            became = " or ".join(map(str, sorted(elected)))
            yield f"{where} becomes {became}, its row says {row.adversarial_prediction}"


def read_examples(folder: Path) -> dict[int, Example]:
    """Read the adversarial examples beside a report; none where there is no such file.

    Raises:
        InputError: a file that no audit writes.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        tensors = load_file(path)
        found = zip(tensors["index"].tolist(), tensors["inputs"], tensors["adversarial"], strict=True)
        return {int(index): Example(image.float(), pixels.float()) for index, image, pixels in found}
    except Exception as error:  # what a damaged file makes a reader raise is not limited to a few types
        raise InputError(f"expected adversarial examples in {path}: {' '.join(str(error).split())}") from error


def patch_side(image: Tensor, changed: Tensor) -> float:
    """Return the side of the smallest square that holds all pixels in which two images ``(C, H, W)`` differ.

    Example:
        >>> changed = torch.zeros(3, 8, 8)
        >>> changed[0, 2, 1] = changed[2, 4, 2] = 1
        >>> patch_side(torch.zeros(3, 8, 8), changed)
        3.0
    """
    places = (image != changed).any(0).nonzero()
    if not len(places):
        return 0.0
    return float((places.amax(0) - places.amin(0)).max() + 1)


def l1_distance(image: Tensor, changed: Tensor) -> float:
    """Return the sum of all differences of two images of 8 bits, in units of pixels in [0, 1].

    Raises:
        InputError: one of them is none.

    Example:
        >>> l1_distance(torch.tensor([0.0, 1.0]), torch.tensor([51 / 255, 1.0]))
        0.2
    """
    return int((grey_levels(image) - grey_levels(changed)).abs().sum()) / WHITE
