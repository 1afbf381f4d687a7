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


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [8, 13, 16, 25])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_are_disjoint_and_processes_take_the_same_number_of_steps(count, world_size, shuffle):
    images = numbered(count)
    options = {"batch_size": 4, "shuffle": shuffle, "seed": 1, "world_size": world_size}
    loaders = [BatchLoader(images, rank=rank, **options) for rank in range(world_size)]
    shares = [order(loader) for loader in loaders]
    visited = [number for share in shares for number in share]
    assert len(set(visited)) == len(visited)
    assert {len(list(loader)) for loader in loaders} == {len(loaders[0])}
    if shuffle:
        assert {len(share) for share in shares} == {count // world_size}
    else:
        assert sorted(visited) == list(range(count))
        assert all(len(labels) > 0 for loader in loaders for _, labels in loader)


def test_processes_augment_differently():
    same = ImageSet(torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3).repeat(8, 1, 1, 1), torch.arange(8))
    first, second = (next(iter(loader_of(same, rank=rank, world_size=2)))[0] for rank in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1, "world_size": 4}])
def test_unusable_options_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        BatchLoader(numbered(3), **options)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(2).long()),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2).long()),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3).long()),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2)),
        (torch.zeros(0, 1, 3, 3, dtype=torch.uint8), torch.zeros(0).long()),
    ],
    ids=["float images", "no channels", "too many labels", "float labels", "empty"],
)
def test_an_image_set_checks_types_and_shapes(images, labels):
    with pytest.raises(InputError, match="expected"):
        ImageSet(images, labels)


def test_the_fingerprint_changes_with_pixels_labels_and_shape():
    images = numbered(4)
    variants = [
        images,
        ImageSet(images.images.flip(0), images.labels),
        ImageSet(images.images, images.labels.flip(0)),
        ImageSet(images.images.reshape(4, 1, 1, 9), images.labels),
    ]
    assert len({variant.sha256 for variant in variants}) == 4
    assert images.sha256 == numbered(4).sha256
