"""Which pixels views retain, which of them see a patch, and that an encoding tells nothing else."""

import itertools

import pytest
import torch
from votings import SMALL, affected_by_pixels, name_of, patches

from lipcert import InputError
from lipcert.certificates import (
    BlockAblation,
    ColumnAblation,
    ColumnAndRowAblation,
    RowAblation,
    encoded_channels,
    encoded_views,
)


def test_columns_rows_and_blocks_retain_what_they_say():
    columns = ColumnAblation(2, stride=2).masks(2, 5)
    assert columns.int().tolist() == [[row] * 2 for row in ([1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [1, 0, 0, 0, 1])]
    unwrapped = ColumnAblation(2, stride=2, wrap=False).masks(2, 5)
    assert unwrapped.int().tolist() == [[row] * 2 for row in ([1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1])]
    assert torch.equal(RowAblation(2, stride=2).masks(5, 2), columns.transpose(1, 2))
    assert torch.equal(
        ColumnAndRowAblation((3, 2)).masks(4, 5),
        torch.cat([ColumnAblation(2).masks(4, 5), RowAblation(3).masks(4, 5)]),
    )
    rows, columns = RowAblation(3, stride=2).masks(4, 5), ColumnAblation(2).masks(4, 5)
    blocks = BlockAblation((3, 2), stride=(2, 1)).masks(4, 5)
    assert torch.equal(blocks, (rows[:, None] & columns).flatten(0, 1))


@pytest.mark.parametrize(("ablation", "image_size"), SMALL, ids=name_of)
def test_affected_views_are_those_that_retain_a_pixel_of_the_patch(ablation, image_size):
    for patch in patches(image_size):
        affected = ablation.affected(*image_size, patch)
        assert [row.nonzero().flatten().tolist() for row in affected] == affected_by_pixels(ablation, image_size, patch)


@pytest.mark.parametrize("kind", [ColumnAblation, RowAblation, BlockAblation, ColumnAndRowAblation])
def test_affected_views_for_all_sizes_strides_and_edges_of_one_image(kind):
    for size, stride, wrap in itertools.product(range(1, 6), range(1, 7), (True, False)):
        ablation, patch = kind(size, stride, wrap), (2, 3)
        affected = ablation.affected(5, 7, patch)
        assert [row.nonzero().flatten().tolist() for row in affected] == affected_by_pixels(ablation, (5, 7), patch)


@pytest.mark.parametrize(
    ("patch", "size", "stride", "formula", "true"),
    [(32, 19, 10, 5, 6), (39, 19, 10, 6, 7), (32, 37, 10, 7, 8), (32, 19, 5, 10, 11), (32, 19, 7, 8, 8)],
)
def test_affected_columns_are_counted_where_the_stride_does_not_divide_the_width(patch, size, stride, formula, true):
    assert -(-(patch + size - 1) // stride) == formula
    assert ColumnAblation(size, stride).affected(1, 224, (1, patch)).sum(1).max() == true


def test_rows_are_counted_by_the_height():
    ablation = RowAblation(2)
    assert len(ablation.windows(5, 9)) == 5
    assert (ablation.masks(5, 9).sum((1, 2)) == 2 * 9).all()
    assert (ablation.affected(5, 9, 2).sum(1) == 2 + 2 - 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColumnAblation(0), r"expected size >= 1, got 0"),
        (lambda: BlockAblation((2, 0)), r"expected size >= 1, got \(2, 0\)"),
        (lambda: RowAblation(2, stride=0), r"expected stride >= 1, got 0"),
        (lambda: ColumnAblation(10).masks(12, 9), r"expected at most 9 columns to be retained in such images, got 10"),
        (lambda: BlockAblation((5, 2)).masks(4, 9), r"expected at most 4 rows to be retained in such images, got 5"),
        (lambda: ColumnAblation(2).affected(4, 9, 5), r"expected a patch within images of 4 x 9, got 5 x 5"),
        (lambda: ColumnAblation(2).affected(4, 9, (2, 0)), r"expected a patch within images of 4 x 9, got 2 x 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def images(count=3, seed=0):
    return torch.rand(count, 2, 3, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("encoding", ["null", "doubled", "mask"])
def test_views_tell_the_retained_pixels_and_nothing_else(encoding):
    masks = BlockAblation(2).masks(3, 4)
    inputs, others = images(), images(seed=1)
    others[0, 0, 0, 0] = torch.nan
    mixed = torch.where(masks[:, None, None], inputs, others)  # (V, N, C, H, W): all that is not retained differs
    views = encoded_views(inputs, masks, encoding=encoding)
    assert views.shape == (3, len(masks), encoded_channels(2, encoding), 3, 4)
    for number, mask in enumerate(masks):
        assert torch.equal(encoded_views(mixed[number], mask[None], encoding=encoding)[:, 0], views[:, number])
        assert torch.equal(views[:, number, :2, mask], inputs[:, :, mask])
    if encoding == "doubled":
        assert torch.equal(views.unflatten(2, (2, 2)).sum(2) > 0, masks[:, None].expand(3, -1, 2, -1, -1))
    if encoding == "mask":
        assert torch.equal(views[:, :, 2] == 1, masks.expand(3, -1, -1, -1))


def test_views_of_each_image():
    inputs, masks = images(), ColumnAblation(1).masks(3, 4)
    chosen = torch.tensor([[0, 3], [2, 1], [1, 1]])
    all_views = encoded_views(inputs, masks)
    assert torch.equal(encoded_views(inputs, masks[chosen]), all_views[torch.arange(3)[:, None], chosen])


def test_the_null_value():
    views = encoded_views(images(), ColumnAblation(1).masks(3, 4), encoding="null", null=0.5)
    assert ((views == 0.5).sum(-1) == 3).all()


@pytest.mark.parametrize(
    ("inputs", "masks", "encoding", "message"),
    [
        (images(), torch.ones(2, 3, 4, dtype=torch.bool), "zero", "expected an encoding among null, doubled, mask"),
        (images(), torch.ones(2, 4, 3, dtype=torch.bool), "null", r"expected masks \(V, H, W\)"),
        (images(), torch.ones(2, 3, 4), "null", "of type bool for images"),
        (images(), torch.ones(2, 2, 3, 4, dtype=torch.bool), "null", r"got \(2, 2, 3, 4\) torch.bool"),
        (images()[0], torch.ones(2, 3, 4, dtype=torch.bool), "null", r"for \(2, 3, 4\)"),
    ],
)
def test_bad_masks(inputs, masks, encoding, message):
    with pytest.raises(InputError, match=message):
        encoded_views(inputs, masks, encoding=encoding)
