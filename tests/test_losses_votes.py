"""The loss of a vote's certificate: its limits are the certificate and the share of right answers."""

import pytest
import torch

from lipcert.certificates import BlockAblation, ColumnAblation, certify_patch, predict_votes, vote_counts
from lipcert.certificates.early import affected_sets
from lipcert.certificates.votes import hard_votes, threshold_votes
from lipcert.errors import InputError
from lipcert.losses import CertifiedVoteLoss

SIZE, PATCH, CLASSES = (6, 7), (2, 1), 3


def drawn_logits(views, count=400, opinion=4.0):
    """Views that mostly, but not always, think alike."""
    labels = torch.arange(count) % CLASSES
    sure = torch.rand(count, 1, 1) * opinion
    noise = torch.randn(count, views, CLASSES)
    return noise + sure * torch.nn.functional.one_hot(labels, CLASSES)[:, None], labels


@pytest.mark.parametrize("threshold", [None, 0.3, 0.6])
@pytest.mark.parametrize("ablation", [ColumnAblation(2), BlockAblation(2, stride=2)], ids=repr)
def test_sharp_votes_have_the_gaps_that_certificates_count(ablation, threshold):
    torch.manual_seed(0)
    affected = affected_sets(ablation, SIZE, PATCH)
    logits, labels = drawn_logits(affected.shape[1])
    votes = hard_votes(logits) if threshold is None else threshold_votes(logits, threshold)
    right = predict_votes(vote_counts(votes, num_classes=CLASSES)) == labels
    certified = certify_patch(votes, ablation, SIZE, PATCH, num_classes=CLASSES) & right
    gaps, leads = CertifiedVoteLoss(threshold, sharpness=1e6).gaps(logits.double(), labels, affected)
    assert 0 < certified.float().mean() < right.float().mean() < 1
    assert certified[gaps.round() > 0].all()
    assert not certified[gaps.round() < 0].any()
    assert right[leads.round() > 0].all()
    assert not right[leads.round() < 0].any()
    ties = (gaps.round() == 0) | (leads.round() == 0)
    loss = CertifiedVoteLoss(threshold, sharpness=1e6, temperature=1e-3, clean=0.5)
    found = loss(logits[~ties].double(), labels[~ties], affected)
    lost = 1 - certified[~ties].double() + 0.5 * (1 - right[~ties].double())
    torch.testing.assert_close(found, lost.mean())


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_descending_wins_certificates(threshold):
    torch.manual_seed(0)
    ablation = ColumnAblation(2)
    affected = affected_sets(ablation, SIZE, PATCH)
    logits, labels = drawn_logits(affected.shape[1], opinion=2.0)
    loss = CertifiedVoteLoss(threshold)

    def share():
        votes = hard_votes(logits) if threshold is None else threshold_votes(logits, threshold)
        right = predict_votes(vote_counts(votes, num_classes=CLASSES)) == labels
        return (certify_patch(votes, ablation, SIZE, PATCH, num_classes=CLASSES) & right).float().mean()

    before = share()
    logits.requires_grad_()
    for _ in range(20):
        [gradient] = torch.autograd.grad(loss(logits, labels, affected), logits)
        with torch.no_grad():
            logits -= gradient / gradient.abs().max()
    logits.requires_grad_(False)
    assert share() > before + 0.1


def test_half_precision_is_summed_in_single():
    affected = affected_sets(ColumnAblation(2), SIZE, PATCH)
    logits, labels = drawn_logits(affected.shape[1])
    found = CertifiedVoteLoss(0.3)(logits.bfloat16(), labels, affected)
    torch.testing.assert_close(found, CertifiedVoteLoss(0.3)(logits.bfloat16().float(), labels, affected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, "threshold above 0"),
        ({"threshold": 1.5}, "threshold above 0"),
        ({"sharpness": 0.0}, "sharpness > 0"),
        ({"temperature": -1.0}, "temperature > 0"),
        ({"clean": -0.1}, "clean >= 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        CertifiedVoteLoss(**settings)


@pytest.mark.parametrize("shape", [(4, 3), (4, 6, 3), (4, 7, 1)], ids=str)
def test_logits_of_other_views_are_refused(shape):
    affected = affected_sets(ColumnAblation(2), SIZE, PATCH)
    with pytest.raises(InputError, match=r"\(N, 7, K\)"):
        CertifiedVoteLoss()(torch.zeros(shape), torch.zeros(4, dtype=torch.int64), affected)
