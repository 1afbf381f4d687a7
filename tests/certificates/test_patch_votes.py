"""Patch certificates against every change of votes that a patch can cause."""

import math
from collections import Counter

import pytest
import torch
from votings import SMALL, affected_by_pixels, as_tensor, ballots, elected, name_of, patches, tables, withstands

from lipcert import InputError
from lipcert.certificates import (
    BlockAblation,
    ColumnAblation,
    ColumnAndRowAblation,
    RowAblation,
    certify_patch,
    encoded_views,
    hard_votes,
    largest_certified_patch,
    patch,
    patch_certificate,
    predict_votes,
    threshold_votes,
    vote_counts,
)

CHANGES_AT_MOST = 300  # of the votes of one set, tried for each table


def contradictions(certify, ablation, image_size, *, num_classes, thresholded, at_most):
    """How many certificates are refuted by a change of votes, how many could have been given, and which were right."""
    found = Counter(unsound=0, missed=0, certified=0, refused=0)
    views = len(ablation.windows(*image_size))
    ways = len(ballots(num_classes, thresholded=thresholded))
    some = tables(views, num_classes, thresholded=thresholded, at_most=at_most)
    votes = as_tensor(some, num_classes, thresholded=thresholded)
    kinds = {(True, False): "unsound", (False, True): "missed", (True, True): "certified", (False, False): "refused"}
    for size in patches(image_size):
        sets = affected_by_pixels(ablation, image_size, size)
        if ways ** max(map(len, sets)) > CHANGES_AT_MOST:
            continue
        certified = certify(votes, ablation, image_size, size, num_classes=num_classes).tolist()
        for claim, each in zip(certified, some, strict=True):
            found[kinds[claim, withstands(each, sets, num_classes, thresholded=thresholded)]] += 1
    return found


def is_exact(found):
    """No contradiction, and enough cases of either kind for that to mean something."""
    return found["unsound"] == found["missed"] == 0 and min(found["certified"], found["refused"]) >= 5


@pytest.mark.parametrize(("ablation", "image_size"), SMALL, ids=name_of)
@pytest.mark.parametrize(("num_classes", "thresholded"), [(2, False), (3, False), (2, True)])
def test_certified_if_and_only_if_no_change_of_votes_elects_another_class(
    ablation, image_size, num_classes, thresholded
):
    found = contradictions(
        certify_patch, ablation, image_size, num_classes=num_classes, thresholded=thresholded, at_most=80
    )
    assert is_exact(found), found


@pytest.mark.parametrize(
    ("num_classes", "thresholded", "width"), [(2, False, 8), (3, False, 5), (4, False, 4), (2, True, 4)]
)
def test_certified_if_and_only_if_for_every_table_of_votes(num_classes, thresholded, width):
    found = Counter()
    for ablation in (ColumnAblation(1), ColumnAblation(2), ColumnAblation(1, wrap=False)):
        arguments = {"num_classes": num_classes, "thresholded": thresholded, "at_most": 300}
        found.update(contradictions(certify_patch, ablation, (1, width), **arguments))
    assert is_exact(found), found


def lead_rule(affected, *, ties):
    """The rule of counts alone, with so many affected views at most."""

    def certify(votes, ablation, image_size, size, *, num_classes):
        counts = vote_counts(votes, num_classes=num_classes)
        best = predict_votes(counts)[:, None]
        others = torch.arange(num_classes) != best
        comes_first = (torch.arange(num_classes) < best) if ties else torch.zeros_like(others)
        lead = counts.gather(1, best) - counts - comes_first.long()
        return (lead >= 2 * affected(ablation, image_size, size)).logical_or(~others).all(1)

    return certify


def most_affected(ablation, image_size, size):
    return ablation.affected(*image_size, size).sum(1).max()


