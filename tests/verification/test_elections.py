"""Reports of votes: every kind of view is voted on again, and what was altered is found."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from audited_run import edit_report, edit_rows, wrong
from safetensors.torch import load_file, save_file
from voting_run import CLASSES, RECIPES, SIZE, audit_votes, make_voting_run

from lipcert import certificates, verify_report
from lipcert.certificates import (
    BlockAblation,
    ColumnAblation,
    ColumnAndRowAblation,
    RowAblation,
    l1_certificate,
    largest_certified_patch,
    patch_certificate,
)
from lipcert.errors import InputError
from lipcert.harness.voting import certify_patch_votes
from lipcert.verification.recount import PatchRecount, l1_recount
from lipcert.verification.views import windows_of
from lipcert.verification.votes import ballots_of
from lipcert.verify import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs with their audits by the names of their kinds, which no test changes."""
    made = {}

    def run_of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("runs") / "votes"
            make_voting_run(made[name], name)
        return made[name]

    return run_of


@pytest.fixture
def copied(finished, tmp_path):
    """Copies of them to spoil; their data stay where they are."""
    return lambda name: Path(shutil.copytree(finished(name), tmp_path / "votes"))


@pytest.mark.parametrize("name", RECIPES)
def test_an_untouched_report_stands(finished, capsys, name):
    assert main([str(finished(name) / "audit")]) == 0
    lines = capsys.readouterr().out.splitlines()
    checks = ["schema", "weights", "data", "rows", "labels", "figures", "violations", "votes", "predictions", "radii"]
    assert [line.split()[0] for line in lines] == [*checks, "examples", "verdict"]
    assert lines[-1] == "verdict     every radius stands"


@pytest.mark.parametrize("name", RECIPES)
def test_every_certificate_is_the_largest(finished, name):
    """The audit's count is exact, and so is this one: neither leaves a step to the other."""
    [text] = [finding.text for finding in verify_report(finished(name) / "audit") if finding.name == "radii"]
    certified, largest = (int(word) for word in text.replace(";", "").split() if word.isdecimal())
    assert certified == largest > 0


