"""The audit of certificates against patches and in L1, from the attacks to the report and the command."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from linear_problem import linear_problem
from safetensors.numpy import load_file

from lipcert import auditing
from lipcert.attacks import Verified
from lipcert.audit import main
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import Budget, Stage, run_audit
from lipcert.harness.budget import budget_of
from lipcert.harness.ledger import on_grid, refuted
from lipcert.harness.planted_votes import (
    IN_L1,
    ON_PATCHES,
    certify_votes,
    planted_votes,
    tight_l1_vote,
    tight_patch_vote,
)
from lipcert.harness.voting import budget_on_votes, certify_patch_votes
from lipcert.report import render_html, report_document, report_schema

PATCHES, LEVELS = tight_patch_vote(), tight_l1_vote()
MUTANTS = [planted for planted in planted_votes() if planted.violated]


def audited(sound, attacks, certifier=certify_votes):
    samples = torch.arange(len(sound.images))
    return run_audit(sound.network, sound.images, samples=samples, attacks=attacks, certifier=certifier)


@pytest.fixture(scope="module")
def patches():
    return audited(PATCHES, ON_PATCHES)


@pytest.fixture(scope="module")
def levels():
    return audited(LEVELS, IN_L1)


def test_patch_certificates_stand_and_one_pixel_more_refutes_them(patches):
    assert patches.verdict == "pass"
    assert patches.norm == "patch"
    assert patches.grid == 1
    assert [row.radius for row in patches.rows] == [5, 4, 2, 1]
    assert all(row.distance == row.radius + 1 for row in patches.rows)
    assert not [warning for warning in patches.warnings if "Weak" in warning]


def test_l1_radii_stand_and_distances_are_whole_grey_levels(levels):
    assert levels.verdict == "pass"
    assert [round(row.radius * 255) for row in levels.rows] == [5, 6, 2]
    assert all(row.distance > row.radius for row in levels.rows)
    assert all(row.distance == round(row.distance * 255) / 255 for row in levels.rows)
    assert min(row.distance * 255 - row.radius * 255 for row in levels.rows) == pytest.approx(1)


@pytest.mark.parametrize("planted", MUTANTS, ids=[planted.name for planted in MUTANTS])
def test_false_certificates_are_refuted_with_evidence(planted):
    result = audited(planted, planted.attacks, planted.certifier)
    assert result.verdict == "fail"
    certified = planted.certifier(planted.network, planted.images.inputs())
    shown = {item.index: item for item in result.gallery}
    for row in result.violations:
        item = shown[row.index]
        image, adversarial = torch.from_numpy(item.image), torch.from_numpy(item.adversarial)
        assert planted.network(adversarial[None]).argmax().item() != certified.prediction[row.index]
        if result.norm == "patch":
            rows, columns = (adversarial != image).any(0).nonzero(as_tuple=True)
            sides = [int(each.max() - each.min()) + 1 if len(each) else 0 for each in (rows, columns)]
            assert max(sides) == row.distance <= row.radius
        else:
            levels = ((adversarial.double() - image.double()) * 255).round().abs().sum()
            assert levels.item() / 255 == row.distance <= row.radius


def test_at_least_three_kinds_of_false_certificates_are_planted():
    assert len({planted.name for planted in MUTANTS}) >= 3


def test_a_certificate_of_a_vote_is_refuted_at_its_radius_and_not_beyond():
    yes, radius = torch.tensor([True, True, True]), torch.tensor([4.0, 4.0, 0.0], dtype=torch.float64)
    found = Verified(yes, yes, torch.tensor([4.0, 5.0, 0.0], dtype=torch.float64), torch.tensor([1, 1, 1]))
    assert refuted(found, radius, arithmetic="float32", grid=1).tolist() == [True, False, False]
    assert refuted(found, radius, arithmetic="float32").tolist() == [False, False, False]


def test_what_is_between_grey_levels_refutes_nothing():
    inputs, yes = torch.zeros(1, 1, 1, 400), torch.tensor([True])
    verified = Verified(yes, yes, torch.tensor([0.001], dtype=torch.float64), torch.tensor([1]))
    many = torch.full_like(inputs, 3 / 255)
    assert on_grid(verified, inputs, many, 255).distance.item() == 1200 / 255
    assert not on_grid(verified, inputs, many + 1e-4, 255).success.any()


def test_the_report_says_pixels_and_satisfies_the_schema(patches, levels):
    for result in (patches, levels):
        document = json.loads(json.dumps(report_document(result)))
        jsonschema.validate(document, report_schema())
        assert document["certificates"]["grid"] == result.grid
    document, page = report_document(patches), render_html(patches)
    assert document["lipschitz"]["upper_bound"] is None
    assert document["power"]["share_refuted_at_one_more"] == 1
    assert document["power"]["strength"] == "strong"
    assert document["certificates"]["certified_accuracy"]["5"] == 0.25
    assert "certified radius (patch side in pixels)" in page
    assert "sides of square patches, in pixels" in page
    assert "one pixel larger" in page
    assert "Lipschitz bound" not in page
    assert "L1, in units of the input" in render_html(levels)


def test_without_a_slope_audits_are_as_weak_as_they_are():
    blind = audited(PATCHES, [replace(ON_PATCHES[0], last=0)])
    assert blind.verdict == "pass"
    assert any(
        warning.startswith("Weak audit: radii too large by one step of 1 would not") for warning in blind.warnings
    )
    assert report_document(blind)["power"]["strength"] == "weak"


def test_every_budget_attacks_certified_sides_and_those_above():
    for name in ("quick", "standard", "thorough", 60.0):
        for norm in ("patch", "l1"):
            budget = budget_on_votes(budget_of(name, epsilons=[1.0], norm=norm), grid=255)
            assert all(stage.attack.of_views for stage in (*budget.stages, *budget.again))
            names = {stage.attack.name for stage in budget.stages}
            assert names >= ({"vote-patch"} if norm == "patch" else {"apgd-l1", "elastic-net", "pointwise"})
        assert "vote-patch" not in {stage.attack.name for stage in budget_of(name, epsilons=[1.0], norm="l2").stages}


def test_an_asked_patch_is_certified_by_as_few_votes_as_it_takes():
    inputs = PATCHES.images.inputs()
    found = certify_patch_votes(PATCHES.network, inputs, patch=4)
    assert found.radius.tolist() == [4, 4, 0, 0]
    assert torch.equal(found.prediction, PATCHES.network(inputs).argmax(1))


def test_images_that_are_not_of_8_bits_are_refused():
    class Between(ImageSet):
        def inputs(self, indices=None):
            return super().inputs(indices) * 0.5

    images = Between(LEVELS.images.images, LEVELS.images.labels)
    with pytest.raises(InputError, match="8-bit images"):
        run_audit(LEVELS.network, images, certifier=certify_votes, budget=Budget("one", (Stage(IN_L1[0]),)))


class TinyData:
    name, class_names = "tiny", ("green", "red", "blue")

    def __init__(self, images):
        self.images = images

    def split(self, which):
        assert which == "test"
        return self.images


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory whose contents are handed over without reading."""
    directory = tmp_path / "runs" / "vote"
    directory.mkdir(parents=True)
    loaded = SimpleNamespace(
        directory=directory, network=PATCHES.network, data=TinyData(PATCHES.images), network_sha256="f" * 64
    )
    monkeypatch.setattr(auditing, "load_run", lambda path: loaded)
    return loaded


