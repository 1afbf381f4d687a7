"""The smoothed network: its votes are those of a loop over views, however they are batched, dropped or cut short."""

import json

import pytest
import torch
from torch import nn

from lipcert import export, load_network, save_network
from lipcert.certificates import (
    BlockAblation,
    ColumnAblation,
    ColumnAndRowAblation,
    RowAblation,
    certify_patch,
    encoded_channels,
    encoded_views,
    largest_certified_patch,
    predict_votes,
    vote_counts,
)
from lipcert.certificates.early import affected_sets, decide
from lipcert.deployment import check_export
from lipcert.errors import InputError
from lipcert.networks import SmoothedNetwork, VisionTransformer, cnn

ABLATIONS = {
    "columns": ColumnAblation(3),
    "narrow": ColumnAblation(1, stride=3),
    "rows": RowAblation(5, stride=2, wrap=False),
    "both": ColumnAndRowAblation((2, 5), stride=3),
    "blocks": BlockAblation((5, 6), stride=(2, 3)),
}
ENCODINGS = ("null", "doubled", "mask")
SIZE = (8, 12)


def base(kind, encoding="doubled", classes=3):
    torch.manual_seed(3)
    shape = (encoded_channels(1, encoding), *SIZE)
    if kind == "vit":
        return VisionTransformer(shape, classes, width=16, depth=2, heads=2)
    network = cnn(shape, classes, stages=((6, 0),), widths=(), batch_norm=True)
    with torch.no_grad():  # statistics of some views, and logits about zero, so that views disagree
        network[-1].bias -= network(torch.rand(64, *shape) * (torch.rand(64, 1, 1, SIZE[1]) < 0.3)).mean(0)
    return network


def images(count=6):
    return torch.rand(count, 1, *SIZE, generator=torch.Generator().manual_seed(5))


def logits_by_loop(network, inputs, ablation, encoding, null):
    """One view of one image after the other; a transformer passes the whole image and hides tokens."""
    rows = []
    for image in inputs:
        each = []
        for mask in ablation.masks(*SIZE):
            view = encoded_views(image[None], mask[None], encoding=encoding, null=null)[0]
            if isinstance(network, VisionTransformer):
                keep = torch.tensor([bool(part.any()) for row in mask.split(4) for part in row.split(4, 1)])
                each.append(network(view, keep[None], drop=False)[0])
            else:
                each.append(network(view)[0])
        rows.append(torch.stack(each))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=ABLATIONS)
def test_votes_are_those_of_a_loop_over_views(ablation, encoding, kind):
    network = SmoothedNetwork(base(kind, encoding), ablation, num_classes=3, encoding=encoding, null=0.5).eval()
    with torch.no_grad():
        *_, head = (module for module in network.network.modules() if isinstance(module, nn.Linear))
        head.bias -= logits_by_loop(network.network, images(), ablation, encoding, 0.5).mean((0, 1))  # views disagree
        expected = logits_by_loop(network.network, images(), ablation, encoding, 0.5)
        assert torch.allclose(network.view_logits(images()), expected, rtol=0, atol=1e-5)
    votes = network.votes(images())
    assert torch.equal(votes, expected.argmax(2))
    assert votes.unique().numel() > 1
    assert torch.equal(network(images()), vote_counts(votes, num_classes=3).float())
    assert torch.equal(network(images()).argmax(1), predict_votes(vote_counts(votes, num_classes=3)))


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("elements", [1, 500, 5000])
@pytest.mark.parametrize("threshold", [None, 0.35])
def test_neither_chunks_nor_neighbours_change_a_vote(kind, elements, threshold):
    settings = {"num_classes": 3, "threshold": threshold}
    whole = SmoothedNetwork(base(kind), ABLATIONS["blocks"], **settings).eval()
    parts = SmoothedNetwork(base(kind), ABLATIONS["blocks"], **settings, elements_at_once=elements).eval()
    expected = whole.votes(images())
    assert torch.equal(parts.votes(images()), expected)
    assert torch.equal(torch.cat([whole.votes(image[None]) for image in images()]), expected)