def by_formula(ablation, image_size, size):
    return -(-(size[1] + ablation.size - 1) // ablation.stride)


def by_width(ablation, image_size, size):
    """Rows counted as if they were columns: as many views as the image has columns, none of which wraps twice."""
    return min(size[1] + ablation.size - 1, image_size[1])


def without_ties(votes, ablation, image_size, size, *, num_classes):
    """The enumeration with the classes in the opposite order, in which ties are won that should be lost."""
    election = patch._Election.of(votes, ablation, image_size, num_classes)
    affected = ablation.affected(*image_size, size)
    one_hot = votes if votes.ndim == 3 else torch.nn.functional.one_hot(votes, num_classes).bool()
    kept = torch.einsum("sv,nvk->nsk", (~affected).long(), one_hot.long())
    best = election.ranking[:, 0]
    own = kept.gather(2, best[:, None, None].expand(-1, len(affected), 1))
    others = torch.arange(num_classes) != best[:, None]
    return (own >= (kept + affected.sum(1)[:, None])).logical_or(~others[:, None]).all(2).all(1)


@pytest.mark.parametrize(
    ("mutant", "ablation", "image_size"),
    [
        (lead_rule(most_affected, ties=False), ColumnAblation(2), (1, 8)),
        (lead_rule(by_formula, ties=True), ColumnAblation(2, stride=3), (1, 16)),
        (lead_rule(by_width, ties=True), RowAblation(2), (6, 2)),
        (without_ties, ColumnAblation(2), (1, 8)),
        (without_ties, BlockAblation(1), (2, 3)),
    ],
    ids=["lead without ties", "affected by formula", "rows by width", "columns without ties", "blocks without ties"],
)
def test_mutants_are_refuted(mutant, ablation, image_size):
    found = contradictions(mutant, ablation, image_size, num_classes=2, thresholded=False, at_most=260)
    assert found["unsound"] > 0


@pytest.mark.parametrize("thresholded", [False, True])
def test_the_rule_of_counts_is_sound_but_misses_certificates(thresholded):
    arguments = {"num_classes": 2, "thresholded": thresholded, "at_most": 300}
    rule = lead_rule(most_affected, ties=True)
    found = contradictions(rule, ColumnAblation(2, stride=2), (1, 11), **arguments)
    assert found["unsound"] == 0
    assert found["missed"] > 0


@pytest.mark.parametrize("thresholded", [False, True])
@pytest.mark.parametrize(
    ("ablation", "image_size"),
    [(ColumnAblation(4), (32, 32)), (BlockAblation(9, stride=3), (20, 28)), (ColumnAndRowAblation(3, 2), (28, 20))],
    ids=name_of,
)
def test_certifies_a_strict_superset_of_the_rule_of_counts(ablation, image_size, thresholded):
    views, classes = len(ablation.windows(*image_size)), 10
    some = tables(views, classes, thresholded=False, at_most=2000)
    votes = as_tensor(some, classes, thresholded=thresholded)
    if thresholded:
        votes |= torch.rand(votes.shape, generator=torch.Generator().manual_seed(0)) < 0.05
    more = 0
    for size in ((2, 2), (5, 5), (3, 7)):
        ours = certify_patch(votes, ablation, image_size, size, num_classes=classes)
        theirs = lead_rule(most_affected, ties=True)(votes, ablation, image_size, size, num_classes=classes)
        assert (ours | ~theirs).all()
        assert theirs.any()
        more += int((ours & ~theirs).sum())
    assert more > 0


def test_the_tie_that_a_library_certifies_falsely():
    ablation, size = ColumnAblation(2), (10, 10)
    votes = torch.tensor([0] * 2 + [1] * 6 + [2] * 2)[None]
    assert vote_counts(votes, num_classes=4).tolist() == [[2, 6, 2, 0]]
    assert ablation.affected(*size, 1).sum(1).unique().tolist() == [2]
    assert not certify_patch(votes, ablation, size, 1, num_classes=4)
    changed = torch.tensor([0] * 2 + [1] * 4 + [0] * 2 + [2] * 2)[None]  # two views that stand side by side
    assert predict_votes(vote_counts(changed, num_classes=4)).item() == 0
    mirrored = torch.tensor([1] * 2 + [0] * 6 + [2] * 2)[None]  # now the elected class wins ties
    assert certify_patch(mirrored, ablation, size, 1, num_classes=4)


def test_the_stride_for_which_a_formula_certifies_falsely():
    ablation, size = ColumnAblation(19, stride=10), (224, 224)
    sets = ablation.affected(*size, 32)
    worst = sets[sets.sum(1).argmax()]
    lead = torch.zeros(23, dtype=torch.int64)
    lead[(~worst).nonzero().flatten()[:6]] = 1  # 17 to 6: the formula's 2 x 5 affected views fit into a lead of 11
    assert lead_rule(by_formula, ties=True)(lead[None], ablation, size, (32, 32), num_classes=2).item()
    assert not certify_patch(lead[None], ablation, size, 32, num_classes=2)
    changed = torch.where(worst, 1, lead)
    assert predict_votes(vote_counts(changed[None], num_classes=2)).item() == 1


def test_rows_of_images_that_are_not_square():
    ablation, size = RowAblation(2), (5, 9)
    votes = torch.tensor([[0, 0, 0, 0, 0]])
    assert not certify_patch(votes, ablation, size, (2, 1), num_classes=2)  # 3 of 5 views see the patch
    assert certify_patch(votes, ablation, size, (1, 9), num_classes=2)  # 2 of 5 do
    assert largest_certified_patch(votes, ablation, size, num_classes=2).item() == 1
    with pytest.raises(InputError, match="expected the votes of all 5 views of the ablation, got 9"):
        certify_patch(torch.zeros(1, 9, dtype=torch.int64), ablation, size, 1, num_classes=2)


def test_what_is_predicted_is_the_vote_and_not_the_sum_of_logits():
    logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 9.0]]])
    votes = hard_votes(logits)
    found = patch_certificate(votes, ColumnAblation(1), (4, 4), num_classes=2)
    assert logits.sum(1).argmax(1).item() == 1
    assert found.prediction.item() == predict_votes(vote_counts(votes, num_classes=2)).item() == 0
    assert (found.radius.item(), found.norm, found.rule) == (1.0, "patch", "enumeration")
    assert math.isinf(found.lipschitz_upper_bound)