def one_line(capsys):
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lipcert audit: error: ")
    return line


def test_the_command_audits_the_largest_patches_and_an_asked_one(run, capsys):
    assert main([str(run.directory), "--samples", "4", "--attacks", "vote-patch"]) == 0
    assert "PASS, every attacked certificate stood: 4 of 4 attacked" in capsys.readouterr().out
    written = json.loads((run.directory / "audit" / "report.json").read_text())
    assert set(written["certificates"]["certified_accuracy"]) == {"1", "2", "3", "4", "5", "7", "10"}
    assert main([str(run.directory), "--samples", "4", "--attacks", "vote-patch", "--patch", "4"]) == 0
    written = json.loads((run.directory / "audit" / "report.json").read_text())
    assert written["certificates"]["certified_accuracy"] == {"4": 0.5}
    rows = (run.directory / "audit" / "samples.csv").read_text().splitlines()
    assert rows[1].startswith("0,0,0,4.0,")
    capsys.readouterr()


def test_a_false_certificate_makes_the_command_fail(run, capsys, monkeypatch):
    monkeypatch.setattr(auditing, "vote_certifier", lambda network, **options: MUTANTS[0].certifier)
    assert main([str(run.directory), "--samples", "4", "--attacks", "vote-patch"]) == 1
    assert "FAIL, certificates violated" in capsys.readouterr().out
    kept = load_file(run.directory / "audit" / "adversarial.safetensors")
    assert len(kept["adversarial"]) >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patch", "10"], "expected a patch within images of 9 x 12, got 10 x 10"),
        (["--patch", "0"], "expected --patch >= 1, got 0"),
        (["--patch", "five"], "expected a whole number for --patch, got five"),
        (["--attacks", "carlini-wagner-l2"], "expected attacks that search in patch norm"),
        (["--arithmetic", "real"], "expected float32 arithmetic for a network that votes"),
        (["--rejects"], "expected no detector beside a vote"),
        (["--self-test"], "expected --self-test alone"),
    ],
)
def test_what_makes_no_sense_for_votes_is_one_line(run, capsys, options, message):
    assert main([str(run.directory), *options]) == 2
    assert message in one_line(capsys)


def test_a_patch_for_logits_is_one_line(run, capsys):
    network, pixels, prediction, _ = linear_problem(samples=4)
    run.network, run.data = network, TinyData(ImageSet(pixels, prediction))
    assert main([str(run.directory), "--patch", "2"]) == 2
    assert "expected a network that votes over ablated views for --patch, got Sequential" in one_line(capsys)