class Rounded(nn.Module):
    """Rounds otherwise in another batch: by less than is allowed, or by more."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, views):
        logits = torch.tensor([[1.0, 1.0 - 1e-5]]).repeat(len(views), 1)
        logits[:, 1] += self.error * (len(views) > 1)
        return logits


@pytest.mark.parametrize(("error", "vote"), [(2e-5, 0), (1e-3, 1)])
def test_a_vote_that_rounding_decides_is_that_of_the_view_alone(error, vote):
    network = SmoothedNetwork(Rounded(error), ColumnAblation(2), num_classes=2).eval()
    assert (network.votes(images()) == vote).all()


@pytest.mark.parametrize("threshold", [None, 0.35])
@pytest.mark.parametrize("patch", [1, 2, (3, 1), (8, 12)])
@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=ABLATIONS)
def test_early_termination_gives_class_and_certificate_of_the_whole_vote(ablation, patch, threshold):
    network = SmoothedNetwork(base("cnn"), ablation, num_classes=3, threshold=threshold).eval()
    inputs = images(40)
    votes = network.votes(inputs)
    verdict = network.certify(inputs, patch)
    assert torch.equal(verdict.prediction, predict_votes(vote_counts(votes, num_classes=3)))
    assert torch.equal(verdict.certified, certify_patch(votes, ablation, SIZE, patch, num_classes=3))
    assert int(verdict.views.max()) <= votes.shape[1]


def test_fewer_views_vote_where_all_agree():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 12, 3))
    nn.init.zeros_(constant[1].weight)
    network = SmoothedNetwork(constant, ColumnAblation(1), num_classes=3).eval()
    verdict = network.certify(images(), 2)
    assert verdict.certified.all()
    assert (verdict.views < 12).all()


@pytest.mark.parametrize("known", range(1, 7))
def test_what_is_called_final_no_votes_of_the_others_change(known):
    """All completions of the votes of six views for two classes."""
    ablation, size = ColumnAblation(2), (1, 6)
    affected = affected_sets(ablation, size, 1)
    every = torch.cartesian_prod(*[torch.arange(2)] * 6)
    prediction = predict_votes(vote_counts(every, num_classes=2))
    certified = certify_patch(every, ablation, size, 1, num_classes=2)
    for views in (torch.arange(known), torch.arange(6)[-known:].flip(0)):
        leading, claimed, final = decide(every[:, views], views, affected, num_classes=2)
        assert torch.equal(leading[final], prediction[final])
        assert torch.equal(claimed[final], certified[final])
    if known == 6:
        assert final.all()
    if known == 5:
        assert (certified & final).any()
        assert (~certified & final).any()


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_one_view_of_each_image_is_what_is_trained(kind):
    network = SmoothedNetwork(base(kind), ABLATIONS["columns"], num_classes=3).eval()
    views = torch.tensor([0, 4, 11, 4, 2, 7])
    with torch.no_grad():
        expected = network.view_logits(images())[torch.arange(6), views]
        assert torch.allclose(network.one_view_logits(images(), views), expected, rtol=0, atol=1e-5)


def test_gradients_reach_retained_pixels_only():
    network = SmoothedNetwork(base("vit"), ABLATIONS["columns"], num_classes=3).eval()
    inputs = images().requires_grad_()
    network.view_logits(inputs)[:, 4].square().sum().backward()
    seen = (inputs.grad != 0).any(0).any(0).any(0)
    assert seen.nonzero().flatten().tolist() == [4, 5, 6]


def recipe(kind="cnn", size=3):
    network = {
        "vit": {"class_path": "lipcert.networks.VisionTransformer", "init_args": {"width": 16, "depth": 2, "heads": 2}},
        "cnn": {
            "class_path": "lipcert.networks.cnn",
            "init_args": {"stages": [[6, 0]], "widths": [], "batch_norm": True},
        },
    }[kind]
    network["init_args"] |= {"input_shape": [2, *SIZE], "num_classes": 3}
    ablation = {"class_path": "lipcert.certificates.ColumnAblation", "init_args": {"size": size, "stride": 2}}
    return {"network": network, "ablation": ablation, "num_classes": 3, "threshold": 0.3}


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_export_and_reload(kind, tmp_path):
    network = SmoothedNetwork(base(kind), ColumnAblation(3, stride=2), num_classes=3, threshold=0.3)
    path = tmp_path / "network.safetensors"
    save_network(export(network), path, SmoothedNetwork, **json.loads(json.dumps(recipe(kind))))
    loaded = load_network(path)
    check_export(network, loaded, images())
    assert torch.equal(loaded.votes(images()), network.eval().votes(images()))
    assert loaded.ablation == ColumnAblation(3, stride=2)
    certificate = loaded.certificate(images())
    sides = largest_certified_patch(loaded.votes(images()), loaded.ablation, SIZE)
    assert certificate.norm == "patch"
    assert certificate.radius.tolist() == sides.tolist()


def test_weights_for_other_views_are_refused(tmp_path):
    trained = SmoothedNetwork(base("cnn"), ColumnAblation(3), num_classes=3)
    for other in (ColumnAblation(4), RowAblation(3)):
        with pytest.raises(InputError, match=r"expected weights for .*, got weights for views of ColumnAblation 3"):
            SmoothedNetwork(base("cnn"), other, num_classes=3).load_state_dict(trained.state_dict())
    other = SmoothedNetwork(base("cnn"), ColumnAblation(3), num_classes=3, encoding="null")
    with pytest.raises(InputError, match="doubled"):
        other.load_state_dict(trained.state_dict())
    SmoothedNetwork(base("cnn"), ColumnAblation(3, stride=4), num_classes=3).load_state_dict(trained.state_dict())
    with pytest.raises(InputError, match="ColumnAblation 4"):
        save_network(export(trained), tmp_path / "network.safetensors", SmoothedNetwork, **recipe(size=4))


def test_a_network_that_was_trained_on_whole_images_can_be_started_from():
    plain, network = base("cnn"), SmoothedNetwork(base("cnn"), ColumnAblation(3), num_classes=3)
    nn.init.ones_(plain[0].weight)
    assert network.load_state_dict(plain.state_dict(), strict=False) == ([], [])
    assert (network.network[0].weight == 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "2 classes"),
        ({"threshold": 1.5}, "threshold"),
        ({"encoding": "grey"}, "encoding among"),
        ({"elements_at_once": 0}, "elements_at_once"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(InputError, match=message):
        SmoothedNetwork(nn.Identity(), ColumnAblation(2), **settings)


def test_unusable_inputs():
    network = SmoothedNetwork(base("cnn"), ColumnAblation(13), num_classes=3).eval()
    with pytest.raises(InputError, match="at most 12 columns"):
        network(images())
    network = SmoothedNetwork(base("cnn"), ColumnAblation(3), num_classes=4).eval()
    with pytest.raises(InputError, match="4 classes, got 3"):
        network(images())
    with pytest.raises(InputError, match="within images of 8 x 12"):
        network.certify(images(), 9)
    with pytest.raises(InputError, match=r"\(N, C, H, W\)"):
        network(images()[0])


def test_half_precision_is_refused():
    network = SmoothedNetwork(base("cnn"), ColumnAblation(3), num_classes=3).eval()
    with pytest.raises(InputError, match="float32 or float64"), torch.autocast("cpu", torch.bfloat16):
        network(images())
    with pytest.raises(InputError, match="bfloat16"):
        network.to(torch.bfloat16)(images().to(torch.bfloat16))
    assert network.double()(images().double()).dtype == torch.float64