def change_prediction(rows):
    rows[-1]["prediction"] = str((int(rows[-1]["prediction"]) + 1) % CLASSES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_too_much_and_another_class_are_found(copied, name):
    run = copied(name)
    grid = 255 if name == "splits" else 1
    rows = []
    edit_rows(run, rows.extend)
    place = next(int(row["index"]) for row in rows if float(row["radius"]) > 0 and not row["distance"])
    edit_rows(
        run, lambda rows: rows[place].update(radius=repr((round(float(rows[place]["radius"]) * grid) + 1) / grid))
    )
    found = wrong(run)
    assert found["radii"].startswith(f"sample {place} has radius")
    assert "predictions" not in found
    edit_rows(run, change_prediction)
    assert wrong(run)["predictions"].startswith("sample 39 has prediction")


@pytest.mark.parametrize("radius", ["0.5", "8.5", "1e+300"])
def test_radii_that_no_vote_gives_are_found(copied, radius):
    run = copied("columns")
    rows = []
    edit_rows(run, rows.extend)
    place = next(int(row["index"]) for row in rows if float(row["radius"]) >= 1 and not row["distance"])
    edit_rows(run, lambda rows: rows[place].update(radius=radius))
    assert wrong(run)["radii"] == f"sample {place} has radius {radius}, which its votes do not give"


def last_of_ties(network, inputs):
    """Certificates of a vote that elects the last of several classes with the most votes."""
    votes = CLASSES - 1 - network.votes(inputs)
    if hasattr(network, "noise"):
        found = l1_certificate(votes, network.noise, num_classes=CLASSES)
    else:
        found = patch_certificate(votes, network.ablation, SIZE, num_classes=CLASSES)
    return replace(found, prediction=CLASSES - 1 - found.prediction)


def ties_won(network, inputs):
    """Sides as if the elected class were the first one."""
    true, votes = network.certificate(inputs), network.votes(inputs)
    elected = true.prediction[:, None]
    exchanged = torch.where(votes == elected, 0, torch.where(votes == 0, elected, votes))
    return replace(
        patch_certificate(exchanged, network.ablation, SIZE, num_classes=CLASSES), prediction=true.prediction
    )


def narrower(network, inputs):
    return patch_certificate(network.votes(inputs), RowAblation(1), SIZE, num_classes=CLASSES)


def doubled(network, inputs):
    true = network.certificate(inputs)
    return replace(true, radius=2 * true.radius)


MUTANTS = {
    "the last of ties, patches": ("columns", last_of_ties, "predictions"),
    "the last of ties, L1": ("splits", last_of_ties, "radii"),
    "ties won": ("columns", ties_won, "radii"),
    "one affected view too few": ("rows with a null", narrower, "radii"),
    "twice as large": ("splits", doubled, "radii"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_certificates_by_a_false_rule_are_found(copied, mutant):
    name, certifier, check = MUTANTS[mutant]
    run = copied(name)
    audit_votes(run, certifier)
    assert check in wrong(run)


def test_certificates_of_one_size_stand(copied):
    run = copied("columns")
    audit_votes(run, lambda network, inputs: certify_patch_votes(network, inputs, patch=1))
    found = {finding.name: finding for finding in verify_report(run / "audit")}
    assert all(finding.stands for finding in found.values())
    certified, largest = (int(word) for word in found["radii"].text.replace(";", "").split() if word.isdecimal())
    assert 0 < largest < certified


def edit_examples(run, change):
    path = run / "audit" / "adversarial.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def undo(tensors):
    tensors["adversarial"][0] = tensors["inputs"][0]


EXAMPLES = {
    "no change": (undo, ["is 0.0 away", "becomes"]),
    "another image": (lambda tensors: tensors["inputs"][0].fill_(1), ["of another image"]),
    "out of range": (lambda tensors: tensors["adversarial"][0].fill_(2), ["is no image in [0, 1]"]),
    "another sample": (lambda tensors: tensors["index"][0].fill_(900), ["sample 900, which no row has"]),
}


@pytest.mark.parametrize("name", ["columns", "splits"])
@pytest.mark.parametrize("case", EXAMPLES)
def test_altered_examples_are_found(copied, name, case):
    change, said = EXAMPLES[case]
    run = copied(name)
    edit_examples(run, change)
    assert all(text in wrong(run)["examples"] for text in said)


def test_an_example_between_grey_levels_is_found(copied):
    run = copied("splits")
    edit_examples(run, lambda tensors: tensors["adversarial"][0].fill_(0.5))
    assert "no image of 8 bits" in wrong(run)["examples"]


def test_an_example_of_another_class_is_found(copied):
    run = copied("columns")
    rows = []
    edit_rows(run, rows.extend)
    row = next(row for row in rows if row["distance"])
    left = {0, 1, 2} - {int(row["prediction"]), int(row["adversarial_prediction"])}
    edit_rows(run, lambda rows: rows[int(row["index"])].update(adversarial_prediction=str(*left)))
    assert f"becomes {row['adversarial_prediction']}, its row says {str(*left)}" in wrong(run)["examples"]


def test_a_certificate_that_is_refuted_at_its_radius_is_a_violation(copied):
    run = copied("columns")
    rows = []
    edit_rows(run, rows.extend)
    place = next(int(row["index"]) for row in rows if row["distance"] and float(row["radius"]) > 0)
    radius = rows[place]["radius"]
    edit_rows(run, lambda rows: rows[place].update(distance=radius, ratio="1.0"))
    assert f"the rows refute [{place}]" in wrong(run)["violations"]


def test_another_arithmetic_or_norm_is_not_known(copied):
    run = copied("columns")
    edit_report(run, lambda document: document["certificates"].update(norm="l1"))
    found = {finding.name: finding for finding in verify_report(run / "audit")}
    assert found["radii"].stands is None
    assert "expected views that certify in norm l1, got SmoothedNetwork" in found["radii"].text
    edit_report(run, lambda document: document["certificates"].update(norm="patch", arithmetic="real"))
    with pytest.raises(InputError, match="votes in float32 arithmetic"):
        verify_report(run / "audit")


def test_what_hangs_on_equal_logits_is_neither_right_nor_wrong(tmp_path, capsys):
    make_voting_run(tmp_path / "votes", "columns", gain=0.0)
    assert main([str(tmp_path / "votes" / "audit")]) == 0
    assert "480 of them too close for float32 to tell" in capsys.readouterr().out
    edit_rows(tmp_path / "votes", lambda rows: (change_prediction(rows), rows[-1].update(radius="5.0")))
    found = {finding.name: finding for finding in verify_report(tmp_path / "votes" / "audit")}
    for name in ("predictions", "radii"):
        assert found[name].stands is None
        assert found[name].text.endswith("hang on views that float32 cannot tell apart")


class Given:
    """Views whose logits are given: ``(N, V, K)``; those that are passed alone have others."""

    def __init__(self, together, alone):
        self.together, self.alone = together, alone
        self.count, self.numbers = together.shape[1], 1

    def logits(self, inputs, image, view):
        return (self.alone if len(image) == 1 else self.together)[image, view]


def test_close_views_are_passed_alone_and_may_stay_open():
    together = torch.tensor([[[1.0, 0.0], [1.0, 1.0 + 1e-5], [1.0, 1.0 - 1e-5], [0.0, 1.0]]])
    alone = torch.tensor([[[0.0, 1.0], [1.0, 1.0 - 2e-5], [1.0, 1.0 + 1e-7], [1.0, 0.0]]])
    found = ballots_of(Given(together, alone), torch.zeros(1, 1, 1, 1), threshold=None)
    assert found.sure[0].tolist() == [[True, False], [True, False], [False, False], [False, True]]
    assert found.possible[0].tolist() == [[True, False], [True, False], [True, True], [False, True]]
    assert found.cast[0].tolist() == [[True, False], [True, False], [False, True], [False, True]]
    assert found.undecided == 1


KINDS = [ColumnAblation, RowAblation, ColumnAndRowAblation, BlockAblation]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_those_of_the_network(kind):
    for size, stride, wrap in itertools.product((1, 3, (2, 4)), (1, 2, (3, 2)), (True, False)):
        ablation = kind(size, stride, wrap)
        assert windows_of(ablation, 7, 9) == [tuple(window) for window in ablation.windows(7, 9).tolist()]


def test_patches_are_counted_as_an_adversary_of_every_vote_would():
    """Six views in a row of six pixels: every place, and every vote of the views that see it."""
    masks = ColumnAblation(2).masks(1, 6)
    generator = torch.Generator().manual_seed(0)
    votes = torch.randint(3, (30, 6), generator=generator)
    ballots = F.one_hot(votes, 3).bool()
    elected = ballots.sum(1).argmax(1)
    own = votes == elected[:, None]
    count = PatchRecount(masks)
    stays = count(own, ballots, elected, torch.ones(30, dtype=torch.int64))
    for image in range(30):
        turned = False
        for place in range(6):
            seen = masks[:, 0, place].nonzero().flatten()
            for choice in itertools.product(range(3), repeat=len(seen)):
                changed = votes[image].clone()
                changed[seen] = torch.tensor(choice)
                turned |= bool(changed.bincount(minlength=3).argmax() != elected[image])
        assert bool(stays[image]) != turned


def test_larger_patches_are_those_of_the_certificates():
    ablation, generator = ColumnAndRowAblation((2, 1)), torch.Generator().manual_seed(1)
    for _ in range(20):
        votes = torch.rand(4, len(ablation.windows(6, 7)), 3, generator=generator) < torch.tensor([0.8, 0.3, 0.2])
        elected = votes.sum(1).argmax(1)
        own = votes[torch.arange(4), :, elected]
        side = largest_certified_patch(votes, ablation, (6, 7))
        count = PatchRecount(ablation.masks(6, 7))
        assert bool(count(own, votes, elected, side).all())
        assert not bool(count(own, votes, elected, side + 1).any())


def test_grey_levels_are_counted_as_an_adversary_of_every_view_would():
    for votes in itertools.product(range(3), repeat=5):
        ballots = F.one_hot(torch.tensor([votes]), 3).bool()
        elected = ballots.sum(1).argmax(1)
        radius = round(
            l1_certificate(torch.tensor([votes]), certificates.SplittingNoise(5), num_classes=3).radius.item() * 255
        )
        own = ballots[..., int(elected)]
        assert [bool(l1_recount(own, ballots, elected, torch.tensor([step]))) for step in (radius, radius + 1)] == [
            True,
            False,
        ]
