"""L1 certificates: what the noise does to single grey levels, and votes against every change within the radius."""

import itertools

import pytest
import torch
from votings import as_tensor, ballots, elected, tables

from lipcert import InputError
from lipcert.certificates import SplittingNoise, grey_levels, l1_certificate, predict_votes, vote_counts
from lipcert.certificates.l1 import split

LEVELS = torch.arange(256)


@pytest.mark.parametrize("levels", [2, 7, 100, 254, 255, 256, 400])
def test_of_all_views_as_many_see_a_change_of_a_pixel_as_it_has_grey_levels(levels):
    shown = split(LEVELS[:, None], torch.arange(levels), levels)
    changed = (shown[:, None] != shown).sum(2)
    distance = (LEVELS[:, None] - LEVELS).abs()
    assert torch.equal(changed, distance.clamp_max(levels))


@pytest.mark.parametrize("levels", [255, 300, 441, 1000])
def test_wide_noise_shows_what_the_paper_says(levels):
    """(min(s, 1) + [x > s]) / 2, s uniform over the halves of levels up to twice lambda."""
    s = (torch.arange(levels).double() + 0.5) / 255
    expected = (s.clamp_max(1) + (LEVELS[:, None].double() / 255 > s)) / 2
    torch.testing.assert_close(split(LEVELS[:, None], torch.arange(levels), levels), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("levels", [10, 100])
def test_narrow_noise_shows_the_middle_of_the_part_in_which_a_pixel_lies(levels):
    shown = split(LEVELS[:, None], torch.arange(levels), levels) * 255
    for level, point in itertools.product(range(0, 256, 5), range(0, levels, 3)):
        bounds = [0.0, *(p + 0.5 for p in range(point, 255, levels)), 255.0]
        low, high = next((a, b) for a, b in itertools.pairwise(bounds) if a <= level <= b)
        assert shown[level, point].item() == pytest.approx((low + high) / 2, abs=1e-12)


def images(count=4, shape=(2, 3, 3), seed=0):
    levels = torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(seed))
    return levels.float().div_(255)


def test_views_are_those_of_a_template_that_is_moved_on():
    noise, inputs = SplittingNoise(300, seed=3), images()
    views = noise.views(inputs)
    template = noise.template((2, 3, 3))
    assert views.shape == (4, 300, 2, 3, 3)
    assert views.dtype == torch.float32
    assert len(template.unique()) > 9
    for offset in (0, 17, 299):
        shown = split(grey_levels(inputs), (template + offset) % 300, 300).float()
        assert torch.equal(views[:, offset], shown)
    some = torch.tensor([[0, 5], [9, 9], [299, 0], [3, 2]])
    assert torch.equal(noise.views(inputs, some), views[torch.arange(4)[:, None], some])
    assert torch.equal(noise.views(inputs, torch.tensor([4, 2])), views[:, [4, 2]])
    assert torch.equal(noise.views(inputs[2:3]), views[2:3])
    assert not torch.equal(SplittingNoise(300, seed=4).template((2, 3, 3)), template)


def test_never_more_views_change_than_the_distance_in_grey_levels():
    noise, inputs = SplittingNoise(60, seed=1), images()
    views = noise.views(inputs)
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        moves = torch.randint(-2, 3, inputs.shape, generator=generator)
        levels = (grey_levels(inputs) + moves).clamp(0, 255)
        distance = (levels - grey_levels(inputs)).abs().flatten(1).sum(1)
        changed = (noise.views(levels / 255) != views).flatten(2).any(2).sum(1)
        assert (changed <= distance).all()


def withstands(votes, changes, num_classes, *, thresholded):
    """Whether so many views cannot elect another class, whatever they vote."""
    before = elected(votes, num_classes)
    for views in itertools.combinations(range(len(votes)), changes):
        for cast in itertools.product(ballots(num_classes, thresholded=thresholded), repeat=changes):
            changed = dict(enumerate(votes)) | dict(zip(views, cast, strict=True))
            if elected(list(changed.values()), num_classes) != before:
                return False
    return True


def contradictions(radius_of, views, num_classes, *, thresholded):
    """How many radii are too large, and how many too small, among all tables of votes."""
    some = tables(views, num_classes, thresholded=thresholded, at_most=300)
    votes = as_tensor(some, num_classes, thresholded=thresholded)
    largest = [
        next(
            changes - 1
            for changes in range(1, views + 1)
            if not withstands(each, changes, num_classes, thresholded=thresholded)
        )
        for each in some
    ]
    assert len(set(largest)) > 1
    difference = radius_of(votes, num_classes) - torch.tensor(largest)
    return int((difference > 0).sum()), int((difference < 0).sum())


def certified_levels(votes, num_classes):
    found = l1_certificate(votes, SplittingNoise(votes.shape[1]), num_classes=num_classes)
    assert torch.equal(found.prediction, predict_votes(vote_counts(votes, num_classes=num_classes)))
    return (found.radius * 255).round().long()


@pytest.mark.parametrize(
    ("views", "num_classes", "thresholded"),
    [(3, 2, False), (4, 2, False), (7, 2, False), (5, 3, False), (4, 4, False), (3, 2, True), (4, 2, True)],
)
def test_radii_are_exact_for_every_table_of_votes(views, num_classes, thresholded):
    assert contradictions(certified_levels, views, num_classes, thresholded=thresholded) == (0, 0)


