import pytest
import torch

from lipcert.data import Augmentation, RandomCrop, RandomHorizontalFlip
from lipcert.errors import InputError


def generator():
    return torch.Generator().manual_seed(5)


def flip_one_by_one(inputs, p):
    chosen = torch.rand(len(inputs), generator=generator()) < p
    out = inputs.clone()
    for n in chosen.nonzero().flatten().tolist():
        for column in range(inputs.shape[3]):
            out[n, :, :, column] = inputs[n, :, :, inputs.shape[3] - 1 - column]
    return out


def crop_one_by_one(inputs, padding):
    top, left = torch.randint(2 * padding + 1, (2, len(inputs)), generator=generator()).tolist()
    out = torch.zeros_like(inputs)
    _, _, height, width = inputs.shape
    for n in range(len(inputs)):
        for row in range(height):
            for column in range(width):
                source_row, source_column = row + top[n] - padding, column + left[n] - padding
                if 0 <= source_row < height and 0 <= source_column < width:
                    out[n, :, row, column] = inputs[n, :, source_row, source_column]
    return out


CASES = [
    pytest.param(RandomHorizontalFlip(), lambda inputs: flip_one_by_one(inputs, 0.5), id="flip"),
    pytest.param(RandomHorizontalFlip(p=0), lambda inputs: inputs, id="flip never"),
    pytest.param(RandomHorizontalFlip(p=1), lambda inputs: inputs.flip(-1), id="flip always"),
    pytest.param(RandomCrop(), lambda inputs: crop_one_by_one(inputs, 2), id="crop"),
    pytest.param(RandomCrop(padding=6), lambda inputs: crop_one_by_one(inputs, 6), id="crop beyond the image"),
    pytest.param(RandomCrop(padding=2, p=0), lambda inputs: inputs, id="crop never"),
]


@pytest.mark.parametrize(("augmentation", "reference"), CASES)
@pytest.mark.parametrize("shape", [(40, 1, 4, 5), (1, 3, 6, 3)])
def test_equals_the_slow_reference_and_leaves_its_input(augmentation, reference, shape):
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    before = inputs.clone()
    assert isinstance(augmentation, Augmentation)
    assert torch.equal(augmentation(inputs, generator()), reference(inputs))
    assert torch.equal(inputs, before)


def test_half_of_the_images_are_flipped():
    inputs = torch.tensor([0.0, 1.0]).expand(10_000, 1, 1, 2)
    flipped = RandomHorizontalFlip()(inputs, generator())[:, 0, 0, 0].mean()
    assert abs(flipped - 0.5) < 4 * 0.5 / 100  # four standard deviations of a mean of 10,000 coin tosses


def test_every_offset_occurs():
    inputs = torch.zeros(2000, 1, 5, 5)
    inputs[:, :, 2, 2] = 1
    shifts = RandomCrop(padding=2)(inputs, generator()).sum(0)[0]
    assert (shifts > 0).all()
    assert shifts.sum() == 2000


def test_cropped_images_have_the_offsets_that_they_would_have_without_a_probability():
    inputs = torch.rand(4000, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    always, rarely = (RandomCrop(padding=2, p=p)(inputs, generator()) for p in (1.0, 0.25))
    kept = (rarely == inputs).flatten(1).all(1)
    assert torch.equal(rarely[~kept], always[~kept])
    expected = 0.25 * 24 / 25  # one offset in 25 leaves an image as it is
    assert abs((~kept).double().mean() - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5


@pytest.mark.parametrize(
    "make", [lambda: RandomHorizontalFlip(p=1.5), lambda: RandomCrop(padding=0), lambda: RandomCrop(p=-1)]
)
def test_parameters_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()