@pytest.mark.parametrize("thresholded", [False, True])
@pytest.mark.parametrize(
    ("ablation", "image_size"),
    [(ColumnAblation(2), (7, 9)), (RowAblation(1), (7, 9)), (BlockAblation((4, 3), 2), (9, 8))],
    ids=name_of,
)
def test_the_largest_patch_is_the_last_of_those_that_are_withstood(ablation, image_size, thresholded):
    views = len(ablation.windows(*image_size))
    votes = as_tensor(tables(views, 3, thresholded=False, at_most=200), 3, thresholded=thresholded)
    sides = range(1, min(image_size) + 1)
    each = torch.stack([certify_patch(votes, ablation, image_size, side, num_classes=3) for side in sides])
    assert (each[:-1] | ~each[1:]).all()  # what withstands a patch withstands the smaller ones
    largest = largest_certified_patch(votes, ablation, image_size, num_classes=3)
    assert torch.equal(largest, each.sum(0))
    assert len(largest.unique()) > 2


@pytest.mark.parametrize("thresholded", [False, True])
def test_neither_the_size_of_parts_nor_the_other_images_matter(monkeypatch, thresholded):
    ablation, image_size = BlockAblation(3, 2), (8, 7)
    views = len(ablation.windows(*image_size))
    votes = as_tensor(tables(views, 5, thresholded=False, at_most=60), 5, thresholded=thresholded)
    whole = largest_certified_patch(votes, ablation, image_size, num_classes=5)
    alone = [largest_certified_patch(each[None], ablation, image_size, num_classes=5) for each in votes]
    assert torch.equal(torch.cat(alone), whole)
    monkeypatch.setattr(patch, "ELEMENTS_AT_ONCE", 50)
    assert torch.equal(largest_certified_patch(votes, ablation, image_size, num_classes=5), whole)
    assert 0 < whole.double().mean() < 5


def test_products_of_a_shorter_type_change_nothing():
    ablation, image_size = ColumnAblation(3), (4, 300)
    votes = as_tensor(tables(300, 4, thresholded=False, at_most=200), 4, thresholded=False)
    before = torch.get_float32_matmul_precision()
    try:
        found = []
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            found.append(certify_patch(votes, ablation, image_size, 4, num_classes=4))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(*found)
    assert 0 < found[0].double().mean() < 1