def of_two_counts(votes, num_classes, *, ties):
    """A radius of the two largest counts alone."""
    counts = vote_counts(votes, num_classes=num_classes)
    first, second = counts.topk(2, dim=1).values.T
    return (first - second - ties).clamp_min(0) // 2


def test_mutants_are_refuted():
    unsound, _ = contradictions(lambda *votes: of_two_counts(*votes, ties=0), 4, 2, thresholded=False)
    assert unsound > 0
    _, missed = contradictions(lambda *votes: of_two_counts(*votes, ties=1), 4, 2, thresholded=False)
    assert missed > 0
    unsound, _ = contradictions(lambda *votes: certified_levels(*votes) + 1, 4, 2, thresholded=False)
    assert unsound > 0


@pytest.mark.parametrize("seed", range(4))
def test_no_perturbation_within_the_radius_changes_the_vote_of_a_random_classifier(seed):
    """Every change of three pixels within the radius: views of all, and classes that random numbers decide."""
    generator = torch.Generator().manual_seed(seed)
    noise, classes = SplittingNoise(23, seed=seed), 3
    weight = torch.randn(3, classes, generator=generator, dtype=torch.float64)
    bias = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).roll(seed)
    centres = torch.randint(256, (40, 1, 1, 3), generator=generator)
    centres[::2, ..., 0] = torch.tensor([0, 1, 254, 255]).repeat(5)[:, None, None]  # at the edge of what a pixel can be

    def votes(levels):
        views = noise.views(levels.double() / 255).flatten(2)
        return ((views * 40).sin() @ weight + bias).argmax(2)

    found = l1_certificate(votes(centres), noise, num_classes=classes)
    radii = (found.radius * 255).round().long()
    checked = ((radii >= 2) & (radii <= 6)).nonzero().flatten().tolist()
    assert len(checked) >= 5
    for number in checked:
        radius = int(radii[number])
        reach = range(-radius, radius + 1)
        moves = torch.tensor([move for move in itertools.product(reach, repeat=3) if sum(map(abs, move)) <= radius])
        changed = centres[number] + moves.view(-1, 1, 1, 3)
        changed = changed[((changed >= 0) & (changed <= 255)).flatten(1).all(1)]
        elections = predict_votes(vote_counts(votes(changed), num_classes=classes))
        assert (elections == found.prediction[number]).all()


def test_a_classifier_that_opposes_is_beaten_one_level_beyond_the_radius():
    """One pixel, and a base classifier that votes for another class wherever a view differs: the radius is tight."""
    noise, start = SplittingNoise(20), torch.full((1, 1, 1, 1), 100 / 255)
    clean = noise.views(start)
    found = l1_certificate(torch.zeros(1, 20, dtype=torch.int64), noise, num_classes=2)
    radius = round(found.radius.item() * 255)
    assert radius == 10
    for distance, expected in ((radius, 0), (radius + 1, 1)):
        moved = noise.views(start + distance / 255)
        votes = (moved != clean).flatten(2).any(2).long()
        assert predict_votes(vote_counts(votes, num_classes=2)).item() == expected


def test_the_nearest_rival_is_the_first_of_those_with_equally_many_votes():
    votes = torch.tensor([[1] * 5 + [0] * 2 + [2] * 2, [0] * 5 + [1] * 2 + [2] * 2, [1] * 6 + [2] * 3])
    found = l1_certificate(votes, SplittingNoise(9), num_classes=3)
    assert (found.radius * 255).tolist() == [1, 1, 1]
    assert certified_levels(torch.tensor([[1] * 6 + [0] * 2, [0] * 6 + [1] * 2]), 2).tolist() == [1, 2]
    assert (found.norm, found.rule) == ("l1", "splitting")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grey_levels_are_read_whichever_way_they_were_divided(dtype):
    for values in (LEVELS.to(dtype) / 255, LEVELS.to(dtype) * (1 / 255), LEVELS.float().div_(255).to(dtype)):
        assert torch.equal(grey_levels(values.view(1, 1, 16, 16)).flatten(), LEVELS)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.tensor([0.5]), "expected 8-bit images, multiples of 1/255 in .0, 1., got 0.5$"),
        (torch.tensor([100 / 255 + 1e-5]), "expected 8-bit images"),
        (torch.tensor([256 / 255]), "expected 8-bit images"),
        (torch.tensor([-1 / 255]), "expected 8-bit images"),
        (torch.tensor([torch.nan]), "expected 8-bit images.*got nan"),
        (torch.tensor([1], dtype=torch.uint8), r"of type float32 or float64, got torch.uint8"),
        (torch.tensor([1.0], dtype=torch.bfloat16), r"of type float32 or float64, got torch.bfloat16"),
    ],
)
def test_inputs_that_are_not_of_8_bits_are_refused(inputs, message):
    with pytest.raises(InputError, match=message):
        SplittingNoise(300).views(inputs.view(1, 1, 1, 1))


def test_bad_noise_offsets_and_votes():
    for levels in (1, 300.5, 2 * 0.866 * 255):
        with pytest.raises(InputError, match=r"expected a whole number of levels, 2 \* lambda \* 255 >= 2, got"):
            SplittingNoise(levels)
    noise = SplittingNoise(300)
    for offsets in (torch.tensor([300]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor(0)):
        with pytest.raises(InputError, match=r"expected offsets \(V,\) or \(N, V\) of type int64 below 300"):
            noise.views(images(), offsets)
    with pytest.raises(InputError, match="expected the votes of all 300 views of the noise, got 100"):
        l1_certificate(torch.zeros(1, 100, dtype=torch.int64), noise, num_classes=2)
