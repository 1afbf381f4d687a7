import pytest
import torch

from lipcert.data import BatchLoader, ImageSet, RandomCrop, RandomHorizontalFlip
from lipcert.errors import InputError


def numbered(count):
    """Images of one byte each; labels are their positions."""
    images = torch.randint(256, (count, 1, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count))


def order(loader):
    return torch.cat([labels for _, labels in loader]).tolist()


def loader_of(images, **options):
    return BatchLoader(images, batch_size=4, shuffle=True, augment=[RandomCrop(), RandomHorizontalFlip()], **options)


def test_in_order_with_a_smaller_last_batch():
    images = numbered(10)
    batches = list(BatchLoader(images, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), images.images.float() / 255)
    assert order(BatchLoader(images, batch_size=4)) == list(range(10))
    inputs, labels = batches[0]
    assert (inputs.dtype, labels.dtype, len(BatchLoader(images, batch_size=4))) == (torch.float32, torch.int64, 3)


def test_inputs_belong_to_their_labels_when_shuffled():
    images = numbered(10)
    for inputs, labels in BatchLoader(images, batch_size=4, shuffle=True, seed=3):
        assert torch.equal(inputs, images.images[labels].float() / 255)


def test_order_depends_on_seed_and_epoch_only():
    images = numbered(50)
    loader = loader_of(images, seed=1)
    first = order(loader)
    torch.manual_seed(99)
    assert order(loader) == first
    assert order(loader_of(images, seed=2)) != first
    loader.sampler.set_epoch(1)
    assert order(loader) != first
    assert sorted(order(loader)) == list(range(50))
    loader.sampler.set_epoch(0)
    assert order(loader) == first


def test_seeds_that_agree_in_32_bits_differ():
    images = numbered(50)
    assert order(loader_of(images, seed=7)) != order(loader_of(images, seed=7 + 2**32))


def test_augmentation_is_reproducible_and_new_in_every_batch_and_epoch():
    same = ImageSet(torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3).repeat(8, 1, 1, 1), torch.arange(8))
    runs = []
    for epoch in (0, 1, 0):
        loader = loader_of(same, seed=1)
        loader.sampler.set_epoch(epoch)
        runs.append([inputs for inputs, _ in loader])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))
    assert not torch.equal(runs[0][0], runs[0][1])
    assert not torch.equal(runs[0][0], runs[1][0])


@pytest.mark.parametrize("done", [0, 1, 3, 7])
def test_a_resumed_epoch_goes_on_where_it_stopped(done):
    images = numbered(30)
    whole = loader_of(images, seed=4)
    whole.sampler.set_epoch(2)
    expected = list(whole)[done:]
    stopped = loader_of(images, seed=4)
    stopped.sampler.set_epoch(2)
    batches = iter(stopped)
    for _ in range(done):
        next(batches)
    resumed = loader_of(images, seed=4)
    resumed.load_state_dict(stopped.state_dict() if done else {"epoch": 2, "next_batch": 0})
    iterator = iter(resumed)  # a trainer creates the iterator before it sets the epoch
    resumed.sampler.set_epoch(2)
    rest = list(iterator)
    assert len(rest) == len(expected)
    assert all(torch.equal(a, b) for x, y in zip(rest, expected, strict=True) for a, b in zip(x, y, strict=True))


def test_a_state_of_another_epoch_starts_at_the_beginning():
    images = numbered(30)
    loader = loader_of(images, seed=4)
    loader.load_state_dict({"epoch": 0, "next_batch": 5})
    loader.sampler.set_epoch(1)
    assert len(order(loader)) == 30


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("count", [8, 21, 24])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_shares_of_all_processes_are_the_batches_of_one(count, world_size, shuffle):
    options = {"batch_size": 8, "shuffle": shuffle, "seed": 1, "augment": [RandomCrop(), RandomHorizontalFlip()]}
    loaders = [
        BatchLoader(numbered(count), rank=rank, world_size=size, **options)
        for size in (1, world_size)
        for rank in range(size)
    ]
    for loader in loaders:
        loader.sampler.set_epoch(2)
    for batch, *shares in zip(*loaders, strict=True):
        assert all(torch.equal(whole, torch.cat(parts)) for whole, *parts in zip(batch, *shares, strict=True))
        sizes = {len(labels) for _, labels in shares}
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 1, "world_size": 4}, {"batch_size": 2, "world_size": 2}]
)
def test_unusable_options_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        BatchLoader(numbered(3), **options)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 3, 3).double(), torch.zeros(2).long()),
        (torch.full((2, 1, 3, 3), 1.01), torch.zeros(2).long()),
        (torch.full((2, 1, 3, 3), torch.nan), torch.zeros(2).long()),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2).long()),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3).long()),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2)),
        (torch.zeros(0, 1, 3, 3, dtype=torch.uint8), torch.zeros(0).long()),
    ],
    ids=["float64", "beyond 1", "nan", "no channels", "too many labels", "float labels", "empty"],
)
def test_an_image_set_checks_types_and_shapes(images, labels):
    with pytest.raises(InputError, match="expected"):
        ImageSet(images, labels)


def test_float_images_stay_what_they_are():
    pixels = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels.clone(), torch.arange(3))
    images.inputs().zero_()
    assert torch.equal(images.inputs(), pixels)
    assert torch.equal(images.inputs(torch.tensor([2])), pixels[2:])
    assert (images.pixels().float() / 255 - pixels).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(ImageSet(images.pixels(), images.labels).pixels(), images.pixels())


def test_the_fingerprint_changes_with_pixels_labels_and_shape():
    images = numbered(4)
    variants = [
        images,
        ImageSet(images.images.flip(0), images.labels),
        ImageSet(images.images, images.labels.flip(0)),
        ImageSet(images.images.reshape(4, 1, 1, 9), images.labels),
        ImageSet(images.inputs(), images.labels),
    ]
    assert len({variant.sha256 for variant in variants}) == 5
    assert images.sha256 == numbered(4).sha256