def test_no_votes_elect_the_first_class_and_certify_nothing_that_a_view_can_see():
    votes = torch.zeros(1, 3, 2, dtype=torch.bool)
    assert patch_certificate(votes, ColumnAblation(1), (2, 3)).radius.item() == 0
    unseen = ColumnAblation(1, stride=3)  # columns 0 and 3 are seen
    assert certify_patch(votes[:, :2], unseen, (2, 6), (1, 2)).item() is False


@pytest.mark.parametrize("votes_of", [hard_votes, lambda logits: threshold_votes(logits, 0.4)])
def test_no_patch_changes_a_certified_class(votes_of):
    """A smoothed linear network, and the patches that its own weights suggest."""
    generator = torch.Generator().manual_seed(0)
    ablation, (height, width), classes = ColumnAblation(2), (6, 12), 3
    masks = ablation.masks(height, width)
    inputs = torch.rand(40, 1, height, width, generator=generator)
    weight = torch.randn(2 * height * width, classes, generator=generator)
    weight[:, 0] += 0.1

    def votes(images):
        return votes_of(encoded_views(images, masks).flatten(2) @ weight)

    found = patch_certificate(votes(inputs), ablation, (height, width), num_classes=classes)
    assert len(found.radius.unique()) > 1
    of_value, of_complement = weight.view(2, height, width, classes)
    slope = of_value - of_complement
    brightest = (slope > slope.mean(-1, keepdim=True)).float()  # the content that is the best of each class
    flipped = 0
    for side in range(1, height + 1):
        certified = found.radius >= side
        for row in range(height - side + 1):
            for column in range(width - side + 1):
                place = (..., slice(row, row + side), slice(column, column + side))
                for target in range(classes):
                    changed = inputs.clone()
                    changed[place] = brightest[..., target][place]
                    after = predict_votes(vote_counts(votes(changed), num_classes=classes))
                    assert (after == found.prediction)[certified].all()
                    flipped += int((after != found.prediction).sum())
    assert flipped > 0


@pytest.mark.parametrize(
    ("votes", "num_classes", "message"),
    [
        (torch.zeros(1, 4, dtype=torch.int64), 2, "expected the votes of all 5 views of the ablation, got 4"),
        (torch.zeros(1, 6, 2, dtype=torch.bool), None, "expected the votes of all 5 views of the ablation, got 6"),
        (torch.zeros(1, 5, dtype=torch.int64), None, "expected num_classes beside votes for one class a view"),
        (torch.zeros(1, 5, 2, dtype=torch.bool), 3, "expected votes for 3 classes, got votes for 2"),
        (torch.full((1, 5), 3), 3, "expected votes for classes from 0 to 2, got 3 to 3"),
        (torch.zeros(1, 5), 3, r"expected votes \(N, V\) of type int64 or \(N, V, K\) of type bool, got torch.float32"),
        (torch.zeros(1, 5, dtype=torch.int64), 1, "expected at least 2 classes, got 1"),
    ],
)
def test_bad_votes(votes, num_classes, message):
    with pytest.raises(InputError, match=message):
        certify_patch(votes, ColumnAblation(2), (5, 5), 1, num_classes=num_classes)


def test_bad_sizes():
    votes = torch.zeros(1, 5, dtype=torch.int64)
    with pytest.raises(InputError, match="expected a patch within images of 5 x 5, got 6 x 6"):
        certify_patch(votes, ColumnAblation(2), (5, 5), 6, num_classes=2)
    with pytest.raises(InputError, match="expected at most 5 columns to be retained in such images, got 6"):
        certify_patch(votes, ColumnAblation(6), (5, 5), 1, num_classes=2)
    with pytest.raises(InputError, match="expected a threshold above 0 and at most 1, got 0"):
        threshold_votes(torch.zeros(1, 5, 2), 0.0)


def test_the_elected_class_is_the_first_of_those_with_the_most_votes():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(4, (500, 6), generator=generator)
    first = [row.index(max(row)) for row in counts.tolist()]
    assert predict_votes(counts).tolist() == first
    assert elected([(0,), (1,), (1, 0), ()], 2) == 0
